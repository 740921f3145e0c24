"""Large products are those of float64, with any strides, to second derivatives, and none is done by plain loops."""

import time

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from covarium.layers.linear import Linear
from covarium.ops.dense import LARGE, RECORDED, dense, outer, recorded_product

E, I, O = 300, 256, 250


def strided(rows: int, columns: int, kind: str) -> Tensor:
    torch.manual_seed(rows)
    if kind == "rows":
        return torch.randn(rows, columns)
    if kind == "columns":
        return torch.randn(columns, rows).T
    return torch.randn(rows, 2 * columns)[:, :columns] if kind == "cut" else torch.randn(columns, 2 * rows)[:, :rows].T


@pytest.mark.parametrize("of_x", ["rows", "columns", "cut", "cut columns"])
@pytest.mark.parametrize("of_weight", ["rows", "columns", "cut", "cut columns"])
def test_values_and_derivatives(of_x: str, of_weight: str) -> None:
    assert E * I * O >= max(LARGE, RECORDED)
    given = [strided(E, I, of_x), strided(O, I, of_weight), torch.randn(O)]

    def found(dtype: torch.dtype) -> list[Tensor]:
        x, w, b = (t.detach().to(dtype).requires_grad_() for t in given)
        y = dense(x, w, b)
        first = torch.autograd.grad(y.sin().sum(), (x, w, b), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, w, b))
        with torch.no_grad():
            assert torch.equal(dense(x, w, b), y)
        return [y, *first, *second]

    for ours, exact in zip(found(torch.float32), found(torch.float64), strict=True):
        assert (ours - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("of_weight", ["rows", "columns", "cut", "cut columns"])
def test_no_strides_are_slow(of_weight: str) -> None:
    """Plain loops take a hundred times as long."""
    x, w = strided(E, I, "rows"), strided(O, I, of_weight)

    def seconds(product: object) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            product(x, w)  # type: ignore[operator]
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(dense) < 10 * seconds(torch.nn.functional.linear)


@pytest.mark.parametrize("bias", [torch.randn(2 * O)[::2], torch.randn(O, 3)[:, 1], torch.randn(1).expand(O)])
def test_any_strides_of_the_bias(bias: Tensor) -> None:
    x, w = strided(E, I, "rows"), strided(O, I, "rows")
    torch.testing.assert_close(dense(x, w, bias), torch.nn.functional.linear(x, w, bias), rtol=1e-4, atol=1e-4)


def test_rounded_products_stay_rounded() -> None:
    x, w = strided(E, I, "rows"), strided(O, I, "rows")
    with torch.autocast("cpu", torch.bfloat16):
        assert dense(x, w).dtype == torch.bfloat16


@pytest.mark.parametrize("of_g", ["rows", "columns", "cut", "cut columns"])
@pytest.mark.parametrize("of_x", ["rows", "columns", "cut", "cut columns"])
def test_gradients_of_a_matrix(of_g: str, of_x: str) -> None:
    given = [strided(E, O, of_g), strided(E, I, of_x)]

    def found(dtype: torch.dtype) -> list[Tensor]:
        g, x = (t.detach().to(dtype).requires_grad_() for t in given)
        h = outer(g, x)
        first = torch.autograd.grad((h / 16).sin().sum(), (g, x), create_graph=True)
        return [h, *first, *torch.autograd.grad(sum(t.square().sum() for t in first), (g, x))]

    for ours, exact in zip(found(torch.float32), found(torch.float64), strict=True):
        assert (ours - exact).norm() <= 1e-5 * exact.norm()


def test_more_dimensions_and_parts() -> None:
    """A layer of features [N, rows, channels], some of the rows, as torch's."""
    layer, x = Linear(I, O), torch.randn(E, 5, I)
    plain = torch.nn.Linear(I, O)
    plain.load_state_dict(layer.state_dict())
    for part in (x, x[:, 1:4], x[:, 0]):
        answers = []
        for one in (layer, plain):
            p = part.detach().requires_grad_()
            y = one(p)
            answers.append([y, *torch.autograd.grad(y.square().sum(), [p, *one.parameters()])])
        for ours, theirs in zip(*answers, strict=True):
            assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("of_weight", ["rows", "columns", "cut"])
def test_the_product_of_compiled_graphs(of_weight: str) -> None:
    """Its shapes, its derivatives and theirs are those that torch expects."""
    x, w = torch.randn(6, 3, 16, requires_grad=True), strided(24, 16, of_weight).requires_grad_()
    torch.library.opcheck(recorded_product, (x, w, torch.randn(24, requires_grad=True)))
    torch.library.opcheck(recorded_product, (x.detach(), w, None))
    y = recorded_product(x, w, None)
    expected = torch.nn.functional.linear(x, w)
    torch.testing.assert_close(y, expected)
    for ours, theirs in zip(*(second((x, w), t) for t in (y, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def second(inputs: tuple[Tensor, ...], y: Tensor) -> tuple[Tensor, ...]:
    first = torch.autograd.grad((y / 4).sin().sum(), inputs, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)


def test_a_graph_for_any_number_of_rows_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covarium.ops.dense.LARGE", 2**20)
    monkeypatch.setattr("covarium.ops.dense.RECORDED", 2**22)
    x, w, small = torch.randn(300, 64), torch.randn(64, 64), torch.randn(8, 64)
    mode = FakeTensorMode(shape_env=ShapeEnv())
    rows = StatelessSymbolicContext([DimDynamic.DYNAMIC, DimDynamic.STATIC])
    given = [mode.from_tensor(x, symbolic_context=rows)]
    given += [mode.from_tensor(t, static_shapes=True) for t in (w, small)]

    def both(x: Tensor, w: Tensor, small: Tensor) -> Tensor:
        return dense(x, w).sum(1) + dense(x, small).sum(1)

    graph = make_fx(both)(*given)
    assert sum(node.target is torch.ops.covarium.product.default for node in graph.graph.nodes) == 1
    more = torch.randn(7, 64)
    torch.testing.assert_close(graph(more, w, small), both(more, w, small), rtol=1e-4, atol=1e-4)


def test_derivatives_that_it_has_no_rules_for_are_torchs() -> None:
    """Forward mode, transforms of functions, many gradients at once, one vector, torch's own compiler."""
    x, w = strided(E, I, "rows"), strided(O, I, "rows").requires_grad_()
    linear = torch.nn.functional.linear
    for weight in (w, w.detach()):
        value, moved = torch.func.jvp(lambda t, weight=weight: dense(t, weight), (x,), (x,))
        torch.testing.assert_close(moved, value)
        found, expected = (
            torch.func.grad(lambda t, f=f, weight=weight: f(t, weight).square().sum())(x) for f in (dense, linear)
        )
        torch.testing.assert_close(found, expected)
        several = torch.func.vmap(lambda t, weight=weight: dense(t, weight))(x[None])
        torch.testing.assert_close(several[0], linear(x, weight))
    with forward_ad.dual_level():
        moved = forward_ad.unpack_dual(dense(forward_ad.make_dual(x, x), w)).tangent
    torch.testing.assert_close(moved, linear(x, w))
    p, g = x.clone().requires_grad_(), torch.randn(2, E, O)
    (found,) = torch.autograd.grad(dense(p, w), p, g, is_grads_batched=True)
    torch.testing.assert_close(found, g @ w, rtol=1e-4, atol=1e-4)
    square = torch.randn(5000, 5000)
    torch.testing.assert_close(dense(square[0].requires_grad_(), square), linear(square[0], square))
    compiled = torch.compile(lambda t: dense(t, w).sin(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), dense(x, w).sin(), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused_by_torch() -> None:
    x, w = strided(E, I, "rows"), strided(O, I, "rows")
    for weight, bias in ((w[:, :-1].contiguous(), None), (w, torch.ones(O, device="meta")), (w, torch.ones(O - 1))):
        with pytest.raises(RuntimeError, match=r"shapes cannot be|device|must match"):
            dense(x, weight, bias)
    torch.testing.assert_close(dense(x, w, torch.ones(1)), dense(x, w) + 1, rtol=1e-4, atol=1e-4)


def test_only_what_a_derivative_reads_is_kept() -> None:
    x, w = strided(E, I, "rows").requires_grad_(), strided(O, I, "rows")
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        dense(x, w)
        dense(x.detach(), w.clone().requires_grad_())
    assert [t.shape for t in kept] == [w.shape, x.shape]

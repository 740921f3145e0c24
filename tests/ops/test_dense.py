"""Large products are those of float64, with any strides, to second derivatives, and none is done by plain loops."""

import time

import pytest
import torch
from torch import Tensor

from covarium.layers.linear import Linear
from covarium.ops.dense import LARGE, RECORDED, dense, outer

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

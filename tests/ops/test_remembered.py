"""Products whose results are remembered are the products, to second derivatives, and are not made again."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from covarium.ops.gather import scatter_sum
from covarium.ops.remembered import Place, Results, complex_product, product
from covarium.ops.tiled import Tile, tiled, tiles_of

EDGES, INPUTS, OUTPUTS = 12, 5, 4
PAIRS = torch.stack([torch.arange(EDGES) % 4, torch.arange(EDGES) // 3])


def given(complex_: bool) -> list[Tensor]:
    torch.manual_seed(0)
    x = torch.randn(EDGES, *([2] if complex_ else []), INPUTS, dtype=torch.float64)
    matrix = torch.randn(OUTPUTS * (2 if complex_ else 1), INPUTS, dtype=torch.float64)
    return [t.requires_grad_() for t in (x, matrix)]


def any_product(x: Tensor, w: Tensor, bias: Tensor | None = None, place: Place | None = None) -> Tensor:
    """[E, I] with [O, I], or [E, 2, I] with [2 O, I]."""
    if x.dim() == 2:
        return product(x, w, bias, place)
    return torch.stack(complex_product(*x.unbind(1), w, place), dim=1)


@pytest.mark.parametrize("complex_", [False, True])
def test_value_and_derivatives_are_those_of_the_definition(complex_: bool) -> None:
    x, w = given(complex_)
    expected = x @ w.T
    if complex_:
        y = torch.view_as_complex(x.movedim(1, 2).contiguous()) @ torch.complex(*w.chunk(2)).T
        expected = torch.view_as_real(y).movedim(2, 1)
    place = Place(Results(1), 0)
    for where in (None, place, place):
        torch.testing.assert_close(any_product(x, w, place=where), expected, rtol=1e-13, atol=1e-14)

    def fresh(x: Tensor, w: Tensor) -> Tensor:
        return any_product(x, w, place=Place(Results(1), 0))

    def first(x: Tensor, w: Tensor) -> Tensor:
        (g,) = torch.autograd.grad(any_product(x, w).sin().sum(), w, create_graph=True)
        return g

    for function in (fresh, any_product):
        assert gradcheck(function, (x, w))
        assert gradgradcheck(function, (x, w))
    assert gradgradcheck(first, (x, w))


def total(remember: int, x: Tensor, w: Tensor) -> Tensor:
    """A sum over edges in tiles, of two products."""

    def messages(tile: Tile, w: Tensor, x: Tensor) -> Tensor:
        places = [Place(tile.results, k) if tile.remembered > k else None for k in range(2)]
        hidden = any_product(x.sin(), w, place=places[0]).square()
        transposed = w.T if x.dim() == 2 else torch.cat([m.T for m in w.chunk(2)])
        back = any_product(hidden, transposed, w[0] if x.dim() == 2 else None, place=places[1])
        return scatter_sum(back.tanh(), tile.row, tile.last - tile.first)

    return tiled(messages, tiles_of(PAIRS, 4, 6, remember=remember), whole=[w], edges=[x])


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("remember", [6, 12, 18, 24])
def test_tiles_that_remember_are_the_sum(complex_: bool, remember: int) -> None:
    tensors = given(complex_)
    torch.testing.assert_close(total(remember, *tensors), total(0, *tensors), rtol=0, atol=0)
    assert gradcheck(lambda *t: total(remember, *t), tensors)
    assert gradgradcheck(lambda *t: total(remember, *t), tensors)


@pytest.mark.parametrize("complex_", [False, True])
def test_several_derivatives_of_one_sum_are_not_mixed_up(complex_: bool) -> None:
    """Each with other numbers, to be differentiated again, after another, and with the graph kept."""
    x, w = given(complex_)
    weights = [torch.randn_like(total(0, x, w)) for _ in range(3)]

    def found(remember: int) -> list[Tensor]:
        sums = total(remember, x, w)
        first = [torch.autograd.grad(sums, x, v, create_graph=True)[0] for v in weights]
        plain = torch.autograd.grad(sums, x, weights[0] + 1, retain_graph=True)[0]
        second = [torch.autograd.grad(f.square().sum(), [x, w], retain_graph=True) for f in (*first, first[0])]
        return [*first, plain, *(g for many in second for g in many)]

    for ours, theirs in zip(found(24), found(0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("second", "passes"), [("", 1), ("forces", 3), ("forces and energy", 4)])
def test_results_are_not_made_again(second: str, passes: int) -> None:
    """What is saved is exactly the products of the passes that would make them again."""
    tensors = given(False)

    def operations(remember: int) -> int:
        with FlopCounterMode(display=False) as counter:
            sums = total(remember, *tensors).sum()
            if second:
                (force,) = torch.autograd.grad(sums, tensors[0], create_graph=True)
                sums = force.square().sum() + (sums if "energy" in second else 0.0)
            sums.backward()
        return counter.get_total_flops()

    once = 2 * EDGES * INPUTS * OUTPUTS
    # values in the gradient; or in forces and their derivative, and forces in the latter; and in the gradient of energy
    assert operations(0) - operations(24) == 2 * once * passes
    assert operations(0) - operations(12) == once * passes

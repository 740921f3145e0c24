"""Sums made tile by tile are the sums made at once, through second derivatives; a third is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from covarium.errors import CovariumError
from covarium.ops.gather import scatter_sum
from covarium.ops.tiled import Tile, tiled, tiles_of


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=12), st.integers(1, 9))
def test_tiles_cover_all_edges_and_end_at_targets(degrees: list[int], size: int) -> None:
    target = torch.repeat_interleave(torch.arange(len(degrees)), torch.tensor(degrees, dtype=torch.int64))
    tiles = tiles_of(torch.stack([target, target]), len(degrees), size)
    ends = [(0, 0), *((t.last_edge, t.last) for t in tiles)]
    assert [(t.first_edge, t.first) for t in tiles] == ends[:-1]
    assert ends[-1] == (sum(degrees), len(degrees))
    for t in tiles:
        assert torch.equal(target[t.first_edge : t.last_edge], target[(target >= t.first) & (target < t.last)])
        assert t.last_edge - t.first_edge <= size or t.last - t.first == 1


TARGET = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3, 3])
SOURCE = torch.tensor([1, 2, 3, 0, 1, 0, 1, 2, 2])
PAIRS = torch.stack([SOURCE, TARGET])
TILES = tiles_of(PAIRS, 5, 4)


def messages(tile: Tile, weight: Tensor, x: Tensor, edge: Tensor) -> Tensor:
    pair = torch.tanh(x[tile.j] @ weight) * edge.sin() + x[tile.i] * edge
    return scatter_sum(pair, tile.row, tile.last - tile.first)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 2), (5, 2), (9, 2)))


def by_tiles(weight: Tensor, x: Tensor, edge: Tensor) -> Tensor:
    return tiled(messages, TILES, whole=[weight], atoms=[x], edges=[edge])


def test_value_and_derivatives() -> None:
    assert len(TILES) == 3
    (everything,) = tiles_of(PAIRS, 5, 9)
    weight, x, edge = inputs()
    at_once = messages(everything, weight, x[everything.atoms], edge)
    assert torch.equal(by_tiles(*inputs()), at_once)
    assert gradcheck(by_tiles, inputs())
    assert gradgradcheck(by_tiles, inputs())


@settings(max_examples=8, deadline=None)
@given(st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
def test_only_some_inputs_need_gradients(needs: list[bool]) -> None:
    tensors = [t.detach().requires_grad_(need) for t, need in zip(inputs(), needs, strict=True)]
    assert gradcheck(by_tiles, tuple(tensors))
    assert gradgradcheck(by_tiles, tuple(tensors))


def test_no_gradient_of_weights_is_computed_where_none_is_asked_for() -> None:
    """``needs_input_grad`` would say that the weight needs one."""
    weight, x, edge = inputs()
    asked: list[bool] = []

    def watched(tile: Tile, *tensors: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            asked.append(tensors[0].requires_grad)
        return messages(tile, *tensors)

    def force() -> Tensor:
        total = tiled(watched, TILES, whole=[weight], atoms=[2 * x], edges=[edge]).sin().sum()
        return torch.autograd.grad(total, x, create_graph=True)[0]

    force()
    assert asked == [False] * len(TILES)
    force().square().sum().backward()
    assert asked[-len(TILES) :] == [True] * len(TILES)
    plain = messages(tiles_of(PAIRS, 5, 9)[0], weight, 2 * x[tiles_of(PAIRS, 5, 9)[0].atoms], edge).sin().sum()
    (expected,) = torch.autograd.grad(plain, x, create_graph=True)
    (gradient,) = torch.autograd.grad(expected.square().sum(), weight)
    torch.testing.assert_close(weight.grad, gradient, rtol=1e-12, atol=1e-14)


def test_a_third_derivative_is_refused() -> None:
    tensors = inputs()
    for differentiate in (
        lambda value: value.backward(),
        lambda value: torch.autograd.grad(value, tensors[1]),
        lambda value: torch.autograd.grad(value, tensors[0]),
    ):
        (first,) = torch.autograd.grad(by_tiles(*tensors).square().sum(), tensors[1], create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), tensors[1], create_graph=True)
        with pytest.raises(RuntimeError, match="third derivatives of edges in tiles"):
            differentiate(second.sum())


def test_a_tensor_of_others_is_refused_instead_of_forgotten() -> None:
    other = torch.ones(1, dtype=torch.float64, requires_grad=True)
    given = inputs()

    def function(tile: Tile, *parts: Tensor) -> Tensor:
        return messages(tile, *parts) * other

    value = tiled(function, TILES, whole=given[:1], atoms=given[1:2], edges=given[2:])
    with pytest.raises(CovariumError, match="is no parameter of it"):
        value.sum().backward()

"""A sum over edges made tile by tile, which stores nothing of the edges between its passes.

What is stored is what goes in and what comes out; each pass makes the inside of one tile again. Exact through first
and second derivatives: the gradient is an operation of its own whose derivative is made tile by tile too (torch's
checkpoint cannot be differentiated twice this way). A third derivative is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Tile(NamedTuple):
    """Edges ``first_edge`` to ``last_edge`` (exclusive), all edges of the target atoms ``first`` to ``last``."""

    first_edge: int
    last_edge: int
    first: int
    last: int


class Call(NamedTuple):
    """The function, its tiles, and how many of its tensors are read whole."""

    function: Callable[..., Tensor]
    tiles: Sequence[Tile]
    whole: int


def tiled(
    function: Callable[..., Tensor], tiles: Sequence[Tile], whole: Sequence[Tensor], sliced: Sequence[Tensor]
) -> Tensor:
    """Rows of all tiles, [N, …], as ``function`` gives them.

    Args:
        function: ``function(tile, *whole, *parts)`` with the rows of ``sliced`` that belong to the tile's edges; it
            must be the same at every call, so random numbers are drawn outside, and must read every tensor that is
            to get a gradient from its arguments.
        tiles: in order, covering all edges and all target atoms.
        whole: tensors that every tile reads: features of atoms, parameters.
        sliced: tensors [E, …] of which a tile reads its own rows.

    Raises:
        RuntimeError: when differentiated a third time.
    """
    return _Tiled.apply(Call(function, tiles, len(whole)), *whole, *sliced)


def _parts(call: Call, tile: Tile, tensors: Sequence[Tensor]) -> list[Tensor]:
    rows = slice(tile.first_edge, tile.last_edge)
    return [t if k < call.whole else t[rows] for k, t in enumerate(tensors)]


def _leaves(call: Call, tile: Tile, tensors: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor]:
    return [p.detach().requires_grad_(need) for p, need in zip(_parts(call, tile, tensors), needs, strict=True)]


class _Sums:
    """Gradients of the tensors, gathered from the tiles: whole ones add up, sliced ones are put in their rows."""

    def __init__(self, call: Call, tensors: Sequence[Tensor], needs: Sequence[bool]) -> None:
        self.call, self.needs = call, needs
        self.values = [torch.zeros_like(t) if need else None for t, need in zip(tensors, needs, strict=True)]

    def add(self, tile: Tile, gradients: Sequence[Tensor | None]) -> None:
        found = iter(gradients)
        for k, value in enumerate(self.values):
            gradient = next(found) if value is not None else None
            if value is not None and gradient is not None:
                part = value if k < self.call.whole else value[tile.first_edge : tile.last_edge]
                part += gradient


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(*tensors)
        ctx.call = call
        return torch.cat([call.function(tile, *_parts(call, tile, tensors)) for tile in call.tiles])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return None, *_TiledGradient.apply(ctx.call, ctx.needs_input_grad[1:], gradient, *ctx.saved_tensors)


class _TiledGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        call: Call,
        needs: Sequence[bool],
        gradient: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(gradient, *tensors)
        ctx.call, ctx.needs = call, needs
        ctx.set_materialize_grads(False)
        sums = _Sums(call, tensors, needs)
        for tile in call.tiles:
            leaves = _leaves(call, tile, tensors, needs)
            with torch.enable_grad():
                out = call.function(tile, *leaves)
            wanted = [leaf for leaf, need in zip(leaves, needs, strict=True) if need]
            sums.add(tile, torch.autograd.grad(out, wanted, gradient[tile.first : tile.last], allow_unused=True))
        return tuple(sums.values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gradient, *tensors = ctx.saved_tensors
        call, needs = ctx.call, ctx.needs
        used = [need and c is not None for need, c in zip(needs, cotangents, strict=True)]
        if not any(used):
            return None, None, *[None] * len(ctx.saved_tensors)
        sums = _Sums(call, tensors, needs)
        of_gradient = torch.zeros_like(gradient)
        for tile in call.tiles:
            leaves = _leaves(call, tile, tensors, needs)
            above = gradient[tile.first : tile.last].detach().requires_grad_()
            filled = [t if c is None else c for c, t in zip(cotangents, tensors, strict=True)]
            given = [c for c, use in zip(_parts(call, tile, filled), used, strict=True) if use]
            with torch.enable_grad():
                out = call.function(tile, *leaves)
                asked = [leaf for leaf, use in zip(leaves, used, strict=True) if use]
                first = torch.autograd.grad(out, asked, above, create_graph=True, allow_unused=True)
                terms = [(f * c).sum() for f, c in zip(first, given, strict=True) if f is not None]
                product = torch.stack(terms).sum() if terms else above.new_zeros(())
            if not product.requires_grad:
                continue
            wanted = [above, *(leaf for leaf, need in zip(leaves, needs, strict=True) if need)]
            second = torch.autograd.grad(product, wanted, allow_unused=True)
            if second[0] is not None:
                of_gradient[tile.first : tile.last] = second[0]
            sums.add(tile, second[1:])
        return None, None, of_gradient, *sums.values

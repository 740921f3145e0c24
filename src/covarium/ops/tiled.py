"""A sum over edges made tile by tile.

Of a tile that is kept, torch keeps what its derivatives need, as ever; working in tiles alone is faster on the CPU,
because what is between two operations stays in the cache. Of the others nothing is stored but what goes in and what
comes out, perhaps also results of large products, and each pass makes the inside of one tile again. Exact through
first and second derivatives: the gradient is an operation of its own whose derivative is made tile by tile too (torch's
checkpoint cannot be differentiated twice this way). A third derivative of tiles that are not kept is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from covarium.errors import CovariumError
from covarium.ops.gather import gather
from covarium.ops.last import last
from covarium.ops.remembered import Results
from covarium.ops.wanted import wanted

THIRD = "third derivatives of edges in tiles are not made; leave out tile and --memory"


@dataclass(frozen=True)
class Tile:
    """Edges ``first_edge`` to ``last_edge`` (exclusive), all edges of the target atoms ``first`` to ``last``.

    Attributes:
        atoms: at either end of these edges, each once.
        j, i: source and target of each edge, as places in ``atoms``.
        row: target of each edge, counted from ``first``.
        kept: its inside is stored for the derivatives.
        remembered: else the results of so many of its products are, see ``covarium.ops.remembered``.
        results: where, during a pass.
    """

    first_edge: int
    last_edge: int
    first: int
    last: int
    atoms: Tensor
    j: Tensor
    i: Tensor
    row: Tensor
    kept: bool
    remembered: int = 0
    results: Results | None = None

    @property
    def own(self) -> slice:
        return slice(self.first_edge, self.last_edge)


def tiles_of(edge_index: Tensor, num_atoms: int, edges: int, keep: int = 0, remember: int = 0) -> list[Tile]:
    """Consecutive target atoms with all their edges, at most ``edges`` of them unless one atom alone has more.

    Args:
        edge_index: [2, E], sources j and targets i, sorted by target.
        num_atoms: N.
        edges: in a tile.
        keep: edges at the beginning whose tiles are kept, as far as these end there.
        remember: results of products that are stored, counted by edges: first those of each edge's first product, then
            those of its second.
    """
    count = edge_index.shape[1]
    ends = torch.bincount(edge_index[1], minlength=num_atoms).cumsum(0).tolist()
    tiles, first, first_edge = [], 0, 0
    for atom in range(1, num_atoms + 1):
        # the tile ends where the next atom's edges would be too many
        if atom == num_atoms or ends[atom] - first_edge > edges:
            pairs = edge_index[:, first_edge : ends[atom - 1]]
            atoms, places = torch.unique(pairs, return_inverse=True)
            j, i = places
            last_edge = ends[atom - 1]
            remembered = (remember - last_edge) // max(count, 1) + 1 if remember >= last_edge else 0
            kept = last_edge <= keep
            tiles.append(Tile(first_edge, last_edge, first, atom, atoms, j, i, pairs[1] - first, kept, remembered))
            first, first_edge = atom, last_edge
    return tiles


@dataclass(frozen=True)
class Call:
    """The function, its tiles, and how many of its tensors are read whole and at the tile's atoms."""

    function: Callable[..., Tensor]
    tiles: Sequence[Tile]
    whole: int
    atoms: int

    def rows(self, tile: Tile) -> slice:
        """The tile's targets among the rows of what comes out."""
        return slice(tile.first - self.tiles[0].first, tile.last - self.tiles[0].first)

    def parts(self, tile: Tile, tensors: Sequence[Tensor]) -> list[Tensor]:
        """What the tile reads of each tensor."""
        edges = self.whole + self.atoms
        at_atoms = [t.index_select(0, tile.atoms) for t in tensors[self.whole : edges]]
        return [*tensors[: self.whole], *at_atoms, *(t[tile.own] for t in tensors[edges:])]


def tiled(
    function: Callable[..., Tensor],
    tiles: Sequence[Tile],
    *,
    whole: Sequence[Tensor] = (),
    atoms: Sequence[Tensor] = (),
    edges: Sequence[Tensor] = (),
) -> Tensor:
    """Rows of all tiles, [N, …], as ``function`` gives them.

    Args:
        function: ``function(tile, *whole, *atoms, *edges)`` with the parts that the tile reads; it must be the same at
            every call, so random numbers are drawn outside, and must read every tensor that is to get a gradient
            from its arguments.
        tiles: in order, covering all edges and all target atoms; first those that are kept.
        whole: tensors that every tile reads in full: parameters.
        atoms: tensors [N, …] of which a tile reads the rows of ``Tile.atoms``.
        edges: tensors [E, …] of which a tile reads the rows of its edges.

    Raises:
        CovariumError: when differentiated, ``function`` reads another tensor that wants a gradient.
        RuntimeError: when differentiated a third time.
    """
    kept = [tile for tile in tiles if tile.kept] if torch.is_grad_enabled() else []
    again = [_with_results(tile) if torch.is_grad_enabled() else tile for tile in tiles[len(kept) :]]
    rows = _kept(function, kept, whole, atoms, edges) if kept else []
    if again:
        rows.append(_Tiled.apply(Call(function, again, len(whole), len(atoms)), *whole, *atoms, *edges))
    return torch.cat(rows)


def _with_results(tile: Tile) -> Tile:
    return replace(tile, results=Results(tile.remembered)) if tile.remembered else tile


def _handed_on(tile: Tile) -> Tile:
    return tile if tile.results is None else replace(tile, results=tile.results.handed_on())


def _kept(
    function: Callable[..., Tensor],
    tiles: Sequence[Tile],
    whole: Sequence[Tensor],
    atoms: Sequence[Tensor],
    edges: Sequence[Tensor],
) -> list[Tensor]:
    """Rows of each tile."""
    # one gather and one split for all tiles: their derivatives make one tensor [N, …] or [E, …] instead of many
    index = torch.cat([tile.atoms for tile in tiles])
    at_atoms = [gather(t, index).split([len(tile.atoms) for tile in tiles]) for t in atoms]
    sizes = [tile.last_edge - tile.first_edge for tile in tiles]
    at_edges = [t[: tiles[-1].last_edge].split(sizes) for t in edges]
    return [function(tile, *whole, *parts) for tile, *parts in zip(tiles, *at_atoms, *at_edges, strict=True)]


def _leaves(parts: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor]:
    return [p.detach().requires_grad_(need) for p, need in zip(parts, needs, strict=True)]


def _chosen(values: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor]:
    return [value for value, need in zip(values, needs, strict=True) if need]


class _Sums:
    """Gradients of the tensors, gathered from the tiles: whole ones add up, others are put in their rows."""

    def __init__(self, call: Call, tensors: Sequence[Tensor], needs: Sequence[bool]) -> None:
        self.call, self.needs = call, needs
        self.values = [torch.zeros_like(t) if need else None for t, need in zip(tensors, needs, strict=True)]

    def add(self, tile: Tile, gradients: Sequence[Tensor | None]) -> None:
        found = iter(gradients)
        for k, value in enumerate(self.values):
            gradient = next(found) if value is not None else None
            if value is None or gradient is None:
                continue
            if k < self.call.whole:
                value += gradient
            elif k < self.call.whole + self.call.atoms:
                value.index_add_(0, tile.atoms, gradient.contiguous())
            else:
                value[tile.own] = gradient


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(*tensors)
        ctx.call = call
        return torch.cat([call.function(tile, *call.parts(tile, tensors)) for tile in call.tiles])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        call: Call = ctx.call
        if torch.is_grad_enabled():  # there is going to be a second derivative
            call = replace(call, tiles=[_handed_on(tile) for tile in call.tiles])
        return None, *_TiledGradient.apply(call, wanted(ctx), gradient, *ctx.saved_tensors)


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
        ctx.call = call
        ctx.set_materialize_grads(False)
        sums = _Sums(call, tensors, needs)
        for tile in call.tiles:
            leaves = _leaves(call.parts(tile, tensors), needs)
            with torch.enable_grad():
                out = call.function(tile, *leaves)
            if tile is call.tiles[0]:
                _refuse_others(out, leaves)
            above = gradient[call.rows(tile)]
            if out.requires_grad:
                sums.add(tile, torch.autograd.grad(out, _chosen(leaves, needs), above, allow_unused=True))
            if tile.results is not None and tile.results.depth == 1:
                tile.results.close()
        return tuple(sums.values)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        if not any(c is not None for c in cotangents):
            return None, None, *[None] * len(ctx.saved_tensors)
        with torch.no_grad():
            found = _TiledGradient.second(ctx, cotangents)
        return None, None, *last(found, [*ctx.saved_tensors, *cotangents], THIRD)

    @staticmethod
    def second(ctx: Any, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:  # noqa: ANN401
        """Gradients of the gradient that came from above, and of the tensors."""
        gradient, *tensors = ctx.saved_tensors
        call: Call = ctx.call
        used = [c is not None for c in cotangents]
        needs_above, *needs = wanted(ctx)
        sums = _Sums(call, tensors, needs)
        of_gradient = torch.zeros_like(gradient) if needs_above else None
        filled = [t if c is None else c for c, t in zip(cotangents, tensors, strict=True)]
        for tile in call.tiles:
            rows = call.rows(tile)
            parts = call.parts(tile, tensors)
            leaves = _leaves(parts, [need or use for need, use in zip(needs, used, strict=True)])
            above = gradient[rows].detach().requires_grad_()
            given = _chosen(call.parts(tile, filled), used)
            with torch.enable_grad():
                out = call.function(tile, *leaves)
                asked = _chosen(leaves, used)
                first = torch.autograd.grad(out, asked, above, create_graph=True, allow_unused=True)
            if tile.results is not None:  # the same products follow with other numbers
                tile.results.close()
            pairs = [(f, c) for f, c in zip(first, given, strict=True) if f is not None and f.requires_grad]
            if not pairs:
                continue
            values, weights = zip(*pairs, strict=True)
            second = torch.autograd.grad(values, [above, *_chosen(leaves, needs)], weights, allow_unused=True)
            if of_gradient is not None and second[0] is not None:
                of_gradient[rows] = second[0]
            sums.add(tile, second[1:])
        return [of_gradient, *sums.values]


def _refuse_others(out: Tensor, leaves: Sequence[Tensor]) -> None:
    """
    Raises:
        CovariumError: a gradient would be lost.
    """
    known, seen, stack = {id(leaf) for leaf in leaves}, set(), [out.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in known:
            raise CovariumError(
                f"what is worked on in tiles reads a tensor of shape {tuple(variable.shape)} that wants a gradient and "
                "is no parameter of it (by a hook?); leave out tile and --memory, or make it a parameter of the module"
            )
        stack += [following for following, _ in node.next_functions]

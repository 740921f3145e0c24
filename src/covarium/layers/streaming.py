"""Modules over edges, worked on tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from covarium.errors import CovariumError
from covarium.layers.twin import owner, twin
from covarium.ops.remembered import Place, Results
from covarium.ops.rotation import Backend, End
from covarium.ops.tiled import Tile, tiled, tiles_of

ATOMS = 1024  # whose inside is made again at a time


@dataclass(frozen=True, kw_only=True)
class TiledEdges:
    """Base of what a model reads of its edges, all of them or those of a tile.

    Every tensor of a subclass, also in a list, has one row per edge.

    Attributes:
        j, i: source and target of each edge, as rows of the atoms' features.
        row, rows: target of each edge and number of targets, as rows of what comes out.
        tiles: to work on one by one; none for all edges at once.
        atoms: rows of the atoms' features, None where that is ``rows``.
        results: of products of a tile that remembers them.
        backend: of rotations, or of messages.
    """

    j: Tensor
    i: Tensor
    row: Tensor
    rows: int
    tiles: Sequence[Tile] = ()
    atoms: int | None = None
    results: Results | None = None
    backend: Backend = "torch"

    @cached_property
    def ends(self) -> tuple[End, End]:
        """Sources and targets, where the features of atoms are read."""
        atoms = self.rows if self.atoms is None else self.atoms
        return End(self.j, atoms, ascending=False), End(self.i, atoms, ascending=True)

    @cached_property
    def onto(self) -> End:
        """Targets, where sums go."""
        return End(self.row, self.rows, ascending=True)

    def place(self, number: int) -> Place | None:
        """Where results of the product of this number are remembered; None where they are not."""
        there = self.results is not None and number < self.results.products
        return Place(self.results, number) if there and self.results is not None else None

    def _own(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Names and tensors that a subclass adds."""
        inherited = {field.name for field in fields(TiledEdges)}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in inherited and isinstance(value, Tensor | list):
                yield field.name, value if isinstance(value, list) else [value]

    def differentiable(self) -> list[Tensor]:
        """Tensors of floating point, in order."""
        return [t for _, tensors in self._own() for t in tensors if t.is_floating_point()]

    def part(self, tile: Tile, values: Sequence[Tensor]) -> Self:
        """The edges of a tile, with the rows of ``differentiable`` that belong to it."""
        given = iter(values)
        own: dict[str, Any] = dict(
            j=tile.j,
            i=tile.i,
            row=tile.row,
            rows=tile.last - tile.first,
            tiles=(),
            atoms=len(tile.atoms),
            results=tile.results,
        )
        for name, tensors in self._own():
            parts = [next(given) if t.is_floating_point() else t[tile.own] for t in tensors]
            own[name] = parts if isinstance(getattr(self, name), list) else parts[0]
        return replace(self, **own)


Rows = TypeVar("Rows", bound=TiledEdges)


def streamed(
    method: Callable[[Rows, Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Tensor],
    edges: Rows,
    *,
    whole: Sequence[Tensor] = (),
    atoms: Sequence[Tensor] = (),
    beside: Sequence[Tensor] = (),
) -> Tensor:
    """``method(edges, whole, atoms, beside)``, [N, …]; if the edges have tiles, one after the other (see ``tiled``).

    No random numbers may be drawn inside.

    Args:
        method: of a module, whose parameters it may read; gives one row per target atom.
        edges: what it reads of the edges.
        whole: tensors that every tile reads in full, such as parameters of other modules.
        atoms: tensors [N, …].
        beside: more tensors [E, …].

    Raises:
        CovariumError: tiles under autocast; a hook of the module reads another tensor that wants a gradient.
    """
    if not edges.tiles:
        return method(edges, whole, atoms, beside)
    if torch.is_autocast_enabled(edges.j.device.type) and not all(tile.kept for tile in edges.tiles):
        raise CovariumError(
            "bf16 and edges in tiles (--memory, tile) do not go together: tiles are made again in the backward pass, "
            "where autocast does not reach; use float32 or tf32 with tiles, or bf16 without"
        )
    module = owner(method)
    parameters = list(module.parameters())
    ends = [len(parameters), len(whole), len(atoms), len(beside)]

    def function(tile: Tile, *tensors: Tensor) -> Tensor:
        parts = iter(tensors)
        own, *given = ([next(parts) for _ in range(count)] for count in ends)
        part = edges.part(tile, list(parts))
        if all(a is b for a, b in zip(own, parameters, strict=True)):
            return method(part, *given)
        result: Tensor = getattr(twin(module, parameters, own), method.__name__)(part, *given)
        return result

    return tiled(
        function,
        edges.tiles,
        whole=[*parameters, *whole],
        atoms=atoms,
        edges=[*beside, *edges.differentiable()],
    )


def remade(module: nn.Module, x: Tensor, edges: TiledEdges) -> Tensor:
    """``module(x)``, row by row of x [N, …]; where the inside of edges is not stored, that of atoms is not either.

    Args:
        module: draws no random numbers.
        x: features of atoms.
        edges: with the tiles.
    """
    if all(tile.kept for tile in edges.tiles):
        whole: Tensor = module(x)
        return whole
    parameters = list(module.parameters())

    def function(tile: Tile, *tensors: Tensor) -> Tensor:
        *own, part = tensors
        result: Tensor = twin(module, parameters, own)(part)
        return result

    # an atom is to itself what an edge is to its target
    own = torch.arange(x.shape[0], device=x.device)
    return tiled(function, tiles_of(torch.stack([own, own]), x.shape[0], ATOMS), whole=parameters, edges=[x])

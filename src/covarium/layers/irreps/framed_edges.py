"""Edges with their frames, as the SO(2) convolutions of EquiformerV2 and V3 read them.

Letters: E edges, K basis functions, S coefficients (l-primary), R those with |m| ≤ M (m-primary, in the edge frame), P
numbers of the Wigner matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from covarium.algebra.layout import m_primary
from covarium.algebra.rotations import edge_frames
from covarium.algebra.wigner import edge_wigner, wigner_d
from covarium.layers.streaming import TiledEdges
from covarium.ops.envelope import polynomial_envelope
from covarium.ops.rotation import Backend, Layout, rotate_in, rotate_out
from covarium.ops.tiled import Tile
from covarium.systems import AtomGraph


@cache
def frame_layout(lmax: int, mmax: int) -> Layout:
    """From l-primary columns to m-primary rows."""
    return Layout(tuple(range(lmax + 1)), m_primary(lmax, mmax))


def into_frames(frames: Tensor, lmax: int, mmax: int, backend: Backend) -> Tensor:
    """Wigner matrices of ``FramedEdges``; with their zeros for ``torch``, whose batched product is fastest so."""
    if backend == "torch":
        return edge_wigner(frames, lmax, mmax)
    return torch.cat([block.flatten(1) for block in wigner_d(frames, lmax)], dim=1)


@dataclass(frozen=True, kw_only=True)
class FramedEdges(TiledEdges):
    """
    Attributes:
        z: elements of source and target, [E] each.
        basis: [E, K].
        into: rotation into the edge frame, [E, R, S] or [E, P], see ``into_frames``.
        layout: of its columns and rows.
        row_scale: what its R rows are multiplied by in the rotation back; a number for each degree.
        envelope: [E], or None.
    """

    z: list[Tensor]
    basis: Tensor
    into: Tensor
    layout: Layout
    row_scale: tuple[float, ...]
    envelope: Tensor | None

    @cached_property
    def scaled(self) -> Tensor:
        """``into`` with the scales of the rows."""
        if max(self.row_scale) == 1:
            return self.into
        if self.into.dim() == 3:
            return self.into * self.into.new_tensor(self.row_scale).unsqueeze(1)
        of_degree = {l: scale for (l, _), scale in zip(self.layout.frame, self.row_scale, strict=True)}
        factors = [of_degree[l] for l in self.layout.degrees for _ in range((2 * l + 1) ** 2)]
        return self.into * self.into.new_tensor(factors)

    def pairs(self, x: Tensor) -> Tensor:
        """[N, S, C] → [E, R, 2C], features of source and target side by side in the frame."""
        return rotate_in([x, x], self.into, self.ends, self.layout, beside=True, backend=self.backend)

    def sums(self, y: Tensor) -> Tensor:
        """[E, r, C] → [N, S, C], out of the frame and onto the targets; y has the first r of the R rows."""
        rows = y.shape[1]
        wigner = self.scaled[:, :rows] if self.scaled.dim() == 3 else self.scaled
        return rotate_out(y, wigner, self.onto, self.layout.rows(rows), backend=self.backend)

    def vector_sums(self, y: Tensor) -> Tensor:
        """[E, r, C] → [N, 3, C], the same for degree 1 alone; y has its rows m = 0, ±1 of the frame."""
        rows = [self.layout.frame.index(row) for row in ((1, 0), (1, 1), (1, -1))[: y.shape[1]]]
        frame = Layout((1,), tuple(self.layout.frame[row] for row in rows))
        wigner = self.scaled[:, rows, 1:4] if self.scaled.dim() == 3 else self.scaled[:, 1:10]
        return rotate_out(y, wigner, self.onto, frame, backend=self.backend)


def framed_edges(
    graph: AtomGraph,
    frames: Tensor | None,
    radial_basis: Callable[[Tensor], Tensor],
    *,
    envelope_cutoff: float | None,
    lmax: int,
    mmax: int,
    row_scale: tuple[float, ...],
    tiles: Sequence[Tile],
    backend: Backend,
) -> FramedEdges:
    """Geometry of the edges of a graph.

    Args:
        graph: whose neighbours they are.
        frames: [E, 3, 3] that rotate every edge to +y; None for ``edge_frames``.
        radial_basis: of the distances [E].
        envelope_cutoff: Å, where the polynomial envelope ends; None for no envelope.
        lmax, mmax, row_scale, tiles, backend: see ``FramedEdges``.
    """
    vectors = graph.vectors()
    distance = vectors.square().sum(1).sqrt()
    if frames is None:
        frames = edge_frames(vectors / distance.unsqueeze(1))
    j, i = graph.edge_index
    return FramedEdges(
        j=j,
        i=i,
        row=i,
        rows=graph.num_atoms,
        tiles=tiles,
        backend=backend,
        z=[graph.numbers.index_select(0, j), graph.numbers.index_select(0, i)],
        basis=radial_basis(distance),
        envelope=None if envelope_cutoff is None else polynomial_envelope(distance / envelope_cutoff),
        into=into_frames(frames, lmax, mmax, backend),
        layout=frame_layout(lmax, mmax),
        row_scale=row_scale,
    )

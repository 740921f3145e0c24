"""What Equiformer reads of the edges, and features on the way into their frames and out again.

Letters: E edges, D Wigner matrices, Y harmonics. Features are lists over the entries of an Irreps, [E, 2l+1, mul];
nodes as in ``edge_product``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from covarium.algebra.irreps import Irreps
from covarium.layers.irreps.edge_product import Node
from covarium.layers.irreps.flat_linear import Features
from covarium.layers.streaming import TiledEdges
from covarium.ops.gather import scatter_sum
from covarium.ops.rotation import End, Layout, rotate_in, rotate_out


@dataclass(frozen=True, kw_only=True)
class FlatEdges(TiledEdges):
    """
    Attributes:
        scalars: [E, I], embedded distance and perhaps elements.
        envelope: [E], or None.
        wigner: D per degree [E, 2l+1, 2l+1] into the edge's frame.
    """

    scalars: Tensor
    envelope: Tensor | None
    wigner: list[Tensor]

    @property
    def degree(self) -> Tensor:
        """[rows], the number of edges of each target, smooth with an envelope."""
        counted = torch.ones_like(self.scalars[:, 0]) if self.envelope is None else self.envelope
        return scatter_sum(counted, self.row, self.rows)

    def harmonics(self, l: int) -> Tensor:
        """Y_l [E, 2l+1] in 'component' normalisation: the row of D that belongs to m = 0."""
        return math.sqrt(2 * l + 1) * self.wigner[l][:, l]

    def into(self, xs: Sequence[Features], irreps: Irreps, ends: Sequence[End], scalars_only: bool) -> Features:
        """Features of atoms at the ends of each edge, added, in its frame; only m = 0 if nothing else can matter."""
        return [
            rotate_in(
                parts, self.wigner[irrep.l].flatten(1), ends, _layout(irrep.l, scalars_only), backend=self.backend
            )
            for parts, (_, irrep) in zip(zip(*xs, strict=True), irreps, strict=True)
        ]

    def sums(self, values: Mapping[Node, Tensor], irreps: Irreps, alpha: Tensor, scalars_only: bool) -> Features:
        """Σ_j α v out of the frames; channels of v are in chunks of heads."""
        outputs = []
        for k, (mul, irrep) in enumerate(irreps.entries[:1] if scalars_only else irreps.entries):
            orders = range(-irrep.l, irrep.l + 1)
            missing = alpha.new_zeros(1, 1).expand(alpha.shape[0], mul)
            stacked = torch.stack([values.get((k, m), missing) for m in orders], dim=1)
            messages = (stacked.unflatten(2, (alpha.shape[1], -1)) * alpha[:, None, :, None]).flatten(2)
            wigner, layout = self.wigner[irrep.l].flatten(1), _layout(irrep.l, False)
            outputs.append(rotate_out(messages, wigner, self.onto, layout, backend=self.backend))
        return outputs


@cache
def _layout(l: int, scalars_only: bool) -> Layout:
    """One degree, with all its orders or m = 0 alone."""
    return Layout((l,), tuple((l, m) for m in ([0] if scalars_only else range(-l, l + 1))))

"""What Equiformer reads of the edges, and features on the way into their frames and out again.

Letters: E edges, D Wigner matrices, Y harmonics. Features are lists over the entries of an Irreps, [E, 2l+1, mul];
nodes as in ``edge_product``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from covarium.algebra.irreps import Irreps
from covarium.layers.irreps.edge_product import Node
from covarium.layers.irreps.flat_linear import Features
from covarium.layers.streaming import TiledEdges
from covarium.ops.gather import gather, scatter_sum


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

    def into(self, x: Features, irreps: Irreps, scalars_only: bool) -> Features:
        """Features of edges into the frame; only m = 0 if nothing else can matter."""
        rows = [slice(irrep.l, irrep.l + 1) if scalars_only else slice(None) for _, irrep in irreps]
        matrices = [self.wigner[irrep.l][:, row] for (_, irrep), row in zip(irreps, rows, strict=True)]
        return [
            part if irrep.l == 0 else matrix @ part
            for part, matrix, (_, irrep) in zip(x, matrices, irreps, strict=True)
        ]

    def merged(self, ends: Sequence[Tensor]) -> Features:
        """Features of edges, from those of sources and targets one after the other."""
        half = len(ends) // 2
        return [gather(a, self.j) + gather(b, self.i) for a, b in zip(ends[:half], ends[half:], strict=True)]

    def sums(self, values: Mapping[Node, Tensor], irreps: Irreps, alpha: Tensor, scalars_only: bool) -> Features:
        """Σ_j α v out of the frames; channels of v are in chunks of heads."""
        outputs = []
        for k, (mul, irrep) in enumerate(irreps.entries[:1] if scalars_only else irreps.entries):
            orders = range(-irrep.l, irrep.l + 1)
            missing = alpha.new_zeros(1, 1).expand(alpha.shape[0], mul)
            stacked = torch.stack([values.get((k, m), missing) for m in orders], dim=1)
            messages = (stacked.unflatten(2, (alpha.shape[1], -1)) * alpha[:, None, :, None]).flatten(2)
            if irrep.l:
                messages = self.wigner[irrep.l].transpose(1, 2) @ messages
            outputs.append(scatter_sum(messages, self.row, self.rows))
        return outputs

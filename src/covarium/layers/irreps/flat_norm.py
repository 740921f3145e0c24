"""Norms of features in a direct sum of irreps, lists of [N, 2l+1, mul]; eps 1e-5 inside the root.

Each irrep is divided by a root mean square; a weight per channel, a bias on even scalars, which are also centred.
Published (Liao 2023, arXiv 2206.11990, code): ``layer`` takes the mean over channels of one atom, each irrep by itself;
``instance`` and ``graph`` over the atoms of a structure, so that they are neither local nor extensive.

``anchored``, ours: as ``layer``, but the mean square of the scalars is added to that of every other irrep. Where an
irrep vanishes by symmetry (every site of a perfect crystal) ``layer`` multiplies its rounding and its derivative by
1/√eps = 316, norm after norm; this never amplifies beyond what the scalars are multiplied by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from covarium.algebra.irreps import SCALAR, Irreps
from covarium.layers.irreps.flat_linear import Features
from covarium.ops.gather import gather, scatter_sum

FlatNormType = Literal["anchored", "layer", "instance", "graph"]
EPS = 1e-5


class FlatNorm(nn.Module):
    """One of the four norms. Forward accepts the first entries alone; even scalars come first."""

    def __init__(self, kind: FlatNormType, irreps: Irreps) -> None:
        super().__init__()
        self.kind, self.irreps = kind, irreps
        self.sizes = [mul for mul, _ in irreps]
        scalars = irreps.count(SCALAR)
        if kind == "graph":
            self.mean_shift = nn.Parameter(torch.ones(scalars))
        self.affine_weight = nn.Parameter(torch.ones(irreps.channels))
        self.affine_bias = nn.Parameter(torch.zeros(scalars))

    def forward(self, x: Sequence[Float[Tensor, "N _ _"]], batch: Int[Tensor, " N"], num_graphs: int) -> Features:
        """``batch``: the structure of each atom, of ``num_graphs``."""
        outputs: Features = []
        anchor: Tensor | float = 0.0
        for part, weight, (_, irrep) in zip(x, self.affine_weight.split(self.sizes), self.irreps, strict=False):
            if irrep == SCALAR:
                part = part - self._mean(part, batch, num_graphs)
            square = part.square().mean(1, keepdim=True)
            if self.kind in ("layer", "anchored"):
                square = square.mean(2, keepdim=True)
            else:
                square = _over_atoms(square, batch, num_graphs)
            part = part * torch.rsqrt(square + anchor + EPS) * weight
            if irrep == SCALAR and self.kind == "anchored":
                anchor = square
            outputs.append(part + self.affine_bias if irrep == SCALAR else part)
        return outputs

    def _mean(self, scalars: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        if self.kind in ("layer", "anchored"):
            return scalars.mean(2, keepdim=True)
        mean = _over_atoms(scalars, batch, num_graphs)
        return mean * self.mean_shift if self.kind == "graph" else mean


def _over_atoms(x: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """The mean over the atoms of its structure, for every atom."""
    atoms = torch.bincount(batch, minlength=num_graphs).clamp(min=1).to(x.dtype)
    return gather(scatter_sum(x, batch, num_graphs) / atoms[:, None, None], batch)

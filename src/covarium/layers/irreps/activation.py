"""Non-linearities on m- or l-primary features. Letters: R rows (l, m), P grid points, H channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from covarium.algebra.sphere import Grid
from covarium.layers.constants import ExactConstants


def gate(x: Float[Tensor, "N S H"], gates: Float[Tensor, "N L H"]) -> Float[Tensor, "N S H"]:
    """SiLU on l = 0, σ(gate of the degree) × l > 0, for l-primary features. Exactly equivariant."""
    lmax = gates.shape[1]
    parts = x.split([2 * l + 1 for l in range(lmax + 1)], dim=1)
    factors = torch.sigmoid(gates).split(1, dim=1)
    return torch.cat([silu(parts[0]), *[part * f for part, f in zip(parts[1:], factors, strict=True)]], dim=1)


def gate_orders(x: Sequence[Float[Tensor, "E s n H"]], gates: Float[Tensor, "E L H"]) -> list[Float[Tensor, "E s n H"]]:
    """The same for features in the edge frame, a list over |m|."""
    gates = torch.sigmoid(gates)
    scalars, rest = x[0].split([1, x[0].shape[2] - 1], dim=2)
    zero = torch.cat([silu(scalars), rest * gates.unsqueeze(1)], dim=2)
    return [zero, *[part * gates[:, m:].unsqueeze(1) for m, part in enumerate(x[1:])]]


class S2Activation(ExactConstants):
    """To the grid, SiLU, and back (Cohen 2018, arXiv 1801.10130). Equivariant up to the aliasing of the grid."""

    to_grid: Tensor
    from_grid: Tensor

    def __init__(self, grid: Grid, rows: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        columns = np.array([l * l + l + m for l, m in rows])
        self.constant("to_grid", grid.to_grid[:, columns])
        self.constant("from_grid", grid.from_grid[:, columns].T)

    def forward(self, x: Float[Tensor, "N R H"]) -> Float[Tensor, "N R H"]:
        return self.from_grid @ silu(self.to_grid @ x)


class SeparableS2Activation(nn.Module):
    """SiLU of separate scalars on l = 0, S² activation on l > 0 (Liao 2023, arXiv 2306.12059, Fig. 3b)."""

    def __init__(self, s2: S2Activation) -> None:
        super().__init__()
        self.s2 = s2

    def forward(self, scalars: Float[Tensor, "N H"], x: Float[Tensor, "N R H"]) -> Float[Tensor, "N R H"]:
        return torch.cat([silu(scalars).unsqueeze(1), self.s2(x)[:, 1:]], dim=1)

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


class GateActivation(nn.Module):
    """SiLU on l = 0, σ(gate of the degree) × l > 0. Exactly equivariant; ``rows`` are the pairs (l, m) of the layout."""

    def __init__(self, rows: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        # row l = 0 comes first among the scalars of either layout; m = 0 rows of l > 0 follow it in m-primary order
        self.register_buffer("degree", torch.tensor([l - 1 for l, _ in rows[1:]], dtype=torch.int64), persistent=False)

    def forward(self, gates: Float[Tensor, "N L H"], x: Float[Tensor, "N R H"]) -> Float[Tensor, "N R H"]:
        gates = torch.sigmoid(gates).index_select(1, self.degree)
        return torch.cat([silu(x[:, :1]), x[:, 1:] * gates], dim=1)


class S2Activation(ExactConstants):
    """To the grid, SiLU, and back (Cohen 2018, arXiv 1801.10130). Equivariant up to the aliasing of the grid."""

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

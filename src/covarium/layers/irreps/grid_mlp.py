"""The network at the points of the sphere in the feed-forward of EquiformerV3 (Liao 2026, arXiv 2604.09130).

Letters: N atoms, P points, S coefficients, C channels, H hidden channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from covarium.algebra.layout import l_primary
from covarium.algebra.sphere import Grid
from covarium.layers.irreps.activation import (
    POINTS,
    SCALARS,
    GridActivation,
    GridKernel,
    at_points,
    join_scalars,
    kernel_widths,
)
from covarium.layers.irreps.linear import SO3Linear, so3_linear
from covarium.layers.linear import Linear
from covarium.ops.dense import dense


class LinearPair(nn.Module):
    """The scalar path of a kernel: a linear map, and the function that joins its two halves (or a SiLU)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: GridKernel) -> None:
        super().__init__()
        self.function = SCALARS[kernel]
        self.linear = Linear(in_channels, out_channels if self.function is silu else 2 * out_channels)

    def forward(self, x: Float[Tensor, "N C"]) -> Float[Tensor, "N H"]:
        return self.function(self.linear(x))


class GridMLP(GridActivation):
    """W₁ on degrees, to the grid, V₁ at the points, the kernel, V₂, back, W₂ on degrees, a scalar path beside it.

    V₁ and V₂ act on channels, the transforms T and F on coefficients: they commute. So both act on the few
    coefficients instead of the many points, and for SwiGLU-S² they can be merged with their neighbours, V₁ T W₁ =
    T (V₁ W₁) and W₂ F V₂ = (W₂ V₂) F: one matrix per degree, formed anew at each call, which pays from some atoms on.
    W₁ and W₂ belong to the caller.
    """

    def __init__(self, channels: int, hidden: int, kernel: GridKernel, grid: Grid, lmax: int) -> None:
        super().__init__(kernel, grid, l_primary(lmax))
        self.gated = kernel == "sep-merge_gates2_swiglu"
        if self.gated:
            self.gating_linear = Linear(channels, hidden)
        self.grid_linear_1 = Linear(hidden, kernel_widths(kernel, hidden)[0], bias=False)
        # SiLU, unlike a product, has a second layer
        self.grid_linear_mid = Linear(hidden, hidden, bias=False) if POINTS[kernel] is silu else None
        self.grid_linear_2 = Linear(hidden, hidden, bias=False)

    def network(
        self, x: Float[Tensor, "N S C"], w1: SO3Linear, w2: SO3Linear, scalars: Float[Tensor, "N H"] | None
    ) -> Float[Tensor, "N S O"]:
        """The whole feed-forward; ``scalars`` is the scalar path, None for kernels without."""
        v1, v2 = self.grid_linear_1.weight, self.grid_linear_2.weight
        if self.gated and scalars is not None and self._merging_pays(x.shape[0], w1):
            y = self._on_sphere(so3_linear(x, v1 @ w1.weight, w1.bias @ v1.T), x[:, 0])
            # the scalars join before W₂ but after V₂
            bias = dense(scalars, w2.weight[0], w2.bias)
            return so3_linear(y, w2.weight @ v2, bias.unsqueeze(1))
        y = self.grid_linear_2(self._on_sphere(self.grid_linear_1(w1(x)), x[:, 0]))
        return w2(y if scalars is None else join_scalars(self.kernel, y, scalars))

    def _merging_pays(self, atoms: int | torch.SymInt, w1: SO3Linear) -> bool:
        """(L+1)·3·H²·C multiplications to form the matrices against N·S·H·(3H − C) saved."""
        if isinstance(atoms, torch.SymInt):  # one graph for all numbers of atoms
            return True
        degrees, hidden, channels = w1.weight.shape
        return bool(atoms * degrees * (3 * hidden - channels) > 3 * hidden * channels)

    def _on_sphere(self, u: Float[Tensor, "N S F"], scalars: Float[Tensor, "N C"]) -> Float[Tensor, "N S H"]:
        if self.grid_linear_mid is None:
            (y,) = at_points(POINTS[self.kernel], [u], self.to_grid, self.from_grid)
        else:
            y = self.from_grid @ silu(self.grid_linear_mid(POINTS[self.kernel](self.to_grid @ u)))
        # the gate of a channel is the same at all points, so it may act after the way back
        return y * torch.sigmoid(self.gating_linear(scalars)).unsqueeze(1) if self.gated else y

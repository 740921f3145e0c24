"""Non-linearities on m- or l-primary features. Letters: R rows (l, m), P grid points, H channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from covarium.algebra.sphere import Grid
from covarium.layers.constants import ExactConstants
from covarium.ops.activation import silu_gradient
from covarium.ops.dense import FEW, dense
from covarium.ops.remembered import Place
from covarium.ops.traced import traced

IN_CACHE = 2**19  # values at the points at a time


def gate(x: Float[Tensor, "N S H"], gates: Float[Tensor, "N L H"]) -> Float[Tensor, "N S H"]:
    """SiLU on l = 0, σ(gate of the degree) × l > 0, for l-primary features. Exactly equivariant."""
    lmax = gates.shape[1]
    parts = x.split([2 * l + 1 for l in range(lmax + 1)], dim=1)
    factors = torch.sigmoid(gates).split(1, dim=1)
    return torch.cat([silu(parts[0]), *[part * f for part, f in zip(parts[1:], factors, strict=True)]], dim=1)


def gate_orders(x: Sequence[Float[Tensor, "E n H"]], gates: Float[Tensor, "E L H"]) -> list[Float[Tensor, "E n H"]]:
    """The same for features in the edge frame, a list over m = 0, +1, −1, …."""
    gates = torch.sigmoid(gates)
    scalars, rest = x[0].split([1, x[0].shape[1] - 1], dim=1)
    zero = torch.cat([silu(scalars), rest * gates], dim=1)
    return [zero, *[part * gates[:, -part.shape[1] :] for part in x[1:]]]


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
        return self.parts([x])[0]

    def parts(self, x: Sequence[Float[Tensor, "N r H"]], place: Place | None = None) -> list[Float[Tensor, "N r H"]]:
        """Of rows that come as a list of parts."""
        return at_points(silu, x, self.to_grid, self.from_grid, place)


class SeparableS2Activation(nn.Module):
    """SiLU of separate scalars on l = 0, S² activation on l > 0 (Liao 2023, arXiv 2306.12059, Fig. 3b)."""

    def __init__(self, s2: S2Activation) -> None:
        super().__init__()
        self.s2 = s2

    def forward(self, scalars: Float[Tensor, "N H"], x: Float[Tensor, "N R H"]) -> Float[Tensor, "N R H"]:
        return self.parts(scalars, [x])[0]

    def parts(
        self, scalars: Float[Tensor, "N H"], x: Sequence[Float[Tensor, "N r H"]], place: Place | None = None
    ) -> list[Float[Tensor, "N r H"]]:
        """Of rows that come as a list of parts."""
        first, *rest = self.s2.parts(x, place)
        return [torch.cat([silu(scalars).unsqueeze(1), first[:, 1:]], dim=1), *rest]


GridKernel = Literal[
    "s2", "sep_s2", "s2_swiglu", "sep_s2_swiglu", "sep-merge_s2_swiglu", "sep_s2_square", "sep-merge_gates2_swiglu"
]  # fmt: skip


def product(x: Float[Tensor, "*batch H2"]) -> Float[Tensor, "*batch H"]:
    """First half times second half of the channels: on a grid that integrates degree 3L, exactly equivariant."""
    first, second = x.chunk(2, dim=-1)
    return first * second


def swiglu(x: Float[Tensor, "*batch H2"]) -> Float[Tensor, "*batch H"]:
    """SiLU of the first half times the second half (Shazeer 2020, arXiv 2002.05202, Eq. 6)."""
    first, second = x.chunk(2, dim=-1)
    return silu(first) * second


def product_gradient(g: Float[Tensor, "*batch H"], x: Float[Tensor, "*batch H2"]) -> Float[Tensor, "*batch H2"]:
    """Of ⟨g, product(x)⟩."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([g * second, g * first], dim=-1)


def swiglu_gradient(g: Float[Tensor, "*batch H"], x: Float[Tensor, "*batch H2"]) -> Float[Tensor, "*batch H2"]:
    """Of ⟨g, swiglu(x)⟩."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([silu_gradient(g * second, first), g * silu(first)], dim=-1)


GRADIENTS = {silu: silu_gradient, product: product_gradient, swiglu: swiglu_gradient}


def at_points(
    function: Callable[[Tensor], Tensor],
    x: Sequence[Float[Tensor, "N r F"]],
    to_grid: Float[Tensor, "P R"],
    from_grid: Float[Tensor, "R P"],
    place: Place | None = None,
) -> list[Float[Tensor, "N r H"]]:
    """``from_grid @ function(to_grid @ x)`` for a function of ``GRADIENTS``; differentiable to any order.

    For the first derivative x is kept, not its many more values at the points.

    Args:
        function: of the values at the points.
        x: the R rows, in parts; so they come out.
        to_grid, from_grid: constants.
        place: where the result is remembered.
    """
    device = x[0].device.type
    if torch.is_autocast_enabled(device):  # which does not reach the derivatives: all of it in one dtype
        dtype = torch.get_autocast_dtype(device)
        x, to_grid, from_grid = [t.to(dtype) for t in x], to_grid.to(dtype), from_grid.to(dtype)
    return list(_AtPoints.apply(function, place, to_grid, from_grid, *x))


class _AtPoints(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        function: Callable[[Tensor], Tensor],
        place: Place | None,
        to_grid: Tensor,
        from_grid: Tensor,
        *x: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(to_grid, from_grid, *x)

        def made() -> tuple[Tensor, ...]:
            rows = rows_first(x)
            pieces = rows.split(in_cache(to_grid, rows), dim=1)
            found = [from_points(from_grid, function(to_points(to_grid, q))) for q in pieces]
            return as_parts(torch.cat(found, dim=1), x)

        return made() if place is None else place.remember(made)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        to_grid, from_grid, *x = ctx.saved_tensors
        gradient, rows, above, back = GRADIENTS[ctx.function], rows_first(x), rows_first(g), to_grid.T.contiguous()
        sizes = in_cache(to_grid, rows)
        found = [
            from_points(back, gradient(to_points(from_grid.T, p), to_points(to_grid, q)))
            for q, p in zip(rows.split(sizes, dim=1), above.split(sizes, dim=1), strict=True)
        ]
        return None, None, None, None, *as_parts(torch.cat(found, dim=1), x)


def rows_first(x: Sequence[Float[Tensor, "N r F"]]) -> Float[Tensor, "R N F"]:
    """Rows in parts, as the grid takes them: one product for all N then."""
    return torch.cat([part.transpose(0, 1) for part in x])


def as_parts(x: Float[Tensor, "R N F"], like: Sequence[Float[Tensor, "N r _"]]) -> tuple[Float[Tensor, "N r F"], ...]:
    """The inverse of ``rows_first``."""
    return tuple(part.transpose(0, 1) for part in x.split([part.shape[1] for part in like]))


def to_points(to_grid: Float[Tensor, "P R"], x: Float[Tensor, "R n F"]) -> Float[Tensor, "P n F"]:
    """Values at the points."""
    return dense(to_grid, x.flatten(1).T, least=FEW).view(to_grid.shape[0], *x.shape[1:])


def from_points(from_grid: Float[Tensor, "R P"], values: Float[Tensor, "P n H"]) -> Float[Tensor, "R n H"]:
    """Coefficients of values at the points."""
    return dense(from_grid, values.flatten(1).T, least=FEW).view(from_grid.shape[0], *values.shape[1:])


def in_cache(to_grid: Float[Tensor, "P R"], x: Float[Tensor, "R N F"]) -> list[int]:
    """N in pieces whose values at all points stay in the cache; all at once on other devices, and in a graph that is
    recorded for any N."""
    if x.device.type != "cpu" or traced(x):
        return [x.shape[1]]
    count = max(1, IN_CACHE // (to_grid.shape[0] * x.shape[2]))
    whole, rest = divmod(x.shape[1], count)
    return [count] * whole + [rest] * (rest > 0 or not whole)


# What happens at the points, and to the scalars beside them; the names of the published code.
POINTS: dict[GridKernel, Callable[[Tensor], Tensor]] = {
    "s2": silu, "sep_s2": silu, "s2_swiglu": swiglu, "sep_s2_swiglu": swiglu, "sep-merge_s2_swiglu": swiglu,
    "sep_s2_square": product, "sep-merge_gates2_swiglu": product,
}  # fmt: skip
SCALARS: dict[GridKernel, Callable[[Tensor], Tensor]] = {
    "sep_s2": silu, "sep_s2_swiglu": swiglu, "sep-merge_s2_swiglu": swiglu, "sep_s2_square": product,
    "sep-merge_gates2_swiglu": swiglu,
}  # fmt: skip


def kernel_widths(kernel: GridKernel, hidden: int) -> tuple[int, int]:
    """Channels of the features and of the scalars that give ``hidden`` channels (gates, where there are, come last)."""
    features = hidden if POINTS[kernel] is silu else 2 * hidden
    gates = hidden if kernel == "sep-merge_gates2_swiglu" else 0
    return features, features + gates if kernel in SCALARS else 0


def join_scalars(
    kernel: GridKernel, x: Float[Tensor, "N R H"], scalars: Float[Tensor, "N H"]
) -> Float[Tensor, "N R H"]:
    """Scalars take the place of the l = 0 row, or are added to it in the merged kernels."""
    first, rest = x.split([1, x.shape[1] - 1], dim=1)
    scalars = scalars.unsqueeze(1)
    return torch.cat([first + scalars if "-merge" in kernel else scalars, rest], dim=1)


class GridActivation(ExactConstants):
    """Point-wise functions on the sphere beside a scalar path (Liao 2026, arXiv 2604.09130, SwiGLU-S² and its
    ablations).

    ``sep-merge_gates2_swiglu`` is the published SwiGLU-S²: the product of two linear images on the grid, gated by a
    sigmoid (which commutes with the way back), plus the SwiGLU of separate scalars at l = 0.
    """

    to_grid: Tensor
    from_grid: Tensor

    def __init__(self, kernel: GridKernel, grid: Grid, rows: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.kernel: GridKernel = kernel
        columns = np.array([l * l + l + m for l, m in rows])
        self.constant("to_grid", grid.to_grid[:, columns])
        self.constant("from_grid", grid.from_grid[:, columns].T)

    def forward(
        self, x: Sequence[Float[Tensor, "N r F"]], scalars: Float[Tensor, "N K"] | None, place: Place | None = None
    ) -> list[Float[Tensor, "N r H"]]:
        """Rows in parts; ``scalars`` as wide as ``kernel_widths`` says, None for the kernels without."""
        y = at_points(POINTS[self.kernel], x, self.to_grid, self.from_grid, place)
        if scalars is None:
            return y
        if self.kernel == "sep-merge_gates2_swiglu":
            scalars, gates = scalars.split([2 * y[0].shape[2], y[0].shape[2]], dim=1)
            gates = torch.sigmoid(gates).unsqueeze(1)
            y = [part * gates for part in y]
        return [join_scalars(self.kernel, y[0], SCALARS[self.kernel](scalars)), *y[1:]]

"""Linear maps that commute with rotations, in the global basis and in the edge frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from covarium.layers.linear import Linear
from covarium.ops.dense import dense
from covarium.ops.orders import orders
from covarium.ops.remembered import Place, complex_product, product


def so3_linear(
    x: Float[Tensor, "N S I"], weight: Float[Tensor, "L1 O I"], bias: Float[Tensor, "*N1 O"]
) -> Float[Tensor, "N S O"]:
    """One matrix per degree; ``bias`` [O], or [N, 1, O] of its own for each atom, is added on l = 0."""
    parts = x.split([2 * l + 1 for l in range(weight.shape[0])], dim=1)
    scalars, *rest = [dense(part, w) for part, w in zip(parts, weight, strict=True)]
    return torch.cat([scalars + bias, *rest], dim=1)


class SO3Linear(nn.Module):
    """One matrix per degree, bias on l = 0 only. weight [L+1, out, in], bias [out]."""

    def __init__(self, in_channels: int, out_channels: int, lmax: int) -> None:
        super().__init__()
        self.lmax = lmax
        bound = 1 / math.sqrt(in_channels)
        self.weight = nn.Parameter(torch.empty(lmax + 1, out_channels, in_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Float[Tensor, "N S I"]) -> Float[Tensor, "N S O"]:
        return so3_linear(x, self.weight, self.bias)

    def scalars(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        """The l = 0 row alone."""
        return dense(x, self.weight[0], self.bias)

    def vectors(self, x: Float[Tensor, "N 3 I"]) -> Float[Tensor, "N 3 O"]:
        """The l = 1 rows alone."""
        return dense(x, self.weight[1])


class SO2MLinear(nn.Module):
    """The map of one order m > 0: a complex matrix, stored as official weights [2·out, in] (real rows, then imaginary).

    y₊ = W_r x₊ − W_i x₋, y₋ = W_r x₋ + W_i x₊ (Passaro 2023, arXiv 2302.03655, Eq. 3).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.fc = Linear(in_features, 2 * out_features, bias=False)
        with torch.no_grad():
            self.fc.weight.mul_(1 / math.sqrt(2))

    def forward(
        self, plus: Float[Tensor, "E I"], minus: Float[Tensor, "E I"], place: Place | None = None
    ) -> tuple[Float[Tensor, "E O"], Float[Tensor, "E O"]]:
        return complex_product(plus, minus, self.fc.weight, place)


class SO2Convolution(nn.Module):
    """Linear map of features in the edge frame, mixing degrees and channels for each |m|.

    Features are a list over m = 0, +1, −1, …, ±M of [E, n, C] with n = L + 1 − |m| degrees. That is the m-primary
    order, cut where the map cuts it. ``extra`` more scalars come out of m = 0, first.
    """

    def __init__(self, in_channels: int, out_channels: int, lmax: int, mmax: int, extra: int = 0) -> None:
        super().__init__()
        self.lmax, self.out_channels = lmax, out_channels
        self.sizes = [extra, (lmax + 1) * out_channels]
        self.fc_m0 = Linear((lmax + 1) * in_channels, sum(self.sizes))
        degrees = range(lmax, lmax - mmax, -1)
        self.so2_m_conv = nn.ModuleList(SO2MLinear(n * in_channels, n * out_channels) for n in degrees)

    def forward(
        self, x: Sequence[Float[Tensor, "E n I"]], place: Place | None = None
    ) -> tuple[Float[Tensor, "E X"], list[Float[Tensor, "E n O"]]]:
        """The extra scalars, and the features; ``place``: where results are remembered."""
        zero, *rest = [part.flatten(1) for part in x]
        scalars = product(zero, self.fc_m0.weight, self.fc_m0.bias, place)
        extra, y = scalars.split(self.sizes, dim=1)
        flat = [y]
        for m, conv in enumerate(self.so2_m_conv):
            flat += conv(*rest[2 * m : 2 * m + 2], None if place is None else replace(place, part=m + 1))
        return extra, [y.unflatten(1, (-1, self.out_channels)) for y in flat]

    def vectors(self, x: Sequence[Float[Tensor, "E n I"]], place: Place | None = None) -> list[Float[Tensor, "E 1 O"]]:
        """Of l = 1 the features alone, m = 0, ±1; no row of a weight is read in vain."""
        zero, *rest = [part.flatten(1) for part in x]
        extra, out = self.sizes[0], self.out_channels
        rows = slice(extra + out, extra + 2 * out)
        flat = [product(zero, self.fc_m0.weight[rows], self.fc_m0.bias[rows], place)]
        if self.so2_m_conv:
            both = cast(SO2MLinear, self.so2_m_conv[0]).fc.weight.chunk(2)
            weight = torch.cat([half[:out] for half in both])
            flat += complex_product(rest[0], rest[1], weight, None if place is None else replace(place, part=1))
        return [y.unsqueeze(1) for y in flat]


def split_orders(x: Float[Tensor, "E R C"], lmax: int, mmax: int) -> list[Float[Tensor, "E n C"]]:
    """m-primary features as the list over m."""
    return list(x.split([b - a for a, b in orders(lmax, mmax, per_degree=True).rows], dim=1))


def join_orders(x: Sequence[Float[Tensor, "E n C"]]) -> Float[Tensor, "E R C"]:
    """The inverse of ``split_orders``."""
    return torch.cat(list(x), dim=1)


def join_heads(values: Sequence[Float[Tensor, "E n C"]], alpha: Float[Tensor, "E h"]) -> Float[Tensor, "E R C"]:
    """``join_orders``, the channels of every head times its attention weight."""
    heads = join_orders(values).unflatten(2, (alpha.shape[1], -1))
    return (heads * alpha[:, None, :, None]).flatten(2)

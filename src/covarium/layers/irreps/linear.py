"""Linear maps that commute with rotations, in the global basis and in the edge frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from covarium.ops.remembered import Place, product


def so3_linear(
    x: Float[Tensor, "N S I"], weight: Float[Tensor, "L1 O I"], bias: Float[Tensor, "*N1 O"]
) -> Float[Tensor, "N S O"]:
    """One matrix per degree; ``bias`` [O], or [N, 1, O] of its own for each atom, is added on l = 0."""
    parts = x.split([2 * l + 1 for l in range(weight.shape[0])], dim=1)
    scalars = parts[0] @ weight[0].T + bias
    return torch.cat([scalars, *[part @ w.T for part, w in zip(parts[1:], weight[1:], strict=True)]], dim=1)


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
        return nn.functional.linear(x, self.weight[0], self.bias)


class SO2MLinear(nn.Module):
    """The map of one order m > 0: a complex matrix, stored as official weights [2·out, in] (real rows, then imaginary).

    y₊ = W_r x₊ − W_i x₋, y₋ = W_r x₋ + W_i x₊ (Passaro 2023, arXiv 2302.03655, Eq. 3).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, 2 * out_features, bias=False)
        with torch.no_grad():
            self.fc.weight.mul_(1 / math.sqrt(2))

    def forward(self, x: Float[Tensor, "E 2 I"], place: Place | None = None) -> Float[Tensor, "E 2 O"]:
        return product(x, self.fc.weight.chunk(2, dim=0), place=place)


class SO2Convolution(nn.Module):
    """Linear map of features in the edge frame, mixing degrees and channels for each |m|.

    Features are a list over |m| = 0..M of [E, s, n, C]: s = 1 for m = 0, else 2 (+m, −m); n = L + 1 − |m| degrees.
    That is the m-primary order, cut where the map cuts it. ``extra`` more scalars come out of m = 0, first.
    """

    def __init__(self, in_channels: int, out_channels: int, lmax: int, mmax: int, extra: int = 0) -> None:
        super().__init__()
        self.lmax, self.out_channels = lmax, out_channels
        self.sizes = [extra, (lmax + 1) * out_channels]
        self.fc_m0 = nn.Linear((lmax + 1) * in_channels, sum(self.sizes))
        degrees = range(lmax, lmax - mmax, -1)
        self.so2_m_conv = nn.ModuleList(SO2MLinear(n * in_channels, n * out_channels) for n in degrees)

    def forward(
        self, x: Sequence[Float[Tensor, "E s n I"]], place: Place | None = None
    ) -> tuple[Float[Tensor, "E X"], list[Float[Tensor, "E s n O"]]]:
        """The extra scalars, and the features; ``place``: where results are remembered."""
        places = [None if place is None else replace(place, part=m) for m in range(len(x))]
        scalars = product(x[0].flatten(1), [self.fc_m0.weight], self.fc_m0.bias, places[0])
        extra, zero = scalars.split(self.sizes, dim=1)
        orders = zip(self.so2_m_conv, x[1:], places[1:], strict=True)
        flat = [zero.unsqueeze(1), *[conv(part.flatten(2), where) for conv, part, where in orders]]
        return extra, [y.unflatten(2, (-1, self.out_channels)) for y in flat]


def split_orders(x: Float[Tensor, "E R C"], lmax: int, mmax: int) -> list[Float[Tensor, "E s n C"]]:
    """m-primary features as the list over |m|."""
    parts = x.split([(min(m, 1) + 1) * (lmax + 1 - m) for m in range(mmax + 1)], dim=1)
    return [part.unflatten(1, (min(m, 1) + 1, -1)) for m, part in enumerate(parts)]


def join_orders(x: Sequence[Float[Tensor, "E s n C"]]) -> Float[Tensor, "E R C"]:
    """The inverse of ``split_orders``."""
    return torch.cat([part.flatten(1, 2) for part in x], dim=1)

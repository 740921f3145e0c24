"""Linear maps that commute with rotations, in the global basis and in the edge frame."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SO3Linear(nn.Module):
    """One matrix per degree, bias on l = 0 only. weight [L+1, out, in], bias [out]."""

    def __init__(self, in_channels: int, out_channels: int, lmax: int) -> None:
        super().__init__()
        self.lmax = lmax
        bound = 1 / math.sqrt(in_channels)
        self.weight = nn.Parameter(torch.empty(lmax + 1, out_channels, in_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Float[Tensor, "N S I"]) -> Float[Tensor, "N S O"]:
        scalars = nn.functional.linear(x[:, :1], self.weight[0], self.bias)
        parts = [x[:, l * l : (l + 1) ** 2] @ self.weight[l].T for l in range(1, self.lmax + 1)]
        return torch.cat([scalars, *parts], dim=1)

    def scalars(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        """The l = 0 row alone."""
        return nn.functional.linear(x, self.weight[0], self.bias)


class SO2MLinear(nn.Module):
    """The map of one order m > 0: a complex matrix, stored as official weights [2·out, in] (real rows, then imaginary).

    y₊ = W_r x₊ − W_i x₋, y₋ = W_r x₋ + W_i x₊ (Passaro 2023, arXiv 2302.03655, Eq. 3). One real GEMM on [x₊, x₋].
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, 2 * out_features, bias=False)
        with torch.no_grad():
            self.fc.weight.mul_(1 / math.sqrt(2))

    def forward(self, x: Float[Tensor, "E I2"]) -> Float[Tensor, "E O2"]:
        real, imaginary = self.fc.weight.chunk(2, dim=0)
        matrix = torch.cat([torch.cat([real, -imaginary], dim=1), torch.cat([imaginary, real], dim=1)], dim=0)
        return nn.functional.linear(x, matrix)


class SO2Convolution(nn.Module):
    """Linear map of m-primary features in the edge frame, mixing degrees and channels for each |m|.

    Features [E, R·C]; ``extra`` more scalars come out first, from m = 0.
    """

    def __init__(self, in_channels: int, out_channels: int, lmax: int, mmax: int, extra: int = 0) -> None:
        super().__init__()
        self.extra = extra
        self.widths = [(lmax + 1) * in_channels]
        self.fc_m0 = nn.Linear(self.widths[0], (lmax + 1) * out_channels + extra)
        self.so2_m_conv = nn.ModuleList()
        for m in range(1, mmax + 1):
            degrees = lmax + 1 - m
            self.widths.append(2 * degrees * in_channels)
            self.so2_m_conv.append(SO2MLinear(degrees * in_channels, degrees * out_channels))

    def forward(self, x: Float[Tensor, "E RI"]) -> tuple[Float[Tensor, "E X"], Float[Tensor, "E RO"]]:
        """The extra scalars, and the features."""
        parts = x.split(self.widths, dim=1)
        zero = self.fc_m0(parts[0])
        rest = [conv(part) for conv, part in zip(self.so2_m_conv, parts[1:], strict=True)]
        return zero[:, : self.extra], torch.cat([zero[:, self.extra :], *rest], dim=1)

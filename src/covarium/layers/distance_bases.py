"""The radial bases of Equiformer, beside ``ExpNormalBasis``, and its radial function. Letters: E edges, K basis
functions, x = d / cutoff."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from covarium.layers.expnormal import ExpNormalBasis
from covarium.layers.linear import Linear
from covarium.ops.dense import dense
from covarium.ops.envelope import polynomial_envelope


class TrainedGaussianBasis(nn.Module):
    """exp(−½((wx + b − μ_k)/s_k)²) / (a s_k), s = |std| + 1e-5, everything trained; not enveloped.

    The centres start uniform in (0, 1), the widths uniform in (1/K, 1); a = √(2 · 3.14159) in the published code.
    """

    def __init__(self, num_basis: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.mean = nn.Parameter(torch.rand(1, num_basis))
        self.std = nn.Parameter(torch.empty(1, num_basis).uniform_(1.0 / num_basis, 1.0))
        self.weight = nn.Parameter(torch.ones(1, 1))
        self.bias = nn.Parameter(torch.zeros(1, 1))

    def forward(self, distance: Float[Tensor, " E"]) -> Float[Tensor, "E K"]:
        x = self.weight * (distance / self.cutoff).unsqueeze(1) + self.bias
        width = self.std.abs() + 1e-5
        return torch.exp(-0.5 * ((x - self.mean) / width).square()) / (math.sqrt(2 * 3.14159) * width)


class BesselBasis(nn.Module):
    """Polynomial envelope × √(2/cutoff³) sin(f_k x)/x (Gasteiger 2020, arXiv 2003.03123), trained from f = πk."""

    def __init__(self, num_basis: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        frequencies = torch.arange(1, num_basis + 1, dtype=torch.float64) * math.pi
        self.rbf = nn.ParameterDict({"frequencies": nn.Parameter(frequencies.to(torch.get_default_dtype()))})

    def forward(self, distance: Float[Tensor, " E"]) -> Float[Tensor, "E K"]:
        x = distance / self.cutoff
        factor = polynomial_envelope(x) * math.sqrt(2.0 / self.cutoff**3) / x
        return factor.unsqueeze(1) * torch.sin(x.unsqueeze(1) * self.rbf["frequencies"])


BASES = {"exp": ExpNormalBasis, "gaussian": TrainedGaussianBasis, "bessel": BesselBasis}


class RadialProfile(nn.Module):
    """(Linear – LayerNorm – SiLU) for every hidden width, then a linear map and an offset: one weight per output.

    Outputs are computed for chosen ``columns`` only: what cannot matter costs nothing.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            linear = Linear(inputs, width)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.LayerNorm(width), nn.SiLU()]
            inputs = width
        bound = 1 / math.sqrt(inputs)
        self.net = nn.Sequential(*layers, Linear(inputs, outputs, bias=False))
        self.offset = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def hidden(self, scalars: Float[Tensor, "E I"]) -> Float[Tensor, "E H"]:
        """Up to the last linear map."""
        for layer in list(self.net)[:-1]:
            scalars = layer(scalars)
        return scalars

    def last(self, columns: Tensor) -> tuple[Float[Tensor, "n H"], Float[Tensor, " n"]]:
        """Matrix and offset of the last map for some of the outputs."""
        matrix = cast(nn.Linear, self.net[-1]).weight
        return matrix.index_select(0, columns), self.offset.index_select(0, columns)

    def forward(self, scalars: Float[Tensor, "E I"], columns: Tensor) -> Float[Tensor, "E n"]:
        return dense(self.hidden(scalars), *self.last(columns))

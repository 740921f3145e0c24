"""The two radial bases of the Equivariant Transformer; Equiformer has the first one too. Letters: E edges, K basis
functions."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from covarium.layers.constants import ExactConstants


def cosine_cutoff(distance: Float[Tensor, " E"], lower: float, upper: float) -> Float[Tensor, " E"]:
    """½ (cos(π r/upper) + 1) below ``upper``, else 0; with ``lower`` > 0 a full period between the two, 0 at both.

    Zero with its first derivative at the cutoffs; the second derivative jumps there.
    """
    if lower > 0:
        phase = 2 * (distance - lower) / (upper - lower) + 1
        inside = (distance > lower) & (distance < upper)
    else:
        phase, inside = distance / upper, distance < upper
    return torch.where(inside, 0.5 * (torch.cos(math.pi * phase) + 1), 0.0)


class ExpNormalBasis(ExactConstants):
    """C(r) exp(−β_k (exp(α (lower − r)) − μ_k)²), α = 5/(upper − lower) (Unke 2019, arXiv 1902.08408, Eq. 7; Thölke
    2022, arXiv 2202.02541, Eq. 3); C is the cosine cutoff from 0 to ``upper``.

    μ is equidistant from exp(lower − upper) to 1, β = (2/K (1 − exp(lower − upper)))⁻².
    """

    means: Tensor
    betas: Tensor

    def __init__(
        self, num_basis: int, upper: float, lower: float = 0.0, *, trainable: bool = False, stored: bool = False
    ) -> None:
        super().__init__()
        self.lower, self.upper = lower, upper
        # from the cutoffs in Å as in the published code, though the argument reaches exp(−5) only
        start = math.exp(lower - upper)
        means = np.linspace(start, 1.0, num_basis)
        betas = np.full(num_basis, (2 / num_basis * (1 - start)) ** -2)
        _register(self, {"means": means, "betas": betas}, trainable, stored)

    def forward(self, distance: Float[Tensor, " E"]) -> Float[Tensor, "E K"]:
        decay = torch.exp(5 / (self.upper - self.lower) * (self.lower - distance)).unsqueeze(1)
        envelope = cosine_cutoff(distance, 0.0, self.upper).unsqueeze(1)
        return envelope * torch.exp(-self.betas * (decay - self.means).square())


class SpacedGaussianBasis(ExactConstants):
    """exp(c (r − μ_k)²), μ equidistant from ``lower`` to ``upper``, c = −½ over the squared spacing; not enveloped."""

    offset: Tensor
    coeff: Tensor

    def __init__(
        self, num_basis: int, upper: float, lower: float = 0.0, *, trainable: bool = False, stored: bool = False
    ) -> None:
        super().__init__()
        offset = np.linspace(lower, upper, num_basis)
        coeff = np.asarray(-0.5 / (offset[1] - offset[0]) ** 2)
        _register(self, {"offset": offset, "coeff": coeff}, trainable, stored)

    def forward(self, distance: Float[Tensor, " E"]) -> Float[Tensor, "E K"]:
        return torch.exp(self.coeff * (distance.unsqueeze(1) - self.offset).square())


def _register(module: ExactConstants, values: dict[str, np.ndarray], trainable: bool, stored: bool) -> None:
    for name, value in values.items():
        if trainable:
            module.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.get_default_dtype())))
        else:
            module.constant(name, value, stored=stored)

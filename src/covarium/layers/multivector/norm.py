"""Norms of multivectors and scalars, without parameters."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from covarium.algebra.spaces import Space
from covarium.layers.constants import ExactConstants
from covarium.layers.multivector import components
from covarium.ops.multivector import normalise

EPS = 0.01


class EquiNorm(ExactConstants):
    """x / √max(mean over channels of |x|², 0.01), and layer norm of the scalars.

    |x|² is ⟨x, x⟩ where the metric is positive or null; where it is indefinite, Σ_k |⟨⟨x⟩_k, ⟨x⟩_k⟩| over grades
    (de Haan 2023, arXiv 2311.04744, App. E), as the sum over grades could cancel.
    """

    metric: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        order = space.order.ravel()
        metric, grades = space.algebra.metric[order], space.algebra.grades[order]
        self.definite = bool((metric >= 0).all())
        by_grade = metric * (grades == np.arange(space.algebra.n + 1)[:, None])
        self.constant("metric", by_grade)
        # fibre elements whose metric is not null on any row; a slice, as the null ones come last
        self.seen = int((np.abs(space.algebra.metric[space.order]).max(axis=0) > 0).sum())

    def forward(
        self, x: Float[Tensor, "R mC T"], s: Float[Tensor, "T S"] | None
    ) -> tuple[Float[Tensor, "R mC T"], Float[Tensor, "T S"] | None]:
        """Both normalised; differentiable twice, save where the clamp begins."""
        channels = x.shape[1] // self.space.fibre
        if self.definite:
            x = normalise(x, self.seen * channels, channels, EPS)
        else:
            flat = components(x, self.space).flatten(0, 1).square().flatten(1)
            square = (self.metric @ flat).abs().sum(0).unflatten(0, (channels, -1)).mean(0)
            x = x * torch.rsqrt(square.clamp(min=EPS))
        return x, None if s is None else torch.nn.functional.layer_norm(s, s.shape[-1:])

"""Functions of the edge length. Letters: E edges, K basis functions, A element channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from covarium.layers.constants import ExactConstants
from covarium.layers.linear import Linear
from covarium.ops.dense import dense
from covarium.ops.gather import gather


class GaussianBasis(ExactConstants):
    """K Gaussians with centres on linspace(0, cutoff) and standard deviation ``width`` spacings; not enveloped."""

    offset: Tensor

    def __init__(self, num_basis: int, cutoff: float, width: float = 2.0) -> None:
        super().__init__()
        centres = np.linspace(0.0, cutoff, num_basis)
        self.coefficient = -0.5 / (width * (centres[1] - centres[0])) ** 2
        self.constant("offset", centres)

    def forward(self, distance: Float[Tensor, " E"]) -> Float[Tensor, "E K"]:
        return torch.exp(self.coefficient * (distance.unsqueeze(1) - self.offset).square())


class RadialFunction(nn.Module):
    """Linear – LayerNorm – SiLU – Linear – LayerNorm – SiLU – Linear on [basis, source element, target element].

    The first linear layer is a sum of three: one product per edge for the basis, and one row of a table per element for
    each of the two embeddings (exact, and the tables are computed once per element instead of once per edge).
    """

    def __init__(self, num_basis: int, element_channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.num_basis, self.element_channels = num_basis, element_channels
        self.net = nn.Sequential(
            Linear(num_basis + 2 * element_channels, hidden), nn.LayerNorm(hidden), nn.SiLU(),
            Linear(hidden, hidden), nn.LayerNorm(hidden), nn.SiLU(),
            Linear(hidden, out),
        )  # fmt: skip

    def forward(
        self,
        basis: Float[Tensor, "E K"],
        elements: tuple[Float[Tensor, "Z A"], Float[Tensor, "Z A"]] | None,
        z: Sequence[Int[Tensor, " E"]],
    ) -> Float[Tensor, "E out"]:
        """``elements``: source and target tables, or None; ``z``: source and target elements."""
        first = self.net[0]
        assert isinstance(first, nn.Linear)
        x = dense(basis, first.weight[:, : self.num_basis].contiguous(), first.bias)
        if elements is not None:
            w = first.weight[:, self.num_basis :]
            for table, index, part in zip(elements, z, w.split(self.element_channels, dim=1), strict=True):
                x = x + gather(nn.functional.linear(table, part), index)
        for layer in list(self.net)[1:]:
            x = layer(x)
        return x

"""Equivariant linear maps between multivectors and scalars (Brehmer 2023, arXiv 2305.18415, Eq. 4, for any space)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from covarium.algebra.spaces import PROJECTIVE, Space
from covarium.layers.constants import ExactConstants
from covarium.layers.linear import Linear
from covarium.ops.multivector import LinearWeights, block_linear

Init = Literal["default", "small", "almost_unit_scalar"]


class Weights(NamedTuple):
    """Parameters of a map as they are stored: coefficients [O, I, A] of the equivariant maps, the rest as in
    ``LinearWeights``; the first axis of all is the output channel."""

    coefficients: Tensor
    from_scalars: Tensor | None
    bias: Tensor | None
    to_scalars: Tensor | None
    scalars: Tensor | None
    scalar_bias: Tensor | None

    @staticmethod
    def join(parts: Sequence[Weights]) -> Weights:
        """Several maps of one input as one map, outputs one after another."""
        rest = []
        for column in zip(*[part[1:] for part in parts], strict=True):
            present = [entry for entry in column if entry is not None]
            rest.append(torch.cat(present) if present else None)
        return Weights(torch.cat([part.coefficients for part in parts]), *rest)

    def heads_first(self, groups: int, heads: int) -> Weights:
        """Output channels (group, channel, head) in the order (group, head, channel)."""

        def turn(w: Tensor) -> Tensor:
            return w.unflatten(0, (groups, -1, heads)).transpose(1, 2).flatten(0, 2)

        return Weights(turn(self.coefficients), *[None if w is None else turn(w) for w in self[1:]])


class EquiLinear(ExactConstants):
    """The most general equivariant linear map, with scalars entering and leaving through the component 1.

    Parameter names are those of the official code. Biases: ``s2mvs.bias``, or ``bias`` [O, 1] without scalars in.

    Args:
        space: of the multivectors.
        in_mv, out_mv: multivector channels.
        in_s, out_s: scalar channels, 0 for none.
        init: ``default`` keeps the variance of the components, ``small`` gives a tenth of it in standard deviation,
            ``almost_unit_scalar`` outputs near 1 (official names and numbers for the projective space).
    """

    mixing: Tensor

    def __init__(
        self, space: Space, in_mv: int, out_mv: int, in_s: int = 0, out_s: int = 0, init: Init = "default"
    ) -> None:
        super().__init__()
        self.space = space
        self.weight = nn.Parameter(torch.empty(out_mv, in_mv, len(space.linear_maps)))
        self.bias = None if in_s else nn.Parameter(torch.zeros(out_mv, 1))
        self.s2mvs = Linear(in_s, out_mv) if in_s else None
        self.mvs2s = Linear(in_mv, out_s) if out_s else None
        self.s2s = Linear(in_s, out_s, bias=False) if in_s and out_s else None
        self.constant("mixing", space.mixing)
        self._initialise(init)

    def weights(self) -> Weights:
        return Weights(
            self.weight,
            None if self.s2mvs is None else self.s2mvs.weight,
            self.s2mvs.bias if self.s2mvs is not None else self.bias.squeeze(1) if self.bias is not None else None,
            None if self.mvs2s is None else self.mvs2s.weight,
            None if self.s2s is None else self.s2s.weight,
            None if self.mvs2s is None else self.mvs2s.bias,
        )

    def assemble(self, weights: Weights) -> LinearWeights:
        """One matrix per row block from the coefficients."""
        blocks = torch.einsum("jfga,oia->jfogi", self.mixing, weights.coefficients)
        return LinearWeights(blocks.flatten(3).flatten(1, 2), *weights[1:])

    def using(
        self,
        weights: Weights,
        x: Float[Tensor, "R mI T"],
        s: Float[Tensor, "T S"] | None,
        gate: Float[Tensor, "I T"] | None = None,
    ) -> tuple[Float[Tensor, "R mO T"], Float[Tensor, "T S2"] | None]:
        """The map with other weights than its own, e.g. those of several layers joined; x times ``gate`` first."""
        return block_linear(x, s, self.space.blocks, self.assemble(weights), gate)

    def forward(
        self, x: Float[Tensor, "R mI T"], s: Float[Tensor, "T S"] | None = None
    ) -> tuple[Float[Tensor, "R mO T"], Float[Tensor, "T S2"] | None]:
        """Multivectors and scalars; the latter None when the layer gives none."""
        return self.using(self.weights(), x, s)

    @torch.no_grad()
    def _initialise(self, init: Init) -> None:
        """U(−f B, f B), B = 1/√inputs, f² per map; what reaches the component 1 from multivectors and from scalars has
        half the variance each. In conformal spaces, those where the ideal vector is a sum of generators, the algebra
        starts as the identity (de Haan 2023, arXiv 2311.04744, App. C)."""
        size = {"default": 1.0, "small": 0.1, "almost_unit_scalar": 0.5}[init]
        in_mv = self.weight.shape[1]
        bound = size / math.sqrt(in_mv)
        if np.count_nonzero(self.space.ideal) > 1:
            shared = torch.empty(self.weight.shape[:2]).uniform_(-bound, bound)
            norms = self.weight.new_tensor(_grade_norms(self.space))
            self.weight.zero_()
            self.weight[..., : len(norms)] = shared.unsqueeze(-1) * norms
        else:
            self.weight.uniform_(-bound, bound).mul_(self.weight.new_tensor(_factors(self.space)))
        if self.s2mvs is not None:
            self.weight[..., 0].mul_(math.sqrt(0.5))
            self.s2mvs.weight.uniform_(-1, 1).mul_(size * math.sqrt(0.5 / self.s2mvs.in_features))
            spread = 1 / math.sqrt(self.s2mvs.in_features + in_mv)
            shift = 1.0 if init == "almost_unit_scalar" else 0.0
            self.s2mvs.bias.uniform_(shift - spread, shift + spread)
        small = 0.1 if init == "small" else 1.0
        maps = [layer for layer in (self.mvs2s, self.s2s) if layer is not None]
        for layer in maps:
            layer.weight.uniform_(-1, 1).mul_(small / math.sqrt(layer.in_features * len(maps)))
        if self.mvs2s is not None:
            spread = 1 / math.sqrt(sum(layer.in_features for layer in maps))
            self.mvs2s.bias.uniform_(-spread, spread)


def _factors(space: Space) -> list[float]:
    """f of each map, 1 for those between grades; those of the official code in projective space."""
    if space == PROJECTIVE:
        return [math.sqrt(f) for f in (1.0, 4.0, 6.0, 2.0, 0.5, 0.5, 1.5, 1.5, 0.5)]
    norms = _grade_norms(space)
    return norms + [1.0] * (len(space.linear_maps) - len(norms))


def _grade_norms(space: Space) -> list[float]:
    """Of the projections on grades, the first of the maps."""
    return [math.sqrt(math.comb(space.algebra.n, k)) for k in range(space.algebra.n + 1)]

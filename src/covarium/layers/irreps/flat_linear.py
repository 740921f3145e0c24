"""Linear maps between direct sums of irreps, their matrices one after another in a vector as in published checkpoints.

Features are lists over the entries of an ``Irreps``, each [N, 2l+1, mul].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from covarium.algebra.irreps import SCALAR, Irrep, Irreps
from covarium.ops.dense import dense
from covarium.ops.gather import gather

Features = list[Float[Tensor, "N _ _"]]


def joined(x: Sequence[Float[Tensor, "N _ _"]]) -> Float[Tensor, "N D"]:
    """Features in one tensor."""
    return torch.cat([part.flatten(1) for part in x], dim=1)


def separate(x: Float[Tensor, "N D"], irreps: Irreps) -> Features:
    """The inverse of ``joined`` for features of the first of ``irreps``, as many as there are columns for."""
    features, start = [], 0
    for mul, irrep in irreps:
        end = start + (2 * irrep.l + 1) * mul
        if end <= x.shape[1]:
            features.append(x[:, start:end].unflatten(1, (-1, mul)))
        start = end
    return features


class FlatWeight(nn.Parameter):
    """Matrices in a vector; an optimiser decays it like matrices, not like a bias."""


class FlatLinear(nn.Module):
    """y_w = Σ_u W[u, w] x_u for every irrep, a bias on even scalars; with attributes Σ_uv W[u, v, w] x_u a_v.

    Weights start from N(0, 1/fan_in), fan_in = in channels × attributes (Liao 2023, arXiv 2206.11990, code), so that
    nothing is divided at run time. Parameters: ``tp.weight`` and, where there are even scalars, ``bias.0``.

    Args:
        irreps_in, irreps_out: an output without an input of its irrep is zero.
        bias: on even scalars.
        attributes: number of scalars that multiply the input; 1 is a plain linear map.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, *, bias: bool = True, attributes: int = 1) -> None:
        super().__init__()
        self.irreps_in, self.irreps_out, self.attributes = irreps_in, irreps_out, attributes
        self.pairs = [
            (k, n, (mul, attributes, irreps_out.entries[n][0]))
            for k, (mul, irrep) in enumerate(irreps_in)
            for n, (_, other) in enumerate(irreps_out)
            if other == irrep
        ]
        blocks = [torch.randn(math.prod(shape)) / math.sqrt(shape[0] * shape[1]) for _, _, shape in self.pairs]
        self.sizes = [len(block) for block in blocks]
        self.tp = nn.ParameterDict({"weight": FlatWeight(torch.cat(blocks))})
        scalars = irreps_out.count(SCALAR) if bias else 0
        self.bias = nn.ParameterList([torch.zeros(scalars)] if scalars else [])

    def matrices(self) -> dict[Irrep, Float[Tensor, "_ _"]]:
        """[in channels × attributes, out channels] of every irrep that has one, the channels of the input slowest."""
        parts = self.tp["weight"].split(self.sizes)
        shapes = [(shape[0] * shape[1], shape[2]) for _, _, shape in self.pairs]
        irreps = [self.irreps_out.entries[n][1] for _, n, _ in self.pairs]
        return {irrep: part.view(shape) for irrep, part, shape in zip(irreps, parts, shapes, strict=True)}

    def forward(self, x: Sequence[Float[Tensor, "N _ _"]], attributes: Float[Tensor, "N A"] | None = None) -> Features:
        """Entries of irreps_out; if ``x`` is shorter than ``irreps_in``, only those that its entries give."""
        matrices = self.matrices()
        source = {n: k for k, n, _ in self.pairs}
        held = {irrep for _, irrep in self.irreps_in.entries[: len(x)]}
        outputs = []
        for n, (mul, irrep) in enumerate(self.irreps_out):
            if n not in source and len(x) == len(self.irreps_in):
                outputs.append(x[0].new_zeros(x[0].shape[0], 2 * irrep.l + 1, mul))
            elif irrep in held:
                part = x[source[n]]
                if attributes is not None:
                    part = (part.unsqueeze(3) * attributes[:, None, None, :]).flatten(2)
                outputs.append(dense(part, matrices[irrep].T))
        if len(self.bias):
            outputs[0] = outputs[0] + self.bias[0]
        return outputs


class ElementTable(nn.Module):
    """One row of scalars per kind, from N(0, 1): a linear map of one-hot vectors."""

    def __init__(self, kinds: int, channels: int) -> None:
        super().__init__()
        one_hot, scalars = (Irreps(((mul, SCALAR),)) for mul in (kinds, channels))
        self.atom_type_lin = FlatLinear(one_hot, scalars)
        with torch.no_grad():
            self.atom_type_lin.tp["weight"].mul_(math.sqrt(kinds))

    def forward(self, kinds: Int[Tensor, " N"]) -> Float[Tensor, "N _"]:
        """The rows of ``kinds``."""
        return gather(self.atom_type_lin.matrices()[SCALAR] + self.atom_type_lin.bias[0], kinds)


def second_moment_silu(x: Tensor) -> Tensor:
    """SiLU with unit second moment under a standard normal, up to the sampling error of the published constant."""
    return SILU * nn.functional.silu(x)


# 1/√⟨f(z)²⟩ over 10⁶ seeded normals z (e3nn 0.4.4, normalize2mom); the integrals are 1.6766, 1.8462 and 1.5315
SILU = 1.6791767923989418
SIGMOID = 1.8467055342154763
SMOOTH_LEAKY_RELU = 1.531320475574866


class Gate(nn.Module):
    """Even scalars through SiLU; everything else times σ of a gate scalar per channel, both with unit second moment.

    Reads ``irreps_in``: the entries of ``irreps``, with the gates appended to the even scalars.
    """

    def __init__(self, irreps: Irreps) -> None:
        super().__init__()
        self.irreps = irreps
        self.sizes = [mul for mul, _ in irreps]
        self.irreps_in = irreps.with_scalars(sum(self.sizes[1:]))

    def scalars(self, x: Float[Tensor, "N _"]) -> tuple[Float[Tensor, "N _"], list[Float[Tensor, "N _"]]]:
        """Activated scalars, and the factors of the other entries, from scalars and gates side by side."""
        scalars, *gates = x.split(self.sizes, dim=1)
        return second_moment_silu(scalars), [SIGMOID * torch.sigmoid(g) for g in gates]

    def forward(self, x: Sequence[Float[Tensor, "N _ _"]]) -> Features:
        """Only the scalars where ``x`` holds nothing else."""
        scalars, factors = self.scalars(x[0].squeeze(1))
        return [scalars.unsqueeze(1), *[part * f.unsqueeze(1) for part, f in zip(x[1:], factors, strict=False)]]

"""Norms of equivariant features [N, S, C], eps 1e-5 inside the root.

Liao 2023, arXiv 2306.12059, section "Separable Layer Normalization", and its code for the three names.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from covarium.layers.constants import ExactConstants

NormType = Literal["layer_norm_sh", "rms_norm_sh", "layer_norm"]
EPS = 1e-5


def _degrees(lmax: int) -> np.ndarray:
    return np.concatenate([np.full(2 * l + 1, l) for l in range(lmax + 1)])


class LayerNormSH(ExactConstants):
    """LayerNorm on l = 0; one scale per atom for all l > 0, each degree with equal weight."""

    balance: Tensor
    degree: Tensor

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.norm_l0 = nn.LayerNorm(channels, eps=EPS)
        self.affine_weight = nn.Parameter(torch.ones(lmax, channels))
        degree = _degrees(lmax)[1:]
        self.constant("balance", 1 / ((2 * degree + 1) * max(lmax, 1)) / channels)
        self.register_buffer("degree", torch.from_numpy(degree - 1), persistent=False)

    def forward(self, x: Float[Tensor, "N S C"]) -> Float[Tensor, "N S C"]:
        first, rest = x.split([1, x.shape[1] - 1], dim=1)
        scalars = self.norm_l0(first)
        mean = torch.einsum("nsc,s->n", rest.square(), self.balance)
        scale = torch.rsqrt(mean + EPS)[:, None, None]
        return torch.cat([scalars, rest * scale * self.affine_weight.index_select(0, self.degree)], dim=1)


class RMSNormSH(ExactConstants):
    """l = 0 centred over channels; one scale per atom for all degrees, each with equal weight."""

    balance: Tensor
    degree: Tensor

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.affine_weight = nn.Parameter(torch.ones(lmax + 1, channels))
        self.affine_bias = nn.Parameter(torch.zeros(channels))
        degree = _degrees(lmax)
        self.constant("balance", 1 / ((2 * degree + 1) * (lmax + 1)) / channels)
        self.register_buffer("degree", torch.from_numpy(degree), persistent=False)

    def forward(self, x: Float[Tensor, "N S C"]) -> Float[Tensor, "N S C"]:
        x = _centred(x)
        mean = torch.einsum("nsc,s->n", x.square(), self.balance)
        scale = torch.rsqrt(mean + EPS)[:, None, None]
        return _with_bias(x * scale * self.affine_weight.index_select(0, self.degree), self.affine_bias)


class MergedRMSNorm(ExactConstants):
    """``RMSNormSH`` without centring and without bias (Liao 2026, arXiv 2604.09130, code: merge_rms_norm)."""

    balance: Tensor
    degree: Tensor

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.affine_weight = nn.Parameter(torch.ones(lmax + 1, channels))
        degree = _degrees(lmax)
        self.constant("balance", 1 / ((2 * degree + 1) * (lmax + 1)) / channels)
        self.register_buffer("degree", torch.from_numpy(degree), persistent=False)

    def forward(self, x: Float[Tensor, "N S C"]) -> Float[Tensor, "N S C"]:
        mean = torch.einsum("nsc,s->n", x.square(), self.balance)
        return x * torch.rsqrt(mean + EPS)[:, None, None] * self.affine_weight.index_select(0, self.degree)


class Float32RMSNorm(nn.RMSNorm):
    """RMSNorm whose quotient is rounded to float32, as in the published EquiformerV3 code, whatever the dtype."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + EPS)).to(x.dtype) * self.weight


class LayerNormPerDegree(nn.Module):
    """l = 0 centred over channels; every degree divided by its own root mean square over m and channels."""

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.affine_weight = nn.Parameter(torch.ones(lmax + 1, channels))
        self.affine_bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "N S C"]) -> Float[Tensor, "N S C"]:
        x = _centred(x)
        parts = x.split([2 * l + 1 for l in range(self.lmax + 1)], dim=1)
        scaled = [part * torch.rsqrt(part.square().mean((1, 2), keepdim=True) + EPS) for part in parts]
        weighted = [part * weight for part, weight in zip(scaled, self.affine_weight, strict=True)]
        return _with_bias(torch.cat(weighted, dim=1), self.affine_bias)


def _centred(x: Tensor) -> Tensor:
    first, rest = x.split([1, x.shape[1] - 1], dim=1)
    return torch.cat([first - first.mean(2, keepdim=True), rest], dim=1)


def _with_bias(x: Tensor, bias: Tensor) -> Tensor:
    first, rest = x.split([1, x.shape[1] - 1], dim=1)
    return torch.cat([first + bias, rest], dim=1)


NORMS = {"layer_norm_sh": LayerNormSH, "rms_norm_sh": RMSNormSH, "layer_norm": LayerNormPerDegree}

"""Attention over the edges of each target atom. Letters: E edges, H heads, N atoms."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from covarium.ops.gather import gather, scatter_sum

Shift = Literal["weight", "logit"]


def smooth_leaky_relu(x: Tensor, slope: float = 0.2) -> Tensor:
    """((1+a)/2) x + ((1−a)/2) x (2σ(x) − 1) (Liao 2023, arXiv 2206.11990, code), with a = ``slope``."""
    return slope * x + (1 - slope) * x * torch.sigmoid(x)


def edge_softmax(
    logits: Float[Tensor, "E H"],
    target: Int[Tensor, " E"],
    num_atoms: int,
    envelope: Float[Tensor, " E"] | None = None,
    *,
    eps: float = 1e-16,
    shift: Shift = "weight",
) -> Float[Tensor, "E H"]:
    """Softmax over the edges of each target.

    With an envelope e the weights are e exp(z) / (Σ e exp(z) + eps), so that an edge leaves the sum smoothly at the
    cutoff (Liao 2026, arXiv 2604.09130, smooth-cutoff attention; there the weight is multiplied by e once more, which
    is the caller's business). The maximum, which only keeps exp in range, carries no gradient; with ``shift="weight"``
    it is taken over e exp(z), so that an edge of weight zero cannot push all others below eps; ``"logit"`` takes it
    over exp(z), as the published code does.
    """
    # not in bfloat16
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    index = target.unsqueeze(1).expand_as(logits)
    lowest = logits.new_full((num_atoms, logits.shape[1]), -torch.inf)
    height = logits.detach()
    if envelope is not None and shift == "weight":
        height = height + envelope.detach().clamp(min=torch.finfo(logits.dtype).tiny).log().unsqueeze(1)
    top = lowest.scatter_reduce(0, index, height, "amax")
    weights = torch.exp(logits - top.index_select(0, target))
    if envelope is not None:
        weights = weights * envelope.unsqueeze(1)
    total = scatter_sum(weights, target, num_atoms)
    return weights / (gather(total, target) + eps)

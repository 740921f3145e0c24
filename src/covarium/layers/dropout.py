"""Dropout with an explicit generator, so that a resumed run draws the same numbers."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def drop(x: Tensor, rate: float, shape: tuple[int, ...], rng: torch.Generator | None) -> Tensor:
    """x times a mask of ``shape`` (broadcast against x), kept entries divided by the keep probability.

    Args:
        x: any tensor.
        rate: probability of zero; 0 returns x.
        shape: of the mask; 1 where entries share a decision.
        rng: on the device of x; None uses torch's global generator.
    """
    if rate == 0:
        return x
    keep = torch.rand(shape, generator=rng, device=x.device, dtype=x.dtype) >= rate
    return x * (keep.to(x.dtype) / (1 - rate))


def drop_path(
    x: Float[Tensor, "N S C"], rate: float, batch: Int[Tensor, " N"], num_graphs: int, rng: torch.Generator | None
) -> Float[Tensor, "N S C"]:
    """Drop a whole residual branch, one decision per structure (stochastic depth, Huang 2016, arXiv 1603.09382)."""
    if rate == 0:
        return x
    mask = drop(x.new_ones(num_graphs), rate, (num_graphs,), rng)
    return x * mask.index_select(0, batch)[:, None, None]

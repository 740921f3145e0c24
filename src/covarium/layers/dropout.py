"""Dropout with an explicit generator, so that a resumed run draws the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Given(torch.Generator):
    """A generator of numbers that dropout takes from elsewhere: ``uniform(shape, x)`` for a mask of x."""

    uniform: Callable[[tuple[int, ...], Tensor], Tensor]

    def __new__(cls, uniform: Callable[[tuple[int, ...], Tensor], Tensor]) -> Self:
        one = super().__new__(cls)
        one.uniform = uniform
        return one


def uniform(shape: tuple[int, ...], x: Tensor, rng: torch.Generator | None) -> Tensor:
    """Numbers of ``shape`` between 0 and 1, in the dtype of x and on its device."""
    if isinstance(rng, Given):
        return rng.uniform(shape, x)
    return torch.rand(shape, generator=rng, device=x.device, dtype=x.dtype)


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
    keep = uniform(shape, x, rng) >= rate
    return x * (keep.to(x.dtype) / (1 - rate))


def drop_path(
    x: Float[Tensor, "N S C"], rate: float, batch: Int[Tensor, " N"], num_graphs: int, rng: torch.Generator | None
) -> Float[Tensor, "N S C"]:
    """Drop a whole residual branch, one decision per structure (stochastic depth, Huang 2016, arXiv 1603.09382)."""
    if rate == 0:
        return x
    mask = drop(x.new_ones(num_graphs), rate, (num_graphs,), rng)
    return x * mask.index_select(0, batch)[:, None, None]

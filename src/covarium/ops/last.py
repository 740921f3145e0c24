"""Derivatives of which no further derivative can be taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def last(values: Sequence[Tensor | None], inputs: Sequence[Tensor | None], why: str) -> list[Tensor | None]:
    """The values, whose derivative with respect to what they were made of is refused, however it is asked for.

    torch's ``once_differentiable`` refuses only where all gradients are asked for, and leaves them out elsewhere.

    Args:
        values: made of ``inputs`` without a graph.
        inputs: None where there is none.
        why: the message.

    Raises (when differentiated):
        RuntimeError: ``why``.
    """
    if not torch.is_grad_enabled():
        return list(values)
    there = [v for v in values if v is not None]
    found = iter(_Last.apply(why, len(there), *there, *(t for t in inputs if t is not None)) if there else ())
    return [None if v is None else next(found) for v in values]


class _Last(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, why: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.why = why
        return tensors[:count]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:  # noqa: ANN401
        raise RuntimeError(ctx.why)

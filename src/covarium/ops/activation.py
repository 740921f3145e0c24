"""SiLU whose derivatives are one pass each.

torch writes the derivative of its SiLU as a chain of products once that is to be differentiated again, as in training
on forces; each product is a pass over memory.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x)
        return torch.nn.functional.silu(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return _SiluBackward.apply(grad, x)


class _SiluBackward(torch.autograd.Function):
    """g f'(x), with f' = σ (1 + x (1 − σ)) and f'' = σ (1 − σ) (2 + x (1 − 2σ))."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(g, x)
        return torch.ops.aten.silu_backward(g, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        g, x = ctx.saved_tensors
        s = torch.sigmoid(x)
        # torch's own backward of the sigmoid is s (1 − s) times its first argument
        curvature = torch.ops.aten.sigmoid_backward(torch.addcmul(x + 2, x, s, value=-2), s)
        return _SiluBackward.apply(grad, x), grad * g * curvature


def silu(x: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """x σ(x); differentiable to any order."""
    return _Silu.apply(x)


def silu_gradient(g: Float[Tensor, "*rest"], x: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """g times the derivative of silu at x; differentiable to any order."""
    return _SiluBackward.apply(g, x)

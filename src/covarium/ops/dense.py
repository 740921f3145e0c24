"""Large products with a matrix, x Wᵀ.

On the CPU torch multiplies float32 matrices with MKL; oneDNN, which torch has as well, takes 4 to 15 % less time where
the processor is not by Intel (measured on an EPYC), if the products are large.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from covarium.ops.traced import traced
from covarium.ops.wanted import wanted

LARGE = 2**24  # multiplications; by the clock equal at 2²², a twentieth less here


def dense(
    x: Float[Tensor, "E I"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None = None,
    *,
    least: int = LARGE,
) -> Float[Tensor, "E O"]:
    """x Wᵀ, plus ``bias``; differentiable to any order. ``least``: multiplications from which oneDNN is worth it."""
    if not _faster(x, weight, least):
        return linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        y: Tensor = _Dense.apply(x, weight, bias)
        return y
    return onednn(x, weight, bias)


def _faster(x: Tensor, weight: Tensor, least: int) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not (traced(x) or traced(weight))
        and x.shape[0] * weight.numel() >= least
        and x.is_contiguous()  # it would be copied
        and (weight.is_contiguous() or weight.T.is_contiguous())  # for other strides oneDNN has only plain loops
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same by oneDNN, without a graph; float32 on the CPU."""
    bias = None if bias is None else bias.contiguous()  # whose strides it does not look at
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.biased = bias is not None
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, *needs_bias = wanted(ctx)
        return (
            dense(g, weight.T) if needs_x else None,
            _of_weight(g, x, weight) if needs_weight else None,
            g.sum(0) if any(needs_bias) else None,
        )


def _of_weight(g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """gᵀ x, laid out as the matrix is: what follows goes through both together."""
    return g.T @ x if weight.is_contiguous() else (x.T @ g).T

"""Products with a matrix, x Wᵀ, and gradients of matrices, gᵀ x.

On the CPU torch multiplies float32 matrices with MKL, which makes no use of the AVX-512 of a processor that is not by
Intel. oneDNN, which torch has as well, takes half the time on an EPYC of the fifth generation, whose vectors have the
full width, and was 4 to 15 % faster for large products on an older one. A call takes 10 μs more.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from covarium.ops.traced import traced
from covarium.ops.wanted import wanted


def _wide() -> bool:
    """Whether the processor is by AMD and its vectors have the full width: those that know AVX-VNNI as well."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch has it from 2.10 on
    return "AMD" in str(found.get("cpu_name", "")) and bool(found.get("avx512_f")) and bool(found.get("avx_vnni"))


# multiplications from which oneDNN is faster by the clock: in passing, in a graph, by a matrix of few rows
LARGE, RECORDED = (2**20, 2**22) if _wide() else (2**24, 2**24)
FEW = 2**20
MATRIX = 2**12  # numbers of a matrix from which it is faster for any number of rows


def dense(
    x: Float[Tensor, "*rest I"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None = None,
    *,
    least: int = LARGE,
) -> Float[Tensor, "*rest O"]:
    """x Wᵀ, plus ``bias``; differentiable to any order.

    ``least``: multiplications from which oneDNN is worth it; where a graph is kept, not fewer than ``RECORDED``.
    """
    if _in_graph(x, weight):
        return recorded_product(x, weight, bias)
    if not _possible(x, weight) or not _fitting(x, weight, bias):
        return linear(x, weight, bias)
    recorded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if x.numel() * weight.shape[0] < (max(least, RECORDED) if recorded else least):
        return linear(x, weight, bias)
    y: Tensor = _Dense.apply(x, weight, bias) if recorded else onednn(x, weight, bias)
    return y


def outer(g: Float[Tensor, "E O"], x: Float[Tensor, "E I"]) -> Float[Tensor, "O I"]:
    """gᵀ x; differentiable to any order."""
    if not _possible(g, x) or g.numel() * x.shape[1] < RECORDED:
        return g.T @ x
    recorded = torch.is_grad_enabled() and (g.requires_grad or x.requires_grad)
    found: Tensor = _Outer.apply(g, x) if recorded else onednn(g.T, x.contiguous().T)
    return found


def _in_graph(x: Tensor, weight: Tensor) -> bool:
    """Whether a graph that is recorded, for any number of rows, is to hold oneDNN's: by the sizes that are known."""
    if not (traced(x) and LARGE < RECORDED and x.is_cpu and x.dtype is weight.dtype is torch.float32 and x.dim() > 1):
        return False
    known = [n for n in (*x.shape, weight.shape[0]) if isinstance(n, int)]
    least = RECORDED if len(known) == x.dim() + 1 else MATRIX
    return math.prod(known) >= least and not torch.is_autocast_enabled("cpu")


def _possible(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN multiplies these, and what torch is to do with the result can be done with its results."""
    return (
        a.dtype is b.dtype is torch.float32
        and a.is_cpu
        and b.is_cpu
        and a.layout is b.layout is torch.strided
        and not (traced(a) or traced(b) or torch.compiler.is_compiling())
        # transforms of functions and derivatives in forward mode, for which it has no rules
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


def _fitting(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether shapes and strides are those that it knows; of others it says nothing, or nothing that helps."""
    out = weight.shape[:1]
    return (
        x.dim() > 1
        and weight.dim() == 2
        and x.shape[-1] == weight.shape[1]
        and (bias is None or (bias.shape == out and bias.dtype is x.dtype and bias.device == x.device))
        and _laid_out(weight)
    )


def _laid_out(weight: Tensor) -> bool:
    """For other strides oneDNN has only plain loops."""
    return weight.is_contiguous() or weight.T.is_contiguous()


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ by oneDNN, without a graph; float32 on the CPU."""
    bias = None if bias is None else bias.contiguous()  # whose strides it does not look at
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return y


@torch.library.custom_op("covarium::product", mutates_args=())
def recorded_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same in a graph that is compiled: torch's compiler takes oneDNN's own for constant matrices alone."""
    return onednn(x, weight if _laid_out(weight) else weight.contiguous(), bias)


@recorded_product.register_fake
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _derivatives(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad
    rows = _rows(g)
    return (
        recorded_product(g, weight.T, None) if needs_x else None,
        recorded_product(rows.T, _rows(x).T, None) if needs_weight else None,
        rows.sum(0) if needs_bias else None,
    )


recorded_product.register_autograd(_derivatives, setup_context=_keep)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.rows = weight.is_contiguous()
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, *needs_bias = wanted(ctx)
        rows, of_weight = _rows(g), None
        if needs_weight:  # laid out as the matrix is: what follows goes through both together
            of_weight = outer(rows, _rows(x)) if ctx.rows else outer(_rows(x), rows).T
        return dense(g, weight.T) if needs_x else None, of_weight, rows.sum(0) if any(needs_bias) else None


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


class _Outer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:  # noqa: ANN401
        of_g, of_x = ctx.needs_input_grad
        ctx.save_for_backward(g if of_x else None, x if of_g else None)
        return onednn(g.T, x.contiguous().T)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        g, x = ctx.saved_tensors
        needs_g, needs_x = wanted(ctx)
        return dense(x, h) if needs_g else None, dense(g, h.T) if needs_x else None

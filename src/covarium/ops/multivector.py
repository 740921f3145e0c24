"""Sparse products and block-wise linear maps of multivectors that are stored component by component.

Letters: R rows and m fibre elements (K = R m components, see ``algebra.spaces``), J row blocks, C channels, T tokens,
S scalar channels. Multivectors are [R, m·C, T], the fibre outermost in the middle, so that the C·T numbers of one
component lie together: a product is a sequence of multiply-adds of whole components, a linear map one small matrix per
row. Scalars are [T, S].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Term = tuple[int, int, int, float]  # out, left, right, sign


class _Bilinear(torch.autograd.Function):
    """z[out] += sign · x[left] y[right]; its derivatives are of the same kind, so it can be derived to any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, terms: Sequence[Term], rows: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, y)
        ctx.terms = terms
        return _accumulate(x, y, terms, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # noqa: ANN401
        x, y = ctx.saved_tensors
        by_x = by_y = None
        if ctx.needs_input_grad[0]:
            by_x = _Bilinear.apply(grad, y, [(i, k, j, s) for k, i, j, s in ctx.terms], x.shape[0])
        if ctx.needs_input_grad[1]:
            by_y = _Bilinear.apply(grad, x, [(j, k, i, s) for k, i, j, s in ctx.terms], y.shape[0])
        return by_x, by_y, None, None


class _Quadratic(torch.autograd.Function):
    """z[out] += sign · x[left] x[right] of one tensor: one pass for both derivatives, nothing to add up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, terms: Sequence[Term], back: Sequence[Term], rows: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x)
        ctx.back = back
        return _accumulate(x, x, terms, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return _Bilinear.apply(grad, x, ctx.back, x.shape[0]), None, None, None


def _accumulate(x: Tensor, y: Tensor, terms: Sequence[Term], rows: int) -> Tensor:
    out = x.new_zeros(rows, *x.shape[1:])
    z, a, b = out.unbind(0), x.unbind(0), y.unbind(0)
    for k, i, j, s in terms:
        z[k].addcmul_(a[i], b[j], value=s)
    return out


def quadratic(
    x: Float[Tensor, "I M"], terms: Sequence[Term], back: Sequence[Term], rows: int
) -> Float[Tensor, "rows M"]:
    """Σ sign · x[left] x[right] over the terms.

    Args:
        x: I components as rows.
        terms: (out, left, right, sign).
        back: terms of the derivative, from ``transposed``, made once.
        rows: of the result.
    """
    return _Quadratic.apply(x, terms, back, rows)


def transposed(terms: Sequence[Term]) -> list[Term]:
    """Terms of the derivative of ``quadratic``: of (gradient, x) to x."""
    return [(i, k, j, s) for k, i, j, s in terms] + [(j, k, i, s) for k, i, j, s in terms]


class LinearWeights(NamedTuple):
    """Weights of one equivariant linear map; scalars may be absent on either side.

    Attributes:
        blocks: [J, m·O, m·I] for each row block, O and I channels.
        from_scalars: [O, S] into the component 1.
        bias: [O] on the component 1.
        to_scalars: [S', I] from the component 1.
        scalars: [S', S].
        scalar_bias: [S'].
    """

    blocks: Tensor
    from_scalars: Tensor | None
    bias: Tensor | None
    to_scalars: Tensor | None
    scalars: Tensor | None
    scalar_bias: Tensor | None


class _BlockLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        s: Tensor | None,
        gate: Tensor | None,
        sizes: tuple[int, ...],
        blocks: Tensor,
        *rest: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        w = LinearWeights(blocks, *rest)
        ctx.save_for_backward(x, s, gate, blocks, *rest)
        ctx.sizes = sizes
        x = _gated(x, gate)
        y = torch.bmm(_repeat(w.blocks, sizes), x)
        one = y[0]  # its first O rows are the component 1
        if w.from_scalars is not None and s is not None:
            one[: w.from_scalars.shape[0]].addmm_(w.from_scalars, s.t())
        if w.bias is not None:
            one[: w.bias.shape[0]] += w.bias.unsqueeze(1)
        if w.to_scalars is None:
            return y, None
        out = x[0, : w.to_scalars.shape[1]].t() @ w.to_scalars.t()
        if w.scalar_bias is not None:
            out += w.scalar_bias
        if w.scalars is not None and s is not None:
            out.addmm_(s, w.scalars.t())
        return y, out

    @staticmethod
    def backward(ctx: Any, gy: Tensor, gs: Tensor | None) -> tuple[Any, ...]:  # noqa: ANN401
        ungated, s, gate, blocks, *rest = ctx.saved_tensors
        x = _gated(ungated, gate)  # again, rather than kept
        w, sizes = LinearWeights(blocks, *rest), ctx.sizes
        need = ctx.needs_input_grad
        grads: list[Tensor | None] = [None] * 6
        by_x = torch.bmm(_repeat(w.blocks, sizes).transpose(1, 2), gy) if need[0] or need[2] else None
        grads[0] = _block_sums(torch.bmm(gy, x.transpose(1, 2)), sizes)
        by_s = None
        if w.from_scalars is not None and s is not None:
            one = gy[0, : w.from_scalars.shape[0]]
            by_s = one.t() @ w.from_scalars if need[1] else None
            grads[1] = one @ s
        if w.bias is not None:
            grads[2] = gy[0, : w.bias.shape[0]].sum(1)
        if w.to_scalars is not None and gs is not None:
            inputs = w.to_scalars.shape[1]
            if by_x is not None:
                by_x[0, :inputs] += w.to_scalars.t() @ gs.t()
            grads[3] = gs.t() @ x[0, :inputs].t()
            if w.scalars is not None and s is not None:
                grads[4] = gs.t() @ s
                by_s = gs @ w.scalars if by_s is None else by_s + gs @ w.scalars
            if w.scalar_bias is not None:
                grads[5] = gs.sum(0)
        by_gate = None
        if gate is not None and by_x is not None:
            split = (-1, gate.shape[0])
            by_gate = (by_x * ungated).unflatten(1, split).sum((0, 1)) if need[2] else None
            by_x = _gated(by_x, gate)
        return by_x, by_s, by_gate, None, *grads


def block_linear(
    x: Float[Tensor, "R mI T"],
    s: Float[Tensor, "T S"] | None,
    sizes: tuple[int, ...],
    weights: LinearWeights,
    gate: Float[Tensor, "I T"] | None = None,
) -> tuple[Float[Tensor, "R mO T"], Float[Tensor, "T S2"] | None]:
    """An equivariant linear map: one matrix per row block, scalars in and out of the component 1.

    Args:
        x: multivectors.
        s: scalars, or None.
        sizes: rows in each block; they add up to R.
        weights: see there.
        gate: factor of each channel, applied to x first.
    """
    return _BlockLinear.apply(x, s, gate, sizes, *weights)


def _gated(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else (x.unflatten(1, (-1, gate.shape[0])) * gate).flatten(1, 2)


def _repeat(blocks: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """[J, …] → [R, …]."""
    return torch.cat([block.expand(n, -1, -1) for block, n in zip(blocks.split(1), sizes, strict=True)])


def _block_sums(rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """[R, …] → [J, …]."""
    return torch.stack([part.sum(0) for part in rows.split(sizes)])


class _Normalise(torch.autograd.Function):
    """Keeps its results, which the next layer keeps anyway, instead of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: int, channels: int, least: float) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        square = x[:, :seen].square().sum((0, 1)) / channels
        r = square.clamp(min=least).rsqrt()
        y = x * r
        ctx.save_for_backward(y, r, square > least)
        ctx.sizes = seen, channels
        return y, r

    @staticmethod
    def backward(ctx: Any, gy: Tensor, gr: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        y, r, free = ctx.saved_tensors
        seen, channels = ctx.sizes
        # ∂r/∂x = −r² y / channels where the clamp is not active
        slope = free * (r / channels) * ((gy * y).sum((0, 1)) + gr * r)
        gx = gy * r
        gx[:, :seen] -= y[:, :seen] * slope
        return gx, None, None, None


def normalise(x: Float[Tensor, "R F T"], seen: int, channels: int, least: float) -> Float[Tensor, "R F T"]:
    """x / √max(Σ x² / channels, least) for each token, the sum over all rows and the first ``seen`` of F features."""
    return _Normalise.apply(x, seen, channels, least)[0]

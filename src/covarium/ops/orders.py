"""Features in the frame of an edge, taken apart by order and multiplied by weights of its length.

    z_m[e, n, c] = w[e, n, c, |m|] y[e, n, c, m],  for m = 0, +1, −1, +2, −2, …

Bilinear, with one map for each of the three tensors; the derivatives of each are the other two. Every order is a tensor
of its own, in one piece, as the products that follow want it. Letters: E edges, R rows (order by order), C channels,
W weights, n degrees of an order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from covarium.ops.traced import traced
from covarium.ops.wanted import wanted


@dataclass(frozen=True)
class Orders:
    """
    Attributes:
        rows: [first, last) of each order, m = 0, +1, −1, ….
        weights: the same of its weights, counted in channels; orders may share them. The first have those that no
            earlier order has, or only such as earlier ones have.
        all_weights: how many there are.
    """

    rows: tuple[tuple[int, int], ...]
    weights: tuple[tuple[int, int], ...]
    all_weights: int


def orders(lmax: int, mmax: int, *, per_degree: bool) -> Orders:
    """Of m-primary rows; with one weight per degree, or one per degree and |m|."""
    rows, weights, row, weight = [], [], 0, 0
    for m in range(mmax + 1):
        degrees = lmax + 1 - m
        for _ in range(min(m, 1) + 1):
            rows.append((row, row + degrees))
            first = m if per_degree else weight
            weights.append((first, first + degrees))
            row += degrees
        weight += degrees
    return Orders(tuple(rows), tuple(weights), max(last for _, last in weights))


def weigh(y: Float[Tensor, "E R C"], weights: Float[Tensor, "E W"], plan: Orders) -> list[Float[Tensor, "E n C"]]:
    """z_m for each order; ``weights`` degree by degree, C of each. Differentiable to any order."""
    return list(_Weigh.apply(plan, y, weights))


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Orders, y: Tensor, w: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.plan = plan
        ctx.save_for_backward(y, w)
        w = w.unflatten(1, (-1, y.shape[2]))
        return tuple(_times(y[:, a:b], w[:, c:d]) for (a, b), (c, d) in zip(plan.rows, plan.weights, strict=True))

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        y, w = ctx.saved_tensors
        needs_y, needs_w = wanted(ctx)
        of_y = _Rows.apply(ctx.plan, w, *g) if needs_y else None
        return None, of_y, _Weights.apply(ctx.plan, y, *g) if needs_w else None


class _Rows(torch.autograd.Function):
    """The gradient with respect to y."""

    @staticmethod
    def forward(ctx: Any, plan: Orders, w: Tensor, *z: Tensor) -> Tensor:  # noqa: ANN401
        ctx.plan = plan
        ctx.save_for_backward(w, *z)
        w = w.unflatten(1, (-1, z[0].shape[2]))
        y = z[0].new_empty(z[0].shape[0], plan.rows[-1][1], z[0].shape[2])
        for (a, b), (c, d), part in zip(plan.rows, plan.weights, z, strict=True):
            _into(y[:, a:b], part, w[:, c:d])
        return y

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        w, *z = ctx.saved_tensors
        needs_w, *needs_z = wanted(ctx)
        of_w = _Weights.apply(ctx.plan, h, *z) if needs_w else None
        return None, of_w, *(_Weigh.apply(ctx.plan, h, w) if any(needs_z) else [None] * len(z))


class _Weights(torch.autograd.Function):
    """The gradient with respect to w."""

    @staticmethod
    def forward(ctx: Any, plan: Orders, y: Tensor, *z: Tensor) -> Tensor:  # noqa: ANN401
        ctx.plan = plan
        ctx.save_for_backward(y, *z)
        w, begun = y.new_empty(y.shape[0], plan.all_weights, y.shape[2]), 0
        for (a, b), (c, d), part in zip(plan.rows, plan.weights, z, strict=True):
            if c < begun:
                w[:, c:d].addcmul_(y[:, a:b], part)
            else:
                _into(w[:, c:d], y[:, a:b], part)
                begun = d
        return w.flatten(1)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        y, *z = ctx.saved_tensors
        needs_y, *needs_z = wanted(ctx)
        of_y = _Rows.apply(ctx.plan, h, *z) if needs_y else None
        return None, of_y, *(_Weigh.apply(ctx.plan, y, h) if any(needs_z) else [None] * len(z))


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a b in one piece, though a is a part of something larger."""
    if traced(a):
        return (a * b).contiguous()
    return torch.mul(a, b, out=torch.empty(a.shape, dtype=a.dtype, device=a.device))


def _into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """a b into ``out``; recorded as a copy, since an operation with a place for its result has no derivative."""
    if traced(out):
        out.copy_(a * b)
    else:
        torch.mul(a, b, out=out)

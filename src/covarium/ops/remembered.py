"""Products of features with weights whose results may be remembered from one pass over a tile to the next.

Of an edge's inside its large products are most of the arithmetic, their results a small part of the memory. A pass that
makes the inside again takes them from where the first one left them.

    real:     y = x Wᵀ
    complex:  y₊ = x₊ W_rᵀ − x₋ W_iᵀ, y₋ = x₋ W_rᵀ + x₊ W_iᵀ, three real products in the place of four

The gradient with respect to x is the same product with the adjoint matrix, Wᵀ or (W_rᵀ, −W_iᵀ), so that the results of
first derivatives can be remembered as well. Letters: E edges, I and O channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from covarium.ops.wanted import wanted

WORTH = 512  # inputs of a product; by the clock nothing is gained by its result at 192, a fifth of a step at 1280


@dataclass
class Results:
    """Results of the products of one tile, for passes over the same numbers.

    Attributes:
        products: of so many, the first ones, results are stored.
        depth: 1 for values, 2 also for first derivatives, 0 for nothing.
        found: what is stored.
    """

    products: int
    depth: int = 1
    found: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def handed_on(self) -> Results:
        """To a first derivative that will be differentiated in its turn; another of the same values may follow."""
        return Results(self.products, 2, dict(self.found))

    def close(self) -> None:
        """Nothing is read or stored any more."""
        self.depth = 0
        self.found.clear()


@dataclass(frozen=True)
class Place:
    """Of one result: which product, which part of it, and the level, 0 for its value and 1 for its derivative."""

    results: Results
    product: int
    part: int = 0
    level: int = 0

    def remember(self, make: Callable[[], Tensor]) -> Tensor:
        """What is stored here, else what is made now."""
        key, found = (self.product, self.part, self.level), self.results.found
        if key not in found:
            made = make()
            if self.level >= self.results.depth:
                return made
            found[key] = made
        return found[key].detach()


def product(
    x: Float[Tensor, "E *two I"],
    weights: Sequence[Float[Tensor, "O I"]],
    bias: Float[Tensor, " O"] | None = None,
    place: Place | None = None,
) -> Float[Tensor, "E *two O"]:
    """The real product with one matrix, plus ``bias``; the complex one of [E, 2, I] with two, W_r and W_i.

    Differentiable to any order.
    """
    if place is None:
        return _value(x, weights, bias)
    y: Tensor = _Product.apply(place, x, bias, *weights)
    return y


def _value(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    if len(weights) == 1:
        return linear(x, weights[0], bias)
    (plus, minus), (real, imaginary) = x.unbind(1), weights
    both = linear(plus + minus, real)
    y_plus = both - linear(minus, real + imaginary)
    y_minus = both + linear(plus, imaginary - real)
    return torch.stack([y_plus, y_minus], dim=1)


def _adjoint(weights: Sequence[Tensor]) -> list[Tensor]:
    return [weights[0].T, *[-w.T for w in weights[1:]]]


def _of_weights(g: Tensor, x: Tensor, count: int) -> list[Tensor]:
    """Gradients of ⟨g, value⟩ with respect to the matrices."""
    if count == 1:
        return [g.T @ x]
    (g_plus, g_minus), (plus, minus) = g.unbind(1), x.unbind(1)
    both = (g_plus + g_minus).T @ (plus + minus)
    plus_minus, minus_plus = g_plus.T @ minus, g_minus.T @ plus
    return [both - plus_minus - minus_plus, minus_plus - plus_minus]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, place: Place, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:  # noqa: ANN401
        ctx.place, ctx.biased = place, bias is not None
        ctx.save_for_backward(x, *weights)
        return place.remember(lambda: _value(x, weights, bias))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, *weights = ctx.saved_tensors
        needs_x, *needs = wanted(ctx)
        needs_bias = ctx.biased and needs.pop(0)
        of_x = None
        if needs_x:
            of_x = _Product.apply(replace(ctx.place, level=ctx.place.level + 1), g, None, *_adjoint(weights))
        of_weights = _of_weights(g, x, len(weights)) if any(needs) else [None] * len(weights)
        return None, of_x, g.sum(0) if needs_bias else None, *of_weights

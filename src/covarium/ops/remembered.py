"""Products of features with weights whose results may be remembered from one pass over a tile to the next.

Of an edge's inside its large products are most of the arithmetic, their results a small part of the memory. A pass that
makes the inside again takes them from where the first one left them.

    real:     y = x Wᵀ
    complex:  y₊ = x₊ W_rᵀ − x₋ W_iᵀ, y₋ = x₋ W_rᵀ + x₊ W_iᵀ, three real products in the place of four

The gradient with respect to x is the same product with the adjoint matrix, Wᵀ or (W_rᵀ, −W_iᵀ), so that the results of
first derivatives can be remembered as well. Letters: E edges, I and O channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from covarium.ops.dense import dense, outer
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
    found: dict[tuple[int, int, int], tuple[Tensor, ...]] = field(default_factory=dict)

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

    def derivative(self) -> Place:
        """Of the product with the adjoint matrix."""
        return replace(self, level=self.level + 1)

    def remember(self, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What is stored here, else what is made now."""
        key, found = (self.product, self.part, self.level), self.results.found
        if key not in found:
            made = make()
            if self.level >= self.results.depth:
                return made
            found[key] = made
        return tuple(t.detach() for t in found[key])


def product(
    x: Float[Tensor, "E I"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None = None,
    place: Place | None = None,
) -> Float[Tensor, "E O"]:
    """The real product with one matrix, plus ``bias``. Differentiable to any order."""
    if place is None:
        return dense(x, weight, bias)
    y: Tensor = _Product.apply(place, x, weight, bias)
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, place: Place, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.place = place
        ctx.save_for_backward(x, weight)
        (y,) = place.remember(lambda: (dense(x, weight, bias),))
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, *needs_bias = wanted(ctx)
        return (
            None,
            product(g, weight.T, place=ctx.place.derivative()) if needs_x else None,
            outer(g, x) if needs_weight else None,
            g.sum(0) if any(needs_bias) else None,
        )


def complex_product(
    plus: Float[Tensor, "E I"],
    minus: Float[Tensor, "E I"],
    weight: Float[Tensor, "two_O I"],
    place: Place | None = None,
) -> tuple[Float[Tensor, "E O"], Float[Tensor, "E O"]]:
    """The complex product of x₊ + i x₋ with W_r + i W_i, which lie one below the other. Differentiable to any order.

    Of three real products instead of four y₋ is a difference, so that it has 2.4 times the rounding of a plain one.
    """
    device = plus.device.type
    if torch.is_autocast_enabled(device):  # which does not reach the derivatives: all of it in one dtype
        dtype = torch.get_autocast_dtype(device)
        plus, minus, weight = plus.to(dtype), minus.to(dtype), weight.to(dtype)
    y: tuple[Tensor, Tensor] = _Complex.apply(place, False, plus, minus, weight)
    return y


class _Complex(torch.autograd.Function):
    """W x, or with the adjoint matrix; the derivatives of this and of ``_ComplexWeight`` are the other and itself."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        place: Place | None,
        adjoint: bool,
        plus: Tensor,
        minus: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.place, ctx.adjoint = place, adjoint
        ctx.save_for_backward(plus, minus, weight)

        def made() -> tuple[Tensor, ...]:
            sign, (real, imaginary) = 1, weight.chunk(2)
            if adjoint:
                sign, real, imaginary = -1, real.T, imaginary.T
            first, second = dense(plus, real), dense(minus, imaginary)
            both = dense(plus + minus, torch.add(real, imaginary, alpha=sign))
            return torch.sub(first, second, alpha=sign), both.sub_(first).sub_(second, alpha=sign)

        return made() if place is None else place.remember(made)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        plus, minus, weight = ctx.saved_tensors
        needs_plus, needs_minus, needs_weight = wanted(ctx)
        place = None if ctx.place is None else ctx.place.derivative()
        of_x = [None, None]
        if needs_plus or needs_minus:
            of_x = _Complex.apply(place, not ctx.adjoint, *g, weight)
        of_weight = None
        if needs_weight:
            # ⟨g, W* x⟩ = ⟨W g, x⟩
            pairs = (*g, plus, minus) if ctx.adjoint else (plus, minus, *g)
            of_weight = _ComplexWeight.apply(*pairs)
        return None, None, *of_x, of_weight


class _ComplexWeight(torch.autograd.Function):
    """The gradient of ⟨g, W x⟩ with respect to W."""

    @staticmethod
    def forward(ctx: Any, plus: Tensor, minus: Tensor, g_plus: Tensor, g_minus: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(plus, minus, g_plus, g_minus)
        both = outer(g_minus, plus + minus)
        real, imaginary = outer(g_plus - g_minus, plus), outer(g_plus + g_minus, minus)
        found = both.new_empty(2 * both.shape[0], both.shape[1])
        of_real, of_imaginary = found.chunk(2)
        torch.add(both, real, out=of_real)
        torch.sub(both, imaginary, out=of_imaginary)
        return found

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        plus, minus, *g = ctx.saved_tensors
        needs = wanted(ctx)
        of_x = _Complex.apply(None, True, *g, h) if any(needs[:2]) else [None, None]
        of_g = _Complex.apply(None, False, plus, minus, h) if any(needs[2:]) else [None, None]
        return *of_x, *of_g

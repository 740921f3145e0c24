"""Products of multivectors and the point-wise network made of them."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from covarium.algebra.clifford import Terms
from covarium.algebra.spaces import Space, stored_terms
from covarium.layers.multivector.linear import EquiLinear, Weights
from covarium.ops.multivector import Term, quadratic, transposed

Activation = Literal["gelu", "relu", "sigmoid"]


class GeometricBilinear(nn.Module):
    """linear(concat(left · right, ref · join(left', right'))) (Brehmer 2023, arXiv 2305.18415, Eq. 5).

    As in the official code, and unlike the paper, each product has two projections of its own, half as wide as the
    output, the join is multiplied by the e123 component of the reference (the paper says pseudoscalar), and the last
    map reads the
    *input* scalars. Without the join the products are as wide as the output.
    """

    def __init__(self, space: Space, in_mv: int, out_mv: int, in_s: int, out_s: int, *, join: bool) -> None:
        super().__init__()
        self.space, self.with_join = space, join
        self.width = out_mv // 2 if join else out_mv
        self.linear_left = EquiLinear(space, in_mv, self.width, in_s)
        self.linear_right = EquiLinear(space, in_mv, self.width, in_s, init="almost_unit_scalar")
        if join:
            self.linear_join_left = EquiLinear(space, in_mv, self.width, in_s)
            self.linear_join_right = EquiLinear(space, in_mv, self.width, in_s)
        products = [stored_terms(space, space.algebra.product)]
        if join:
            products.append(stored_terms(space, space.algebra.join_terms))
        self.products = len(products)
        self.terms = _interleaved(products)
        self.back = transposed(self.terms)
        self.linear_out = EquiLinear(space, self.products * self.width, out_mv, in_s, out_s)

    def forward(
        self, x: Float[Tensor, "R mI T"], s: Float[Tensor, "T S"] | None, reference: Float[Tensor, " T"]
    ) -> tuple[Float[Tensor, "R mO T"], Float[Tensor, "T S2"] | None]:
        """``reference``: what the join is multiplied by at each token; not read without a join."""
        maps = [self.linear_left, self.linear_right]
        if self.with_join:
            maps += [self.linear_join_left, self.linear_join_right]
        y, _ = self.linear_left.using(Weights.join([m.weights() for m in maps]), x, s)
        size, tokens = self.space.algebra.size, x.shape[2]
        factors = y.reshape(size * len(maps), self.width * tokens)
        z = quadratic(factors, self.terms, self.back, size * self.products)
        if self.with_join:
            scale = torch.stack([torch.ones_like(reference), reference]).unsqueeze(1)
            z = z.view(size, 2, self.width, tokens) * scale
        return self.linear_out(z.view(self.space.rows, -1, tokens), s)


def _interleaved(products: list[Terms]) -> list[Term]:
    """Terms on rows (component, factor) → (component, product); product p has the factors 2p and 2p + 1."""
    n = len(products)
    terms = []
    for p, table in enumerate(products):
        for k, i, j, s in zip(*[column.tolist() for column in table], strict=True):
            terms.append((k * n + p, i * 2 * n + 2 * p, j * 2 * n + 2 * p + 1, s))
    return terms


def gate(x: Float[Tensor, "R mC T"], space: Space, activation: Activation) -> Float[Tensor, "C T"]:
    """The activation of the component 1, which multiplies all components; GELU by its tanh form (official code)."""
    one = x[0, : x.shape[1] // space.fibre]
    match activation:
        case "gelu":
            return gelu(one, approximate="tanh")
        case "relu":
            return relu(one)
        case _:
            return torch.sigmoid(one)


def activated(s: Float[Tensor, "T S"], activation: Activation) -> Float[Tensor, "T S"]:
    """Of scalars; GELU is the exact one here (official code)."""
    match activation:
        case "gelu":
            return gelu(s)
        case "relu":
            return relu(s)
        case _:
            return torch.sigmoid(s)


class GeoMLP(nn.Module):
    """Bilinear – gate – linear, widths C → 2C → C."""

    def __init__(self, space: Space, mv: int, s: int, activation: Activation, *, join: bool) -> None:
        super().__init__()
        self.space, self.activation = space, activation
        bilinear = GeometricBilinear(space, mv, 2 * mv, s, 2 * s, join=join)
        # the middle entry keeps the official names of the others
        self.layers = nn.ModuleList([bilinear, nn.Identity(), EquiLinear(space, 2 * mv, mv, 2 * s, s)])

    def forward(
        self, x: Float[Tensor, "R mC T"], s: Float[Tensor, "T S"], reference: Float[Tensor, " T"]
    ) -> tuple[Float[Tensor, "R mC T"], Float[Tensor, "T S"]]:
        """``reference``: see ``GeometricBilinear``."""
        x, s = self.layers[0](x, s, reference)
        last = self.layers[2]
        assert isinstance(last, EquiLinear)
        x, t = last.using(last.weights(), x, activated(s, self.activation), gate(x, self.space, self.activation))
        assert t is not None
        return x, t

"""Depth-wise product with the harmonics of an edge, then a linear map (Liao 2023, arXiv 2206.11990, Sec. 4.1), in
the frame of the edge. Nodes are (entry of irreps_out, m), see ``edge_product``. Parameters have the official names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from covarium.algebra.irreps import SCALAR, Irreps
from covarium.layers.distance_bases import RadialProfile
from covarium.layers.irreps.edge_product import DepthwiseProduct, FixedProduct, Node, RadialProduct, depthwise_product
from covarium.layers.irreps.flat_linear import FlatLinear, FlatWeight


class SeparableProduct(nn.Module):
    """With radial weights, one per edge, path and channel.

    Args:
        irreps_in, harmonics: the two factors.
        targets: what the product is to contain.
        irreps_out: of the linear map.
        inputs, hidden: of the radial function.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        harmonics: Irreps,
        targets: Irreps,
        irreps_out: Irreps,
        inputs: int,
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        self.product = depthwise_product(irreps_in, harmonics, targets)
        self.dtp_rad = RadialProfile(inputs, hidden, self.product.num_weights)
        self.lin = FlatLinear(self.product.irreps_out, irreps_out)
        self.full = RadialProduct(self.product)
        self.m0 = RadialProduct(self.product, scalars_only=True)

    def forward(
        self,
        x: Sequence[Float[Tensor, "E _ _"]],
        radial: Float[Tensor, "E I"],
        *,
        scalars_only: bool = False,
        beside: Float[Tensor, "_ _"] | None = None,
    ) -> dict[Node, Float[Tensor, "E _"]]:
        """Nodes of features in the frame.

        Args:
            x: features in the frame; with ``scalars_only`` their order 0 alone, which gives that of the output.
            radial: what the radial function reads.
            beside: a matrix [rows, more] that acts on the scalars of the product; its outputs come first in (0, 0).
        """
        framed = self.m0 if scalars_only else self.full
        matrices = self.lin.matrices()
        bias = self.lin.bias[0]
        if beside is not None:
            matrices[SCALAR] = torch.cat([beside, matrices[SCALAR]], dim=1)
            bias = nn.functional.pad(bias, (beside.shape[1], 0))
        weights = self.dtp_rad(radial, framed.columns)
        nodes = framed(weights, x, [matrices[irrep] for _, irrep in self.product.irreps_out])
        return _named(nodes, self.product, self.lin.irreps_out, bias)


class ValueProduct(nn.Module):
    """With the same weights on every edge."""

    def __init__(self, irreps_in: Irreps, harmonics: Irreps, irreps_out: Irreps) -> None:
        super().__init__()
        self.product = depthwise_product(irreps_in, harmonics, irreps_out)
        weight = nn.ParameterDict({"weight": FlatWeight(torch.randn(self.product.num_weights))})
        self.dtp = nn.ModuleDict({"tp": weight})
        self.lin = FlatLinear(self.product.irreps_out, irreps_out)
        self.full = FixedProduct(self.product)
        self.m0 = FixedProduct(self.product, scalars_only=True)

    def forward(
        self, x: Mapping[Node, Float[Tensor, "E _"]], *, scalars_only: bool = False
    ) -> dict[Node, Float[Tensor, "E _"]]:
        """Nodes of the output; with ``scalars_only`` its even scalars, from order 0 of x."""
        framed = self.m0 if scalars_only else self.full
        matrices = self.lin.matrices()
        weight = cast(nn.ParameterDict, self.dtp["tp"])["weight"]
        nodes = framed(weight, x, [matrices[irrep] for _, irrep in self.product.irreps_out])
        return _named(nodes, self.product, self.lin.irreps_out, self.lin.bias[0])


def _named(
    nodes: Mapping[Node, Tensor], product: DepthwiseProduct, irreps_out: Irreps, bias: Tensor
) -> dict[Node, Tensor]:
    """Nodes by the entry of irreps_out instead of that of the product, and the bias of the scalars."""
    entry = {irrep: k for k, (_, irrep) in enumerate(irreps_out)}
    result = {(entry[product.irreps_out.entries[target][1]], m): part for (target, m), part in nodes.items()}
    result[0, 0] = result[0, 0] + bias
    return result

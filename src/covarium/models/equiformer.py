"""Equiformer (Liao 2023, arXiv 2206.11990), with the numbers of the official code where paper and code differ.

Letters: N atoms, E edges j → i, B structures, H heads, Y harmonics of an edge, D its Wigner matrices. Features are
lists over the entries of an Irreps, [N, 2l+1, mul]. Products with Y are taken in the frame of the edge, where Y has
m = 0 only: an identity, not an approximation (``layers.irreps.edge_product``).

Beyond the published model, as named values of Config: a smooth envelope on messages and inside the softmax, and a norm
that does not amplify what vanishes by symmetry. They are the defaults; ``Config.published`` gives the switches of the
official models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from covarium.algebra.irreps import SCALAR, Irrep, Irreps
from covarium.algebra.rotations import edge_frames
from covarium.algebra.wigner import wigner_d
from covarium.errors import CovariumError
from covarium.layers.attention_weights import SoftmaxWeights
from covarium.layers.distance_bases import BASES, RadialProfile
from covarium.layers.dropout import drop
from covarium.layers.irreps.edge_product import Node, depthwise_product
from covarium.layers.irreps.flat_edges import FlatEdges
from covarium.layers.irreps.flat_linear import (
    SMOOTH_LEAKY_RELU,
    ElementTable,
    Features,
    FlatLinear,
    Gate,
    joined,
    second_moment_silu,
    separate,
)
from covarium.layers.irreps.flat_norm import FlatNorm, FlatNormType
from covarium.layers.irreps.separable import SeparableProduct, ValueProduct
from covarium.layers.rounding import unrounded_call
from covarium.layers.streaming import streamed
from covarium.ops.attention import smooth_leaky_relu
from covarium.ops.dense import dense
from covarium.ops.envelope import polynomial_envelope
from covarium.ops.gather import gather, scatter_sum
from covarium.systems import AtomGraph, AtomModel, AtomOutput, GraphSpec


@dataclass(frozen=True)
class Config:
    """Sizes and switches. Defaults: smooth; sized for molecules on a CPU.

    Attributes:
        irreps_node: of the features between blocks. With odd irreps the model is E(3), else SE(3) equivariant.
        irreps_sh: harmonics of the edges: all even (SE(3)), or of parity (−1)^l (E(3)).
        irreps_feature: after the last block; without l > 0 that block is cheap, as only m = 0 can matter there.
        irreps_head: of one attention head.
        irreps_pre_attn: of the messages before attention; None: those of the block's input.
        irreps_mlp: inside the feed-forward network.
        cutoff: Å.
        basis, num_basis: radial basis, see ``layers.distance_bases``; radial_channels: of the radial functions.
        attention: message and weights, Sec. 4.2: ``nonlinear_mlp`` (published), ``linear_mlp``, ``linear_dot_product``.
        norm_type: see ``layers.irreps.flat_norm``.
        rescale_degree: multiply sums over neighbours by their number, after the softmax.
        energy_head: two linear maps, or ``attention``.
        auxiliary_head: also predict a displacement per atom (OC20 IS2RS).
        node_attributes: scalars per element that enter the feed-forward network; 0 for none.
        edge_attributes: scalars per element at each end of an edge that enter the radial functions; 0 for none.
        elements: atomic numbers that have a row in the tables, in order; None: all below ``max_num_elements``.
        num_tags: kinds of atoms told apart by ``AtomGraph.tags`` (OC20: 3); 0 for none.
        envelope: ``polynomial`` (smooth at the cutoff) or ``none`` (published).
        avg_degree, avg_num_nodes, energy_scale: sums over neighbours and atoms are divided by the roots of the first
            two; energies are multiplied by the third.
    """

    num_layers: int = 4
    irreps_node: str = "64x0e+32x1e+16x2e"
    irreps_sh: str = "1x0e+1x1e+1x2e"
    irreps_feature: str = "128x0e"
    irreps_head: str = "16x0e+8x1e+4x2e"
    num_heads: int = 4
    irreps_pre_attn: str | None = None
    irreps_mlp: str = "192x0e+96x1e+48x2e"
    cutoff: float = 5.0
    basis: Literal["exp", "gaussian", "bessel"] = "exp"
    num_basis: int = 32
    radial_channels: tuple[int, ...] = (64, 64)
    attention: Literal["nonlinear_mlp", "linear_mlp", "linear_dot_product"] = "nonlinear_mlp"
    norm_type: FlatNormType = "anchored"
    rescale_degree: bool = False
    energy_head: Literal["mlp", "attention"] = "mlp"
    auxiliary_head: bool = False
    node_attributes: int = 0
    edge_attributes: int = 0
    elements: tuple[int, ...] | None = None
    max_num_elements: int = 100
    num_tags: int = 0
    envelope: Literal["polynomial", "none"] = "polynomial"
    avg_degree: float = 16.0
    avg_num_nodes: float = 1.0
    energy_scale: float = 1.0
    alpha_drop: float = 0.0
    proj_drop: float = 0.0
    out_drop: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        self._check_irreps()
        for name in ("num_layers", "num_heads", "max_num_elements"):
            if getattr(self, name) < 1:
                raise CovariumError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.num_basis < 2 or not self.radial_channels or min(self.radial_channels) < 1:
            raise CovariumError(
                f"model.num_basis must be at least 2 and model.radial_channels positive, got {self.num_basis} and "
                f"{self.radial_channels}"
            )
        if self.elements is not None and (
            len(set(self.elements)) != len(self.elements)
            or not {*self.elements} <= {*range(1, 119)}
            or not self.elements
        ):
            raise CovariumError(f"model.elements must be different atomic numbers from 1 to 118, got {self.elements}")
        for name in ("node_attributes", "edge_attributes", "num_tags"):
            if getattr(self, name) < 0:
                raise CovariumError(f"model.{name} must not be negative, got {getattr(self, name)}")
        for name in ("cutoff", "avg_degree", "avg_num_nodes", "energy_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise CovariumError(f"model.{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("alpha_drop", "proj_drop", "out_drop", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise CovariumError(f"model.{name} must lie from 0 to below 1, got {getattr(self, name)}")
        if self.auxiliary_head and not Irreps.parse(self.irreps_feature).count(self.vector):
            raise CovariumError(
                f"model.auxiliary_head reads {self.vector} of model.irreps_feature, which is '{self.irreps_feature}'"
            )

    def _check_irreps(self) -> None:
        harmonics = [irrep for _, irrep in Irreps.parse(self.irreps_sh)]
        for parity in (1, -1):
            if harmonics == [Irrep(l, parity**l) for l in range(len(harmonics))] and len(harmonics) > 1:
                break
        else:
            raise CovariumError(
                f"model.irreps_sh must be like 1x0e+1x1e+1x2e (SE(3)) or 1x0e+1x1o+1x2e (E(3)), got '{self.irreps_sh}'"
            )
        if any(mul != 1 for mul, _ in Irreps.parse(self.irreps_sh)):
            raise CovariumError(f"model.irreps_sh must have multiplicities of 1, got '{self.irreps_sh}'")
        for name in ("irreps_node", "irreps_feature", "irreps_head", "irreps_pre_attn", "irreps_mlp"):
            text = getattr(self, name)
            if text is None:
                continue
            irreps = Irreps.parse(text)
            if not irreps.count(SCALAR):
                raise CovariumError(f"model.{name} must contain 0e, got '{text}'")
            if irreps.lmax > len(harmonics) - 1:
                raise CovariumError(f"model.{name} '{text}' goes beyond the degrees of model.irreps_sh")
            if self.group == "SE(3)" and any(irrep.p == -1 for _, irrep in irreps):
                raise CovariumError(
                    f"model.{name} '{text}' has odd irreps, which model.irreps_sh '{self.irreps_sh}' never reaches; "
                    "label everything e (SE(3)), or write 1o in irreps_sh (E(3))"
                )

    @property
    def group(self) -> str:
        return "E(3)" if "o" in self.irreps_sh else "SE(3)"

    @property
    def vector(self) -> Irrep:
        """The irrep of a displacement."""
        return Irrep(1, -1 if self.group == "E(3)" else 1)

    @property
    def spec(self) -> GraphSpec:
        return GraphSpec(self.cutoff)

    @classmethod
    def published(cls, **fields: Any) -> Self:  # noqa: ANN401 - fields of Config
        """The switches and constants of the official models; by default MD17 with L = 2."""
        given: dict[str, Any] = dict(
            num_layers=6, irreps_node="128x0e+64x1e+32x2e", irreps_feature="512x0e", irreps_head="32x0e+16x1e+8x2e",
            irreps_mlp="384x0e+192x1e+96x2e", norm_type="layer", max_num_elements=64, envelope="none",
            avg_degree=15.57930850982666, avg_num_nodes=18.03065905448718,
        )  # fmt: skip
        return cls(**(given | fields))


class EdgeDegreeEmbedding(nn.Module):
    """Σ_j of a learned constant times Y with radial weights, projected, over the root of the average degree.

    Only the paths of the constant's scalars are not zero. The last radial map, the constant and the projection are one
    linear map of the radial function's hidden layer, which Y then multiplies.
    """

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__()
        c = self.config = config
        self.irreps = Irreps.parse(c.irreps_node)
        self.product = depthwise_product(self.irreps, Irreps.parse(c.irreps_sh), self.irreps)
        self.exp = FlatLinear(Irreps(((1, SCALAR),)), self.irreps)
        self.rad = RadialProfile(inputs, c.radial_channels, self.product.num_weights)
        self.proj = FlatLinear(self.product.irreps_out, self.irreps)
        # the paths 0e × Y_l → l
        self.paths = {self.product.irreps_out.entries[p.target][1]: p for p in self.product.paths if p.source == 0}

    def forward(self, edges: FlatEdges) -> Features:
        """[N, 2l+1, mul] per entry."""
        return separate(streamed(self._sum, edges), self.irreps)

    def _sum(self, edges: FlatEdges, *_: Sequence[Tensor]) -> Tensor:
        hidden = self.rad.hidden(edges.scalars)
        if edges.envelope is not None:
            hidden, constant = hidden * edges.envelope.unsqueeze(1), edges.envelope.unsqueeze(1)
        else:
            constant = torch.ones_like(hidden[:, :1])
        matrices = self.proj.matrices()
        feature = self.exp.matrices()[SCALAR].flatten() + self.exp.bias[0]
        outputs = []
        for mul, irrep in self.irreps:
            path = self.paths.get(irrep)
            if path is None:
                outputs.append(hidden.new_zeros(edges.rows, 2 * irrep.l + 1, mul))
                continue
            columns = torch.arange(path.weight, path.weight + path.mul, device=hidden.device)
            weight, offset = self.rad.last(columns)
            onward = matrices[irrep][path.row : path.row + path.mul] * feature.unsqueeze(1)
            messages = dense(hidden, onward.T @ weight) + constant * (offset @ onward)
            if irrep.l:
                summed = scatter_sum(
                    edges.harmonics(irrep.l).unsqueeze(2) * messages.unsqueeze(1), edges.row, edges.rows
                )
            else:
                summed = scatter_sum(messages, edges.row, edges.rows).unsqueeze(1)
            outputs.append(summed)
        outputs[0] = outputs[0] + edges.degree[:, None, None] * self.proj.bias[0]
        return joined([part / math.sqrt(self.config.avg_degree) for part in outputs])


class GraphAttention(nn.Module):
    """Equivariant graph attention (Sec. 4.2, Fig. 1b): MLP attention with non-linear or linear messages.

    ``scalars_only``: nothing but even scalars of the result is asked for, and nothing else is computed.
    """

    def __init__(self, config: Config, inputs: int, irreps_in: Irreps, irreps_out: Irreps, scalars_only: bool) -> None:
        super().__init__()
        c = self.config = config
        self.scalars_only = scalars_only
        self.irreps_pre = irreps_in if c.irreps_pre_attn is None else Irreps.parse(c.irreps_pre_attn)
        head = Irreps.parse(c.irreps_head)
        self.irreps_values = head.repeated(c.num_heads)
        self.logit_channels = head.count(SCALAR)
        bound = math.sqrt(6.0 / (c.num_heads + self.logit_channels))
        self.alpha_dot = nn.Parameter(torch.empty(1, c.num_heads, self.logit_channels).uniform_(-bound, bound))
        self.merge_src = FlatLinear(irreps_in, self.irreps_pre)
        self.merge_dst = FlatLinear(irreps_in, self.irreps_pre, bias=False)
        logits = c.num_heads * self.logit_channels
        if c.attention == "nonlinear_mlp":
            self.gate = Gate(self.irreps_pre)
            self.sep_act = _separable(c, inputs, self.irreps_pre, self.irreps_pre, self.gate.irreps_in)
            self.sep_alpha = FlatLinear(self.sep_act.product.irreps_out, Irreps(((logits, SCALAR),)))
            self.sep_value = ValueProduct(self.irreps_pre, Irreps.parse(c.irreps_sh), self.irreps_values)
        else:
            both = self.irreps_values.with_scalars(logits)
            self.sep = _separable(c, inputs, self.irreps_pre, both, both)
        self.softmax = SoftmaxWeights()
        self.proj = FlatLinear(self.irreps_values, irreps_out)

    def _nonlinear(self, x: Features, edges: FlatEdges) -> tuple[Tensor, dict[Node, Tensor]]:
        """Logit features [E, H, K] and values from the gated product (Eq. 5 and 6)."""
        beside = self.sep_alpha.matrices()[SCALAR]
        nodes = self.sep_act(x, edges.scalars, scalars_only=self.scalars_only, beside=beside)
        first = nodes.pop((0, 0))
        logits = self.config.num_heads * self.logit_channels
        features, gated = first.split([logits, first.shape[1] - logits], dim=1)
        features = (features + self.sep_alpha.bias[0]).unflatten(1, (-1, self.logit_channels))
        # a gate commutes with the rotation into the frame
        scalars, factors = self.gate.scalars(gated)
        values = {(k, m): part * factors[k - 1] for (k, m), part in nodes.items()}
        values[0, 0] = scalars
        return features, self.sep_value(values, scalars_only=self.scalars_only)

    def _linear(self, x: Features, edges: FlatEdges) -> tuple[Tensor, dict[Node, Tensor]]:
        nodes = self.sep(x, edges.scalars, scalars_only=self.scalars_only)
        heads = nodes[0, 0].unflatten(1, (self.config.num_heads, -1))
        features, scalars = heads.split([self.logit_channels, heads.shape[2] - self.logit_channels], dim=2)
        nodes[0, 0] = scalars.flatten(1)
        return features, nodes

    def forward(self, x: Features, edges: FlatEdges, rng: torch.Generator | None) -> Features:
        """Features of irreps_out; only its even scalars with ``scalars_only``."""
        atoms = [*self.merge_src(x), *self.merge_dst(x)]
        return separate(
            streamed(self._attend, edges, atoms=atoms, beside=_masks(self, edges, rng)), self.proj.irreps_out
        )

    def _attend(self, edges: FlatEdges, _: Sequence[Tensor], atoms: Sequence[Tensor], keep: Sequence[Tensor]) -> Tensor:
        framed = edges.into(_halves(atoms), self.irreps_pre, edges.ends, self.scalars_only)
        split = self._nonlinear if self.config.attention == "nonlinear_mlp" else self._linear
        features, values = split(framed, edges)
        logits = (SMOOTH_LEAKY_RELU * smooth_leaky_relu(features) * self.alpha_dot).sum(2)
        alpha = _attention_weights(self, logits, edges, keep)
        summed = edges.sums(values, self.irreps_values, alpha, self.scalars_only)
        if self.config.rescale_degree:
            summed = [part * edges.degree[:, None, None] for part in summed]
        return joined(self.proj(summed))


class DotProductAttention(nn.Module):
    """Linear messages with dot-product attention (Sec. 4.2, ablation): keys and values from one product."""

    def __init__(self, config: Config, inputs: int, irreps_in: Irreps, irreps_out: Irreps, scalars_only: bool) -> None:
        super().__init__()
        c = self.config = config
        self.scalars_only = scalars_only
        self.irreps_pre = irreps_in if c.irreps_pre_attn is None else Irreps.parse(c.irreps_pre_attn)
        head = Irreps.parse(c.irreps_head)
        self.irreps_values = head.repeated(c.num_heads)
        self.scales = [1 / math.sqrt(head.channels * (2 * irrep.l + 1)) for _, irrep in head]
        self.query = FlatLinear(irreps_in, self.irreps_values)
        self.merge_src = FlatLinear(irreps_in, self.irreps_pre)
        self.merge_dst = FlatLinear(irreps_in, self.irreps_pre, bias=False)
        both = head.repeated(2 * c.num_heads)
        self.key_value = _separable(c, inputs, self.irreps_pre, both, both)
        self.softmax = SoftmaxWeights()
        self.proj = FlatLinear(self.irreps_values, irreps_out)

    def forward(self, x: Features, edges: FlatEdges, rng: torch.Generator | None) -> Features:
        """Features of irreps_out; only its even scalars with ``scalars_only``."""
        scaled = [part * scale for part, scale in zip(self.query(x), self.scales, strict=True)]
        atoms = [*self.merge_src(x), *self.merge_dst(x), *scaled]
        return separate(
            streamed(self._attend, edges, atoms=atoms, beside=_masks(self, edges, rng)), self.proj.irreps_out
        )

    def _attend(self, edges: FlatEdges, _: Sequence[Tensor], atoms: Sequence[Tensor], keep: Sequence[Tensor]) -> Tensor:
        merged, query = atoms[: 2 * len(self.irreps_pre)], atoms[2 * len(self.irreps_pre) :]
        framed = edges.into(_halves(merged), self.irreps_pre, edges.ends, False)
        nodes = self.key_value(framed, edges.scalars)
        pairs = {node: part.chunk(2, dim=1) for node, part in nodes.items()}
        # in the frame of the keys
        queries = edges.into([list(query)], self.irreps_values, edges.ends[1:], False)
        products = [
            (queries[k][:, queries[k].shape[1] // 2 + m] * key).unflatten(1, (self.config.num_heads, -1)).sum(2)
            for (k, m), (key, _) in pairs.items()
        ]
        alpha = _attention_weights(self, torch.stack(products).sum(0), edges, keep)
        values = {node: value for node, (_, value) in pairs.items()}
        summed = edges.sums(values, self.irreps_values, alpha, self.scalars_only)
        if self.config.rescale_degree:
            # divided by the average degree in this class alone
            summed = [part * (edges.degree / self.config.avg_degree)[:, None, None] for part in summed]
        return joined(self.proj(summed))


def _separable(config: Config, inputs: int, irreps_in: Irreps, targets: Irreps, irreps_out: Irreps) -> SeparableProduct:
    harmonics = Irreps.parse(config.irreps_sh)
    return SeparableProduct(irreps_in, harmonics, targets, irreps_out, inputs, config.radial_channels)


def _halves(atoms: Sequence[Tensor]) -> list[Features]:
    """Features for sources and for targets, which lie one after the other."""
    half = len(atoms) // 2
    return [list(atoms[:half]), list(atoms[half:])]


def _masks(module: GraphAttention | DotProductAttention, edges: FlatEdges, rng: torch.Generator | None) -> list[Tensor]:
    """What dropout multiplies the attention weights by, [E, H]."""
    c = module.config
    if not module.training or c.alpha_drop == 0:
        return []
    ones = edges.scalars.new_ones(edges.i.shape[0], c.num_heads)
    return [drop(ones, c.alpha_drop, tuple(ones.shape), rng)]


def _attention_weights(
    module: GraphAttention | DotProductAttention, logits: Tensor, edges: FlatEdges, keep: Sequence[Tensor]
) -> Tensor:
    """[E, H]; with an envelope the weights carry it once more than the softmax."""
    alpha = module.softmax(logits, edges.row, edges.rows, edges.envelope)
    if edges.envelope is not None:
        alpha = alpha * edges.envelope.unsqueeze(1)
    for mask in keep:
        alpha = alpha * mask
    return alpha


class FeedForward(nn.Module):
    """Two linear maps with a gate between (Sec. 4.3), each a product with the attributes of the atom."""

    def __init__(self, config: Config, irreps_in: Irreps, irreps_out: Irreps) -> None:
        super().__init__()
        attributes = max(config.node_attributes, 1)
        self.gate = Gate(Irreps.parse(config.irreps_mlp))
        self.fctp_1 = FlatLinear(irreps_in, self.gate.irreps_in, attributes=attributes)
        self.fctp_2 = FlatLinear(self.gate.irreps, irreps_out, attributes=attributes)

    def forward(self, x: Features, attributes: Tensor | None) -> Features:
        """Even scalars alone give even scalars alone."""
        return self.fctp_2(self.gate(self.fctp_1(x, attributes)), attributes)


class Block(nn.Module):
    """x + DropPath(attention(norm(x))), then shortcut(x) + DropPath(feed-forward(norm(x))) (Fig. 1a).

    The shortcut is linear where the features change, in the last block.
    """

    def __init__(self, config: Config, inputs: int, irreps_out: Irreps) -> None:
        super().__init__()
        c = self.config = config
        irreps = Irreps.parse(c.irreps_node)
        scalars_only = irreps_out.lmax == 0 and len(irreps_out) == 1
        self.norm_1 = FlatNorm(c.norm_type, irreps)
        attention = _attention(c, inputs, irreps, irreps, scalars_only)
        self.add_module("dpa" if c.attention == "linear_dot_product" else "ga", attention)
        self.norm_2 = FlatNorm(c.norm_type, irreps)
        self.ffn = FeedForward(c, irreps, irreps_out)
        if irreps_out != irreps:
            self.ffn_shortcut = FlatLinear(irreps, irreps_out, attributes=max(c.node_attributes, 1))

    @property
    def attention(self) -> GraphAttention | DotProductAttention:
        module = self.dpa if self.config.attention == "linear_dot_product" else self.ga
        return cast(GraphAttention | DotProductAttention, module)

    def forward(
        self, x: Features, edges: FlatEdges, attributes: Tensor | None, graph: AtomGraph, rng: torch.Generator | None
    ) -> Features:
        """Features of irreps_node to those of irreps_out."""
        batch, graphs = graph.batch, graph.num_graphs
        attended = self._drop(self.attention(self.norm_1(x, batch, graphs), edges, rng), graph, rng)
        # the first entries alone, where nothing else can matter
        x = [a + b for a, b in zip(x, attended, strict=False)]
        forward = self._drop(self.ffn(self.norm_2(x, batch, graphs), attributes), graph, rng)
        if hasattr(self, "ffn_shortcut"):
            x = self.ffn_shortcut(x, attributes)
        return [a + b for a, b in zip(x, forward, strict=True)]

    def _drop(self, x: Features, graph: AtomGraph, rng: torch.Generator | None) -> Features:
        if not self.training:
            return x
        x = [drop(part, self.config.proj_drop, (part.shape[0], 1, part.shape[2]), rng) for part in x]
        if self.config.drop_path_rate == 0:
            return x
        kept = drop(x[0].new_ones(graph.num_graphs), self.config.drop_path_rate, (graph.num_graphs,), rng)
        return [part * kept.index_select(0, graph.batch)[:, None, None] for part in x]


def _attention(
    config: Config, inputs: int, irreps_in: Irreps, irreps_out: Irreps, scalars_only: bool
) -> GraphAttention | DotProductAttention:
    kind = DotProductAttention if config.attention == "linear_dot_product" else GraphAttention
    return kind(config, inputs, irreps_in, irreps_out, scalars_only)


class Equiformer(AtomModel):
    """The model: ``forward(graph) -> AtomOutput``; exactly equivariant.

    Parameter names are the official ones. Differentiable twice; not a third time, where torch's own derivative of the
    layer norm is wrong.
    """

    reads: frozenset[str] = frozenset()
    backends = frozenset({"torch", "triton"})

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        self.spec, self.group = c.spec, c.group
        self.outputs = frozenset({"energy"})
        self.irreps_node, features = Irreps.parse(c.irreps_node), Irreps.parse(c.irreps_feature)
        self.lmax = Irreps.parse(c.irreps_sh).lmax
        self.width = 2 * sum(mul * (2 * irrep.l + 1) for mul, irrep in self.irreps_node)
        kinds = c.max_num_elements if c.elements is None else len(c.elements)
        self.atom_embed = ElementTable(kinds, self.irreps_node.count(SCALAR))
        if c.num_tags:
            self.tag_embed = ElementTable(c.num_tags, self.irreps_node.count(SCALAR))
        if c.node_attributes:
            self.attr_embed = ElementTable(kinds, c.node_attributes)
        if c.edge_attributes:
            self.edge_src_embed = ElementTable(kinds, c.edge_attributes)
            self.edge_dst_embed = ElementTable(kinds, c.edge_attributes)
        self.rbf = BASES[c.basis](c.num_basis, c.cutoff)
        inputs = c.num_basis + 2 * c.edge_attributes
        self.edge_deg_embed = EdgeDegreeEmbedding(c, inputs)
        ends = [self.irreps_node] * (c.num_layers - 1) + [features]
        self.blocks = nn.ModuleList(Block(c, inputs, end) for end in ends)
        self.norm = FlatNorm(c.norm_type, features)
        if c.energy_head == "attention":
            self.head: nn.Module = _attention(c, inputs, features, Irreps(((1, SCALAR),)), True)
        else:
            scalars = Irreps(((features.count(SCALAR), SCALAR),))
            last = FlatLinear(scalars, Irreps(((1, SCALAR),)))
            self.head = nn.ModuleDict({"0": FlatLinear(scalars, scalars), "2": last})
        if c.auxiliary_head:
            self.auxiliary_head = _attention(c, inputs, features, Irreps(((1, c.vector),)), False)
        rows = torch.full((119,), -1)
        known = range(min(c.max_num_elements, 119)) if c.elements is None else c.elements
        rows[list(known)] = torch.arange(len(known))
        self.register_buffer("rows", rows, persistent=False)

    def no_weight_decay(self) -> set[str]:
        """Biases, norms and the radial basis, as in the official code."""
        parts = ("bias", "affine", "mean_shift", "net.1.", "net.4.")
        return {n for n, _ in self.named_parameters() if n.startswith("rbf.") or any(part in n for part in parts)}

    def kinds(self, graph: AtomGraph) -> Tensor:
        """[N] rows of the element tables; −1 where there is none."""
        return self.get_buffer("rows").index_select(0, graph.numbers)

    def admit(self, graph: AtomGraph) -> None:
        kinds, tags = self.kinds(graph), self.config.num_tags
        if kinds.numel() and int(kinds.min()) < 0:
            missing = sorted(set(graph.numbers[kinds < 0].tolist()))
            if self.config.elements is None:
                raise CovariumError(
                    f"atomic number {missing[-1]} ≥ model.max_num_elements = {self.config.max_num_elements}; raise it"
                )
            raise CovariumError(f"atomic numbers {missing} are not among model.elements = {self.config.elements}")
        if tags and graph.num_atoms and not 0 <= int(graph.tags.min()) <= int(graph.tags.max()) < tags:
            raise CovariumError(
                f"tags run from {int(graph.tags.min())} to {int(graph.tags.max())}; this model knows 0 to {tags - 1} "
                "(OC20: 0 bulk, 1 surface, 2 adsorbate)"
            )

    def edges(self, graph: AtomGraph, kinds: Tensor) -> FlatEdges:
        """Geometry of the edges, and the elements at their ends where the radial functions read them."""
        c = self.config
        vectors = graph.vectors()
        distance = vectors.square().sum(1).sqrt()
        j, i = graph.edge_index
        scalars = self.rbf(distance)
        if c.edge_attributes:
            ends = [gather(self.edge_src_embed(kinds), j), gather(self.edge_dst_embed(kinds), i)]
            scalars = torch.cat([*ends, scalars], dim=1)
        envelope = polynomial_envelope(distance / c.cutoff) if c.envelope == "polynomial" else None
        return FlatEdges(
            j=j,
            i=i,
            row=i,
            rows=graph.num_atoms,
            tiles=self.tiles(graph),
            backend=self.backend,
            scalars=scalars,
            envelope=envelope,
            wigner=wigner_d(edge_frames(vectors / distance.unsqueeze(1)), self.lmax),
        )

    def initial(self, graph: AtomGraph, edges: FlatEdges, kinds: Tensor) -> Features:
        """Elements, tags and neighbourhood (Sec. 4.3, Embedding)."""
        scalars = self.atom_embed(kinds)
        if self.config.num_tags:
            scalars = scalars + self.tag_embed(graph.tags)
        first, *others = self.edge_deg_embed(edges)
        return [first + scalars.unsqueeze(1), *others]

    def forward(self, graph: AtomGraph, rng: torch.Generator | None = None) -> AtomOutput:
        """Atomic energies [N] in the model's own scale and, with the auxiliary head, displacements [N, 3].

        Args:
            graph: neighbours by ``self.spec``.
            rng: for dropout in training.

        Raises:
            CovariumError: an element or a tag that the tables do not have.
        """
        c = self.config
        if not graph.traced:
            self.admit(graph)
        kinds = self.kinds(graph)
        edges = self.edges(graph, kinds)
        attributes = self.attr_embed(kinds) if c.node_attributes else None
        x = self.initial(graph, edges, kinds)
        for block in self.blocks:
            x = block(x, edges, attributes, graph, rng)
        x = self.norm(x, graph.batch, graph.num_graphs)
        if self.training:
            x = [drop(part, c.out_drop, (part.shape[0], 1, part.shape[2]), rng) for part in x]
        energy = self.energies(x, edges, rng) * (c.energy_scale / math.sqrt(c.avg_num_nodes))
        displacements = self.auxiliary_head(x, edges, rng)[0].squeeze(2) if c.auxiliary_head else None
        return AtomOutput(energy, displacements=displacements)

    def energies(self, x: Features, edges: FlatEdges, rng: torch.Generator | None) -> Tensor:
        """[N], what the head says of every atom."""
        if isinstance(self.head, nn.ModuleDict):
            hidden = unrounded_call(self.head["0"], x[:1])[0]
            return unrounded_call(self.head["2"], [second_moment_silu(hidden)])[0].flatten()
        return self.head(x, edges, rng)[0].flatten()

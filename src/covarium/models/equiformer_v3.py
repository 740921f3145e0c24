"""EquiformerV3 (Liao 2026, arXiv 2604.09130), with the numbers of the official code where paper and code differ.

Letters: N atoms, E edges j → i, B structures, C channels, L lmax, M mmax, S = (L+1)² coefficients (l-primary), R
coefficients with |m| ≤ M (m-primary, in the edge frame), A hidden channels of the attention, H of the feed-forward, h
heads, a and v alpha and value channels.

Unlike the published code: frames are deterministic and differentiable everywhere (there: random, and masked near ±y in
gradient mode); products are integrated by Gauss–Legendre quadrature, which gives the identical projection with half
the points; the linear maps at the points of the feed-forward act on the coefficients instead, merged with their
neighbours; all neighbours within the cutoff by default, and the average degree is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from covarium.algebra.layout import l_primary, m_primary
from covarium.algebra.sphere import Grid, GridKind, s2_grid
from covarium.errors import CovariumError
from covarium.layers.attention_weights import SoftmaxWeights
from covarium.layers.dropout import drop, drop_path
from covarium.layers.irreps.activation import SCALARS, GridActivation, GridKernel, gate, gate_orders, kernel_widths
from covarium.layers.irreps.framed_edges import FramedEdges, framed_edges
from covarium.layers.irreps.grid_mlp import GridMLP, LinearPair
from covarium.layers.irreps.linear import SO2Convolution, SO3Linear, join_heads
from covarium.layers.irreps.norm import (
    EPS,
    Float32RMSNorm,
    LayerNormPerDegree,
    LayerNormSH,
    MergedRMSNorm,
    RMSNormSH,
)
from covarium.layers.irreps.tensors import symmetric_matrices, vector_harmonics
from covarium.layers.linear import Linear
from covarium.layers.radial import GaussianBasis, RadialFunction
from covarium.layers.rounding import unrounded_call
from covarium.layers.streaming import remade, streamed
from covarium.ops.attention import Shift, edge_softmax, smooth_leaky_relu
from covarium.ops.gather import scatter_sum
from covarium.ops.orders import orders, weigh
from covarium.ops.remembered import WORTH, Place
from covarium.systems import AtomGraph, AtomModel, AtomOutput, Denoising, GraphSpec, refuse_elements

NormType = Literal["merge_layer_norm", "merge_rms_norm", "sep_layer_norm", "equivariant_layer_norm"]
Activation = Literal["gate"] | GridKernel
AttnNorm = Literal["layer_norm", "rms_norm", "float32_rms_norm", "none"]
# merged layer norm: one scale over all degrees, l = 0 centred
NORMS: dict[NormType, type[nn.Module]] = {
    "merge_layer_norm": RMSNormSH,
    "merge_rms_norm": MergedRMSNorm,
    "sep_layer_norm": LayerNormSH,
    "equivariant_layer_norm": LayerNormPerDegree,
}


@dataclass(frozen=True)
class Config:
    """Sizes and switches. Defaults: the published structure, smooth, exact and conservative; sized for molecules.

    Attributes:
        cutoff: Å.
        neighbours, max_neighbours: rule of ``GraphSpec``.
        norm_type: of the blocks.
        attn_norm: of the attention features; ``float32_rms_norm`` rounds as the published ``merge_rms_norm`` does.
        attn_activation, ffn_activation: ``gate``, or a kernel of ``GridActivation``. Only products are exact on a grid.
        grid: ``gauss_legendre`` integrates products exactly; the published ``equal_angle`` is needed for SiLU alone.
        attn_grid, ffn_grid: latitudes and longitudes; None for the fewest that are exact for products.
        use_grid_mlp: the feed-forward has linear maps at the points, before and after the product.
        envelope: ``polynomial`` (twice in the attention, once in the edge-degree embedding) or ``none``.
        radial_weights: ``per_degree``, or ``per_order`` with one weight per (l, |m|, channel) in the edge frame.
        atom_edge_embedding: element tables of the radial functions, per block.
        add_merge: source and target features are added instead of joined.
        softcap: logits z become softcap · tanh(z / softcap).
        attn_eps, attn_shift: see ``edge_softmax``; published: 1e-16 or 1e-8, ``logit``.
        force_head: activation of the direct force head, or ``none`` for no head.
        stress_head: build the direct stress head.
        denoising: read the forces of an undisplaced structure and predict displacements.
        avg_degree, avg_num_nodes: constants of the edge-degree embedding and the energy.
    """

    num_layers: int = 3
    num_channels: int = 32
    attn_hidden_channels: int = 16
    num_heads: int = 4
    attn_alpha_channels: int = 16
    attn_value_channels: int = 8
    ffn_hidden_channels: int = 64
    edge_channels: int = 64
    lmax: int = 2
    mmax: int = 2
    cutoff: float = 5.0
    neighbours: Literal["all", "nearest", "nearest_with_ties"] = "all"
    max_neighbours: int | None = None
    max_num_elements: int = 100
    num_radial_basis: int = 64
    norm_type: NormType = "merge_layer_norm"
    attn_norm: AttnNorm = "layer_norm"
    attn_activation: Activation = "sep-merge_gates2_swiglu"
    ffn_activation: Activation = "sep-merge_gates2_swiglu"
    grid: GridKind = "gauss_legendre"
    attn_grid: tuple[int, int] | None = None
    ffn_grid: tuple[int, int] | None = None
    use_grid_mlp: bool = True
    envelope: Literal["polynomial", "none"] = "polynomial"
    radial_weights: Literal["per_degree", "per_order"] = "per_degree"
    atom_edge_embedding: bool = True
    add_merge: bool = False
    softcap: float | None = None
    attn_eps: float = 1e-16
    attn_shift: Shift = "weight"
    force_head: Literal["none", "gate", "sep_s2"] = "none"
    stress_head: bool = False
    denoising: bool = False
    avg_degree: float = 16.0
    avg_num_nodes: float = 1.0
    attn_weights_drop: float = 0.0
    drop_path_rate: float = 0.0
    proj_drop: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.mmax <= self.lmax:
            raise CovariumError(f"model.mmax must lie in 0..lmax = {self.lmax}, got {self.mmax}")
        for name, least in (("lmax", 2 if self.stress_head else 1), ("num_radial_basis", 2)):
            if getattr(self, name) < least:
                why = " for a stress head" if least == 2 and name == "lmax" else ""
                raise CovariumError(f"model.{name} must be at least {least}{why}, got {getattr(self, name)}")
        for name in (
            "num_layers", "num_channels", "attn_hidden_channels", "num_heads", "attn_alpha_channels",
            "attn_value_channels", "ffn_hidden_channels", "edge_channels", "max_num_elements", "max_neighbours",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CovariumError(f"model.{name} must be at least 1, got {value}")
        for name in ("cutoff", "avg_degree", "avg_num_nodes", "softcap", "attn_eps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise CovariumError(f"model.{name} must be positive and finite, got {value}")
        for name in ("attn_weights_drop", "drop_path_rate", "proj_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise CovariumError(f"model.{name} must lie from 0 to below 1, got {getattr(self, name)}")
        if self.use_grid_mlp and self.ffn_activation == "gate":
            raise CovariumError("model.ffn_activation gate has no grid: set model.use_grid_mlp=false with it")
        if self.add_merge and self.radial_weights == "per_order":
            raise CovariumError("model.add_merge needs model.radial_weights=per_degree, as in the published code")
        for name, mmax in (("attn_grid", self.mmax), ("ffn_grid", self.lmax)):
            self._check_grid(name, getattr(self, name), mmax)

    def _check_grid(self, name: str, shape: tuple[int, int] | None, mmax: int) -> None:
        if shape is None:
            return
        if self.grid == "equal_angle":
            if shape[0] < 2 or shape[0] % 2 or shape[1] < 1:
                raise CovariumError(
                    f"model.{name} must have an even number of latitudes and at least one longitude, got {shape}"
                )
            return
        least = ((3 * self.lmax + 2) // 2, 3 * mmax + 1)
        if shape[0] < least[0] or shape[1] < least[1]:
            raise CovariumError(
                f"model.{name} {shape} is too coarse for products of degree {self.lmax} and order {mmax}, so that the "
                f"model would not be equivariant: at least {least}; leave it out for that"
            )

    @property
    def spec(self) -> GraphSpec:
        return GraphSpec(self.cutoff, self.neighbours, self.max_neighbours)


class EdgeScalars(nn.Module):
    """Base of what has a radial function of basis and elements, with element tables of its own."""

    def __init__(self, config: Config, out: int) -> None:
        super().__init__()
        self.config = config
        element_channels = config.edge_channels if config.atom_edge_embedding else 0
        if config.atom_edge_embedding:
            self.source_embedding = nn.Embedding(config.max_num_elements, config.edge_channels)
            self.target_embedding = nn.Embedding(config.max_num_elements, config.edge_channels)
            for table in (self.source_embedding, self.target_embedding):
                nn.init.uniform_(table.weight, -0.001, 0.001)
        self.rad_func = RadialFunction(config.num_radial_basis, element_channels, config.edge_channels, out)

    def radial(self, edges: FramedEdges) -> Tensor:
        """[E, out]."""
        tables = None
        if self.config.atom_edge_embedding:
            tables = (self.source_embedding.weight, self.target_embedding.weight)
        return self.rad_func(edges.basis, tables, edges.z)


class EdgeDegreeEmbedding(EdgeScalars):
    """Σ_j of radial functions on m = 0 in the edge frame, rotated back, over the average degree."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, (config.lmax + 1) * config.num_channels)

    def forward(self, edges: FramedEdges) -> Tensor:
        """[N, S, C]."""
        return streamed(self._sum, edges)

    def _sum(self, edges: FramedEdges, *_: Sequence[Tensor]) -> Tensor:
        degrees = self.config.lmax + 1
        weights = self.radial(edges)
        if edges.envelope is not None:
            weights = weights * edges.envelope.unsqueeze(1)
        return edges.sums(weights.unflatten(1, (degrees, -1))) / self.config.avg_degree


class AttentionSoftmax(SoftmaxWeights):
    """Softmax over the edges of each target, perhaps of capped logits."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Tensor, i: Tensor, num_atoms: int, envelope: Tensor | None) -> Tensor:
        """[E, h]; the envelope is inside the softmax, not yet on its result."""
        c = self.config
        if c.softcap is not None:
            logits = c.softcap * torch.tanh(logits / c.softcap)
        return edge_softmax(logits, i, num_atoms, envelope, eps=c.attn_eps, shift=c.attn_shift)


class GraphAttention(EdgeScalars):
    """Equivariant graph attention with smooth cutoff and SwiGLU-S² (or another activation) in the edge frame."""

    def __init__(self, config: Config, out_channels: int, activation: Activation, drop_rate: float) -> None:
        c = config
        channels, plan = 2 * c.num_channels, orders(c.lmax, c.mmax, per_degree=c.radial_weights == "per_degree")
        super().__init__(c, plan.all_weights * channels)
        self.orders, self.drop_rate = plan, drop_rate
        self.activation: Activation = activation
        hidden, values = c.attn_hidden_channels, c.num_heads * c.attn_value_channels
        if activation == "gate":
            features, scalars = hidden, c.lmax * hidden
        else:
            features, scalars = kernel_widths(activation, hidden)
            self.act = GridActivation(activation, _grid(c, c.mmax, c.attn_grid), m_primary(c.lmax, c.mmax))
        self._extra = [c.num_heads * c.attn_alpha_channels, scalars]
        in_channels = c.num_channels if c.add_merge else channels
        self.so2_linear_1 = SO2Convolution(in_channels, features, c.lmax, c.mmax, sum(self._extra))
        self.alpha_norm = _attn_norm(c.attn_norm, c.attn_alpha_channels)
        self.alpha_dot = nn.Parameter(torch.empty(c.num_heads, c.attn_alpha_channels))
        bound = 1 / math.sqrt(c.attn_alpha_channels)
        nn.init.uniform_(self.alpha_dot, -bound, bound)
        self.softmax = AttentionSoftmax(c)
        self.so2_linear_2 = SO2Convolution(hidden, values, c.lmax, c.mmax)
        self.proj = SO3Linear(values, out_channels, c.lmax)
        with torch.no_grad():
            if "-merge" in activation:
                # meant for the sum of two l = 0 rows; the official code scales these rows of the output
                self.so2_linear_2.fc_m0.weight[:hidden] *= math.sqrt(0.5)
            if c.add_merge:
                self.rad_func.get_parameter("net.6.weight").mul_(math.sqrt(0.5))

    def _messages(self, x: Tensor, edges: FramedEdges) -> list[Tensor]:
        """x_j and x_i side by side (or added) in the edge frame, times the radial weights: a list over m of
        [E, n, 2C]. Weights per degree commute with the rotation, so both kinds act after it."""
        messages = weigh(edges.pairs(x), self.radial(edges), self.orders)
        return [part.unflatten(2, (2, -1)).sum(2) for part in messages] if self.config.add_merge else messages

    def _activate(self, hidden: list[Tensor], scalars: Tensor, place: Place | None) -> list[Tensor]:
        if self.activation == "gate":
            return gate_orders(hidden, scalars.unflatten(1, (self.config.lmax, -1)))
        return self.act(hidden, scalars if scalars.shape[1] else None, place)

    def forward(self, x: Tensor, edges: FramedEdges, rng: torch.Generator | None) -> Tensor:
        """[N, S, C] → [N, S, out]."""
        masks = []
        if self.training and self.drop_rate:
            ones = x.new_ones(edges.i.shape[0], self.config.num_heads)
            masks.append(drop(ones, self.drop_rate, tuple(ones.shape), rng))
        return streamed(self._sums, edges, atoms=[x], beside=masks)

    def vectors(self, x: Tensor, edges: FramedEdges) -> Tensor:
        """[N, S, C] → [N, 3, out], of the output the degree 1 alone, in the order x, y, z; for heads, no dropout."""
        return streamed(self._vector_sums, edges, atoms=[x])

    def _sums(self, edges: FramedEdges, _: Sequence[Tensor], atoms: Sequence[Tensor], keep: Sequence[Tensor]) -> Tensor:
        hidden, alpha = self._attend(edges, atoms[0], keep)
        values = self.so2_linear_2(hidden, edges.place(2))[1]
        return self.proj(edges.sums(join_heads(values, alpha)))

    def _vector_sums(
        self, edges: FramedEdges, _: Sequence[Tensor], atoms: Sequence[Tensor], keep: Sequence[Tensor]
    ) -> Tensor:
        hidden, alpha = self._attend(edges, atoms[0], keep)
        values = self.so2_linear_2.vectors(hidden, edges.place(2))
        return self.proj.vectors(edges.vector_sums(join_heads(values, alpha)))

    def _attend(self, edges: FramedEdges, x: Tensor, keep: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Features before the second convolution, and attention weights [E, h]."""
        c = self.config
        extra, hidden = self.so2_linear_1(self._messages(x, edges), edges.place(0))
        features, scalars = extra.split(self._extra, dim=1)
        hidden = self._activate(hidden, scalars, edges.place(1))
        logits = smooth_leaky_relu(self.alpha_norm(features.unflatten(1, (c.num_heads, -1))))
        alpha = self.softmax((logits * self.alpha_dot).sum(2), edges.row, edges.rows, edges.envelope)
        if edges.envelope is not None:
            alpha = alpha * edges.envelope.unsqueeze(1)
        for mask in keep:
            alpha = alpha * mask
        return hidden, alpha


class FeedForward(nn.Module):
    """Point-wise network on atoms: linear, non-linearity on the sphere or by gates, linear."""

    def __init__(self, config: Config, out_channels: int, activation: Activation, use_grid_mlp: bool) -> None:
        super().__init__()
        c = self.config = config
        self.activation: Activation = activation
        hidden, channels = c.ffn_hidden_channels, c.num_channels
        features, scalars = hidden, c.lmax * hidden
        if activation != "gate":
            grid = _grid(c, c.lmax, c.ffn_grid)
            if use_grid_mlp:
                scalars = 0
                self.grid_mlp = GridMLP(channels, hidden, activation, grid, c.lmax)
                if activation in SCALARS:
                    self.scalar_mlp = nn.Sequential(LinearPair(channels, hidden, activation))
            else:
                features, scalars = kernel_widths(activation, hidden)
                self.act = GridActivation(activation, grid, l_primary(c.lmax))
        self.so3_linear_1 = SO3Linear(channels, features, c.lmax)
        if scalars:
            self.gating_linear = Linear(channels, scalars)
        self.so3_linear_2 = SO3Linear(hidden, out_channels, c.lmax)
        if "-merge" in activation:
            with torch.no_grad():
                self.so3_linear_2.weight[0] *= math.sqrt(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[N, S, C] → [N, S, out]."""
        if hasattr(self, "grid_mlp"):
            scalars = self.scalar_mlp(x[:, 0]) if hasattr(self, "scalar_mlp") else None
            return self.grid_mlp.network(x, self.so3_linear_1, self.so3_linear_2, scalars)
        y = self.so3_linear_1(x)
        scalars = self.gating_linear(x[:, 0]) if hasattr(self, "gating_linear") else None
        if self.activation == "gate":
            assert scalars is not None
            y = gate(y, scalars.unflatten(1, (self.config.lmax, -1)))
        else:
            (y,) = self.act([y], scalars)
        return self.so3_linear_2(y)


class ScalarFeedForward(nn.Module):
    """Linear, SiLU, linear on the l = 0 row: the energy of an atom."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = Linear(channels, hidden)
        self.linear_2 = Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] → [N, 1]."""
        return self.linear_2(silu(self.linear_1(x)))


class Block(nn.Module):
    """x + DropPath(attention(norm(x))), then x + DropPath(feed-forward(norm(x)))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        self.norm_1 = NORMS[c.norm_type](c.lmax, c.num_channels)
        self.ga = GraphAttention(c, c.num_channels, c.attn_activation, c.attn_weights_drop)
        self.norm_2 = NORMS[c.norm_type](c.lmax, c.num_channels)
        self.ffn = FeedForward(c, c.num_channels, c.ffn_activation, c.use_grid_mlp)

    def forward(self, x: Tensor, edges: FramedEdges, graph: AtomGraph, rng: torch.Generator | None) -> Tensor:
        """[N, S, C] → [N, S, C]."""
        x = x + self._drop(self.ga(self.norm_1(x), edges, rng), graph, rng)
        return x + self._drop(remade(self.ffn, self.norm_2(x), edges), graph, rng)

    def _drop(self, x: Tensor, graph: AtomGraph, rng: torch.Generator | None) -> Tensor:
        if not self.training:
            return x
        x = drop_path(x, self.config.drop_path_rate, graph.batch, graph.num_graphs, rng)
        return drop(x, self.config.proj_drop, (x.shape[0], 1, x.shape[2]), rng)


class EquiformerV3(AtomModel):
    """The model: ``forward(graph) -> AtomOutput``; exactly equivariant under SE(3) with gates or products.

    Parameter names are the official ones but for ``so2_m_linear`` (here ``so2_m_conv``) and the grid MLPs of ablations.
    Differentiable twice; not a third time, where torch's own derivative of the layer norm is wrong.
    """

    group = "SE(3)"
    reads: frozenset[str] = frozenset()
    backends = frozenset({"torch", "triton"})

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        self.spec = c.spec
        heads = {"forces": c.force_head != "none", "stress": c.stress_head, "noise": c.denoising}
        self.outputs = frozenset({"energy"} | {name for name, present in heads.items() if present})
        self.sphere_embedding = nn.Embedding(c.max_num_elements, c.num_channels)
        self.distance_expansion = GaussianBasis(c.num_radial_basis, c.cutoff)
        self.edge_degree_embedding = EdgeDegreeEmbedding(c)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.num_layers))
        self.norm = NORMS[c.norm_type](c.lmax, c.num_channels)
        self.energy_block = ScalarFeedForward(c.num_channels, c.ffn_hidden_channels)
        if c.force_head != "none":
            self.force_block = GraphAttention(c, 1, c.force_head, 0.0)
        if c.stress_head:
            self.stress_block = FeedForward(c, 1, "gate", use_grid_mlp=False)
        if c.denoising:
            self.force_embedding = SO3Linear(1, c.num_channels, c.lmax)
            self.dens_block = GraphAttention(c, 1, "gate" if c.force_head == "none" else c.force_head, 0.0)
        # (2l+1)/(2M+1) makes up for the orders that are cut (official code; absent from the paper)
        self.row_scale = tuple(_rescale(l, c.mmax) for l, _ in m_primary(c.lmax, c.mmax))
        self.width = 2 * c.num_channels * len(self.row_scale)
        # two convolutions and the activation between them
        self.products = 3 if 2 * c.num_channels * (c.lmax + 1) >= WORTH else 0
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def admit(self, graph: AtomGraph) -> None:
        refuse_elements(graph, self.config.max_num_elements)

    def no_weight_decay(self) -> set[str]:
        """Embeddings, norms and biases, as in the official lists."""
        exempt: tuple[type[nn.Module], ...] = (nn.Embedding, nn.LayerNorm, nn.RMSNorm, *NORMS.values())
        names = {name for name, _ in self.named_parameters() if name.endswith("bias")}
        for prefix, module in self.named_modules():
            if isinstance(module, exempt):
                names |= {f"{prefix}.{name}" for name, _ in module.named_parameters()}
        return names

    def edges(self, graph: AtomGraph, frames: Tensor | None = None) -> FramedEdges:
        """Geometry of the edges; ``frames`` [E, 3, 3] rotate every edge to +y, by default ``edge_frames``."""
        c = self.config
        return framed_edges(
            graph, frames, self.distance_expansion,
            envelope_cutoff=c.cutoff if c.envelope == "polynomial" else None, lmax=c.lmax, mmax=c.mmax,
            row_scale=self.row_scale, tiles=self.tiles(graph), backend=self.backend,
        )  # fmt: skip

    def forward(
        self,
        graph: AtomGraph,
        rng: torch.Generator | None = None,
        *,
        frames: Tensor | None = None,
        denoising: Denoising | None = None,
    ) -> AtomOutput:
        """Atomic energies [N], and what there are heads for, in the model's own scale.

        Args:
            graph: neighbours by ``self.spec``.
            rng: for dropout in training.
            frames: [E, 3, 3] to replace the edge frames.
            denoising: makes this a denoising pass (Liao 2024, arXiv 2403.09549): ``noise`` is the displacement that
                was added to each atom of the mask.

        Raises:
            CovariumError: an atomic number beyond ``max_num_elements``, or a model that cannot denoise.
        """
        c = self.config
        if not graph.traced:
            self.admit(graph)
        if denoising is not None and not c.denoising:
            raise CovariumError("this model was built without denoising; set model.denoising=true")
        edges = self.edges(graph, frames)
        x = self._embedding(graph, edges, denoising)
        for block in self.blocks:
            x = block(x, edges, graph, rng)
        x = self.norm(x)
        energy = unrounded_call(self.energy_block, x[:, 0]).squeeze(1) / c.avg_num_nodes
        forces = self.force_block.vectors(x, edges).squeeze(2) if c.force_head != "none" else None
        noise = self.dens_block.vectors(x, edges).squeeze(2) if denoising is not None else None
        stress = self._stress(x, graph) if c.stress_head else None
        return AtomOutput(energy, forces, stress=stress, noise=noise)

    def _embedding(self, graph: AtomGraph, edges: FramedEdges, denoising: Denoising | None) -> Tensor:
        """[N, S, C]: element at l = 0, edge degrees, and in a denoising pass the forces of the displaced atoms."""
        scalars = self.sphere_embedding(graph.numbers).unsqueeze(1)
        degree = self.edge_degree_embedding(edges)
        x = torch.cat([scalars + degree[:, :1], degree[:, 1:]], dim=1)
        if denoising is None:
            return x
        embedded = self.force_embedding(vector_harmonics(denoising.forces.to(x), self.config.lmax).unsqueeze(2))
        return x + embedded * denoising.mask[:, None, None]

    def _stress(self, x: Tensor, graph: AtomGraph) -> Tensor:
        """[B, 3, 3]: degrees 0 and 2 of a feed-forward, averaged over the atoms of each structure."""
        rows = self.stress_block(x)[:, :9, 0]
        atoms = graph.atoms_per_graph().clamp(min=1).unsqueeze(1)
        return symmetric_matrices(scatter_sum(rows, graph.batch, graph.num_graphs) / atoms)


def _rescale(l: int, mmax: int) -> float:
    return math.sqrt((2 * l + 1) / (2 * mmax + 1)) if l > mmax else 1.0


def _grid(config: Config, mmax: int, points: tuple[int, int] | None) -> Grid:
    """With the official factor for the degrees whose orders are cut."""
    grid = s2_grid(config.lmax, mmax, config.grid, *(points or (None, None)))
    scale = [_rescale(l, mmax) for l, _ in l_primary(config.lmax)]
    return Grid(grid.to_grid * scale, grid.from_grid * scale)


def _attn_norm(kind: AttnNorm, channels: int) -> nn.Module:
    match kind:
        case "layer_norm":
            return nn.LayerNorm(channels, eps=EPS)
        case "rms_norm":
            return nn.RMSNorm(channels, eps=EPS)
        case "float32_rms_norm":
            return Float32RMSNorm(channels)
        case "none":
            return nn.Identity()

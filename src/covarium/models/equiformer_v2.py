"""EquiformerV2 (Liao 2023, arXiv 2306.12059), with the numbers of the official code where paper and code differ.

Letters: N atoms, E edges j → i, B structures, C sphere channels, L lmax, M mmax, S = (L+1)² coefficients
(l-primary), R coefficients with |m| ≤ M (m-primary, in the edge frame), H hidden channels, h heads, a and v alpha and
value channels.

Beyond the published model, as named values of Config: a smooth envelope on messages and inside the softmax, gate
activations (exactly equivariant), Gauss–Legendre grids, no truncation of neighbours, adjustable constants. They are
the defaults; ``Config.published`` gives the switches of the official OC20 models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from covarium.algebra.layout import l_primary, m_primary
from covarium.algebra.sphere import GridKind, s2_grid
from covarium.errors import CovariumError
from covarium.layers.attention_weights import SoftmaxWeights
from covarium.layers.dropout import drop, drop_path
from covarium.layers.irreps.activation import (
    S2Activation,
    SeparableS2Activation,
    as_parts,
    from_points,
    gate,
    gate_orders,
    in_cache,
    rows_first,
    to_points,
)
from covarium.layers.irreps.framed_edges import FramedEdges, framed_edges
from covarium.layers.irreps.linear import SO2Convolution, SO3Linear, join_heads
from covarium.layers.irreps.norm import NORMS, NormType
from covarium.layers.linear import Linear
from covarium.layers.radial import GaussianBasis, RadialFunction
from covarium.layers.rounding import unrounded_call
from covarium.layers.streaming import remade, streamed
from covarium.ops.attention import smooth_leaky_relu
from covarium.ops.orders import orders, weigh
from covarium.ops.remembered import WORTH
from covarium.systems import AtomGraph, AtomModel, AtomOutput, GraphSpec, refuse_elements

Elements = Sequence[Tensor]  # source and target tables, or none


@dataclass(frozen=True)
class Config:
    """Sizes and switches. Defaults: smooth, gauge-exact, conservative; sized for molecules on a CPU.

    Attributes:
        cutoff: Å.
        neighbours, max_neighbours: rule of ``GraphSpec``.
        norm_type: see ``layers.irreps.norm``.
        attn_activation, ffn_activation: ``gate`` is exactly equivariant; S² up to the aliasing of its grid.
        grid, grid_resolution: kind of S² grid and its latitudes and longitudes (None: default of ``s2_grid``).
        radial_weights: ``per_degree``, one weight per (l, channel) before rotation (official use_m_share_rad), or
            ``per_order``, one per (l, |m|, channel) in the edge frame.
        atom_edge_embedding: element tables of the radial functions.
        attn_renorm: LayerNorm on the attention features (attention re-normalisation).
        envelope: ``polynomial`` (smooth at the cutoff) or ``none`` (published).
        force_head: build the direct force head.
        avg_degree, avg_num_nodes: constants of the edge-degree embedding and the energy.
    """

    num_layers: int = 3
    sphere_channels: int = 32
    attn_hidden_channels: int = 32
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
    num_distance_basis: int = 64
    norm_type: NormType = "rms_norm_sh"
    attn_activation: Literal["gate", "separable_s2", "s2"] = "gate"
    ffn_activation: Literal["gate", "separable_s2", "s2", "grid_mlp", "separable_grid_mlp"] = "gate"
    grid: GridKind = "gauss_legendre"
    grid_resolution: int | None = None
    radial_weights: Literal["per_degree", "per_order"] = "per_degree"
    atom_edge_embedding: Literal["per_block", "shared", "none"] = "per_block"
    attn_renorm: bool = True
    envelope: Literal["polynomial", "none"] = "polynomial"
    force_head: bool = False
    avg_degree: float = 16.0
    avg_num_nodes: float = 1.0
    alpha_drop: float = 0.0
    drop_path_rate: float = 0.0
    proj_drop: float = 0.0
    weight_init: Literal["uniform", "normal"] = "uniform"

    def __post_init__(self) -> None:
        if not 0 <= self.mmax <= self.lmax:
            raise CovariumError(f"model.mmax must lie in 0..lmax = {self.lmax}, got {self.mmax}")
        if self.lmax < 1:
            raise CovariumError(f"model.lmax must be at least 1, got {self.lmax}")
        if self.num_distance_basis < 2:
            raise CovariumError(f"model.num_distance_basis must be at least 2, got {self.num_distance_basis}")
        for name in (
            "num_layers", "sphere_channels", "attn_hidden_channels", "num_heads", "attn_alpha_channels",
            "attn_value_channels", "ffn_hidden_channels", "edge_channels", "max_num_elements", "max_neighbours",
            "grid_resolution",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CovariumError(f"model.{name} must be at least 1, got {value}")
        for name in ("cutoff", "avg_degree", "avg_num_nodes"):
            if not 0 < getattr(self, name) < math.inf:
                raise CovariumError(f"model.{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("alpha_drop", "drop_path_rate", "proj_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise CovariumError(f"model.{name} must lie from 0 to below 1, got {getattr(self, name)}")

    @property
    def spec(self) -> GraphSpec:
        return GraphSpec(self.cutoff, self.neighbours, self.max_neighbours)

    @classmethod
    def published(cls, **sizes: Any) -> Self:  # noqa: ANN401 - fields of Config
        """The switches and constants of the official OC20 models; sizes as given, by default those of the 31M model."""
        fields: dict[str, Any] = dict(
            num_layers=8, sphere_channels=128, attn_hidden_channels=64, num_heads=8, attn_alpha_channels=64,
            attn_value_channels=16, ffn_hidden_channels=128, edge_channels=128, lmax=4, mmax=2, cutoff=12.0,
            neighbours="nearest", max_neighbours=20, max_num_elements=90, num_distance_basis=600,
            norm_type="layer_norm_sh",
            attn_activation="separable_s2", ffn_activation="separable_grid_mlp", grid="equal_angle", grid_resolution=18,
            radial_weights="per_order", envelope="none", force_head=True, avg_degree=23.395238876342773,
            avg_num_nodes=77.81317, alpha_drop=0.1, drop_path_rate=0.1,
        )  # fmt: skip
        return cls(**(fields | sizes))


class EdgeDegreeEmbedding(nn.Module):
    """Σ_j of radial functions on m = 0 in the edge frame, rotated back, over the average degree."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        _element_tables(self, config)
        channels = (config.lmax + 1) * config.sphere_channels
        self.rad_func = _radial_function(config, channels)

    def forward(self, edges: FramedEdges, shared: Elements) -> Tensor:
        """[N, S, C]."""
        return streamed(self._sum, edges, whole=shared)

    def _sum(self, edges: FramedEdges, shared: Elements, *_: Sequence[Tensor]) -> Tensor:
        c = self.config
        weights = self.rad_func(edges.basis, _elements(self, shared), edges.z)
        if edges.envelope is not None:
            weights = weights * edges.envelope.unsqueeze(1)
        return edges.sums(weights.unflatten(1, (c.lmax + 1, c.sphere_channels))) / c.avg_degree


class GraphAttention(nn.Module):
    """Equivariant graph attention with eSCN convolutions (Sec. 4.1, Fig. 1b)."""

    def __init__(self, config: Config, out_channels: int) -> None:
        super().__init__()
        c = self.config = config
        self.logit_channels = c.num_heads * c.attn_alpha_channels
        gates = {"gate": c.lmax, "separable_s2": 1, "s2": 0}[c.attn_activation] * c.attn_hidden_channels
        self.alpha_dot = nn.Parameter(torch.empty(c.num_heads, c.attn_alpha_channels))
        bound = 1 / math.sqrt(c.attn_alpha_channels)
        nn.init.uniform_(self.alpha_dot, -bound, bound)
        _element_tables(self, c)
        extra = self.logit_channels + gates
        self.so2_conv_1 = SO2Convolution(2 * c.sphere_channels, c.attn_hidden_channels, c.lmax, c.mmax, extra)
        self.orders = orders(c.lmax, c.mmax, per_degree=c.radial_weights == "per_degree")
        owner = self if c.radial_weights == "per_degree" else self.so2_conv_1
        owner.rad_func = _radial_function(c, self.orders.all_weights * 2 * c.sphere_channels)
        self.alpha_norm = nn.LayerNorm(c.attn_alpha_channels) if c.attn_renorm else nn.Identity()
        self.softmax = SoftmaxWeights()
        values = c.num_heads * c.attn_value_channels
        self.so2_conv_2 = SO2Convolution(c.attn_hidden_channels, values, c.lmax, c.mmax)
        self.proj = SO3Linear(values, out_channels, c.lmax)
        if c.attn_activation != "gate":
            self.activation = _activation(c.attn_activation, c, m_primary(c.lmax, c.mmax), c.mmax)

    def _messages(self, x: Tensor, edges: FramedEdges, shared: Elements) -> list[Tensor]:
        """x_j and x_i side by side in the edge frame, times the radial weights: a list over m of [E, n, 2C].

        Weights per degree commute with the rotation, so both kinds act after it.
        """
        c = self.config
        owner = self if c.radial_weights == "per_degree" else self.so2_conv_1
        weights = owner.get_submodule("rad_func")(edges.basis, _elements(self, shared), edges.z)
        return weigh(edges.pairs(x), weights, self.orders)

    def forward(self, x: Tensor, edges: FramedEdges, shared: Elements, keep: Tensor | None = None) -> Tensor:
        """[N, S, C] → [N, S, out]; attention weights are multiplied by ``keep`` [E, h] (dropout)."""
        return streamed(self._sums, edges, whole=shared, atoms=[x], beside=[] if keep is None else [keep])

    def vectors(self, x: Tensor, edges: FramedEdges, shared: Elements) -> Tensor:
        """[N, S, C] → [N, 3, out], of the output the degree 1 alone, in the order x, y, z."""
        return streamed(self._vector_sums, edges, whole=shared, atoms=[x])

    def _sums(self, edges: FramedEdges, shared: Elements, atoms: Sequence[Tensor], keep: Sequence[Tensor]) -> Tensor:
        hidden, alpha = self._attend(edges, shared, atoms[0], keep)
        _, values = self.so2_conv_2(hidden, edges.place(2))
        return self.proj(edges.sums(join_heads(values, alpha)))

    def _vector_sums(
        self, edges: FramedEdges, shared: Elements, atoms: Sequence[Tensor], keep: Sequence[Tensor]
    ) -> Tensor:
        hidden, alpha = self._attend(edges, shared, atoms[0], keep)
        values = self.so2_conv_2.vectors(hidden, edges.place(2))
        return self.proj.vectors(edges.vector_sums(join_heads(values, alpha)))

    def _attend(
        self, edges: FramedEdges, shared: Elements, x: Tensor, keep: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """Features before the second convolution, and attention weights [E, h]."""
        c = self.config
        extra, hidden = self.so2_conv_1(self._messages(x, edges, shared), edges.place(0))
        features, scalars = extra.split([self.logit_channels, extra.shape[1] - self.logit_channels], dim=1)
        match c.attn_activation:
            case "gate":
                hidden = gate_orders(hidden, scalars.unflatten(1, (c.lmax, c.attn_hidden_channels)))
            case "separable_s2":
                assert isinstance(self.activation, SeparableS2Activation)
                hidden = self.activation.parts(scalars, hidden, edges.place(1))
            case "s2":
                assert isinstance(self.activation, S2Activation)
                hidden = self.activation.parts(hidden, edges.place(1))
        logits = self.alpha_norm(features.unflatten(1, (c.num_heads, c.attn_alpha_channels)))
        logits = (smooth_leaky_relu(logits) * self.alpha_dot).sum(2)
        alpha = self.softmax(logits, edges.row, edges.rows, edges.envelope)
        if edges.envelope is not None:
            alpha = alpha * edges.envelope.unsqueeze(1)
        for mask in keep:
            alpha = alpha * mask
        return hidden, alpha


class FeedForward(nn.Module):
    """Point-wise network on atoms (Sec. 4.3): linear, non-linearity on the full grid or by gates, linear."""

    def __init__(self, config: Config, out_channels: int) -> None:
        super().__init__()
        c = self.config = config
        hidden = c.ffn_hidden_channels
        self.so3_linear_1 = SO3Linear(c.sphere_channels, hidden, c.lmax)
        self.so3_linear_2 = SO3Linear(hidden, out_channels, c.lmax)
        match c.ffn_activation:
            case "gate":
                self.gating_linear = Linear(c.sphere_channels, c.lmax * hidden)
            case "separable_s2":
                self.gating_linear = Linear(c.sphere_channels, hidden)
            case "grid_mlp" | "separable_grid_mlp":
                if c.ffn_activation == "separable_grid_mlp":
                    self.scalar_mlp = nn.Sequential(Linear(c.sphere_channels, hidden), nn.SiLU())
                linears = [Linear(hidden, hidden, bias=False) for _ in range(3)]
                self.grid_mlp = nn.Sequential(linears[0], nn.SiLU(), linears[1], nn.SiLU(), linears[2])
        if c.ffn_activation != "gate":
            self.activation = _activation(c.ffn_activation, c, l_primary(c.lmax), c.lmax)

    def forward(self, x: Tensor) -> Tensor:
        """[N, S, C] → [N, S, out]."""
        scalars = x[:, 0]
        y = self.so3_linear_1(x)
        match self.config.ffn_activation:
            case "gate":
                y = gate(y, self.gating_linear(scalars).unflatten(1, (self.config.lmax, -1)))
            case "separable_s2":
                y = self.activation(self.gating_linear(scalars), y)
            case "s2":
                y = self.activation(y)
            case "grid_mlp":
                y = self._grid_mlp(y)
            case "separable_grid_mlp":
                y = torch.cat([self.scalar_mlp(scalars).unsqueeze(1), self._grid_mlp(y)[:, 1:]], dim=1)
        return self.so3_linear_2(y)

    def _grid_mlp(self, y: Tensor) -> Tensor:
        """The first and last linear act on channels, the grid transforms on coefficients: they commute, so both act on
        the few coefficients instead of the many points."""
        assert isinstance(self.activation, S2Activation)
        to_grid, from_grid = self.activation.to_grid, self.activation.from_grid
        y = self.grid_mlp[0](y)
        rows = rows_first([y])
        points = (to_points(to_grid, piece) for piece in rows.split(in_cache(to_grid, rows), dim=1))
        found = [from_points(from_grid, silu(self.grid_mlp[2](silu(u)))) for u in points]
        (y,) = as_parts(torch.cat(found, dim=1), [y])
        return self.grid_mlp[4](y)

    def scalars(self, x: Tensor) -> Tensor:
        """The l = 0 row of the output, [N, out]; parts that cannot reach it are not computed."""
        match self.config.ffn_activation:
            case "gate":
                y = silu(self.so3_linear_1.scalars(x[:, 0]))
            case "separable_s2":
                y = silu(self.gating_linear(x[:, 0]))
            case "separable_grid_mlp":
                y = self.scalar_mlp(x[:, 0])
            case _:
                return self(x)[:, 0]
        return self.so3_linear_2.scalars(y)


class Block(nn.Module):
    """x + DropPath(attention(norm(x))), then x + DropPath(feed-forward(norm(x))) (Fig. 1a)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        self.norm_1 = NORMS[c.norm_type](c.lmax, c.sphere_channels)
        self.ga = GraphAttention(c, c.sphere_channels)
        self.norm_2 = NORMS[c.norm_type](c.lmax, c.sphere_channels)
        self.ffn = FeedForward(c, c.sphere_channels)

    def forward(
        self, x: Tensor, edges: FramedEdges, shared: Elements, graph: AtomGraph, rng: torch.Generator | None
    ) -> Tensor:
        """[N, S, C] → [N, S, C]."""
        keep = None
        if self.training and self.config.alpha_drop:
            ones = x.new_ones(edges.i.shape[0], self.config.num_heads)
            keep = drop(ones, self.config.alpha_drop, tuple(ones.shape), rng)
        x = x + self._drop(self.ga(self.norm_1(x), edges, shared, keep), graph, rng)
        return x + self._drop(remade(self.ffn, self.norm_2(x), edges), graph, rng)

    def _drop(self, x: Tensor, graph: AtomGraph, rng: torch.Generator | None) -> Tensor:
        if not self.training:
            return x
        x = drop_path(x, self.config.drop_path_rate, graph.batch, graph.num_graphs, rng)
        return drop(x, self.config.proj_drop, (x.shape[0], 1, x.shape[2]), rng)


class EquiformerV2(AtomModel):
    """The model: ``forward(graph) -> AtomOutput``; equivariant under SE(3), in the smooth default exactly so.

    Parameter names are the official ones. Differentiable twice; not a third time, where torch's own derivative of the
    layer norm is wrong.
    """

    group = "SE(3)"
    reads: frozenset[str] = frozenset()
    backends = frozenset({"torch", "triton"})

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        self.spec = c.spec
        self.outputs = frozenset({"energy", "forces"} if c.force_head else {"energy"})
        self.sphere_embedding = nn.Embedding(c.max_num_elements, c.sphere_channels)
        if c.atom_edge_embedding == "shared":
            self.source_embedding = nn.Embedding(c.max_num_elements, c.edge_channels)
            self.target_embedding = nn.Embedding(c.max_num_elements, c.edge_channels)
        self.distance_expansion = GaussianBasis(c.num_distance_basis, c.cutoff)
        self.edge_degree_embedding = EdgeDegreeEmbedding(c)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.num_layers))
        self.norm = NORMS[c.norm_type](c.lmax, c.sphere_channels)
        self.energy_block = FeedForward(c, 1)
        if c.force_head:
            self.force_block = GraphAttention(c, 1)
        # (2l+1)/(2M+1) makes up for the orders that are cut (official code; absent from the paper)
        scale = [math.sqrt((2 * l + 1) / (2 * c.mmax + 1)) if l > c.mmax else 1.0 for l, _ in m_primary(c.lmax, c.mmax)]
        self.row_scale = tuple(scale)
        self.width = 2 * c.sphere_channels * len(scale)
        # two convolutions and the activation between them
        self.products = 3 if 2 * c.sphere_channels * (c.lmax + 1) >= WORTH else 0
        self._initialise()

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if self.config.weight_init == "normal" and "rad_func" not in name:
                    gain = math.sqrt(0.5) if "so2_m_conv" in name else 1.0
                    nn.init.normal_(module.weight, std=gain / math.sqrt(module.in_features))
            elif isinstance(module, SO3Linear) and self.config.weight_init == "normal":
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.weight.shape[2]))

    def admit(self, graph: AtomGraph) -> None:
        refuse_elements(graph, self.config.max_num_elements)

    def no_weight_decay(self) -> set[str]:
        """Biases and everything that belongs to a norm, as in the official lists."""
        norms = ("norm", "rad_func.net.1.", "rad_func.net.4.")
        return {n for n, _ in self.named_parameters() if n.endswith("bias") or any(part in n for part in norms)}

    def edges(self, graph: AtomGraph, frames: Tensor | None) -> FramedEdges:
        """Geometry of the edges; ``frames`` [E, 3, 3] rotate every edge to +y, by default ``edge_frames``."""
        c = self.config
        return framed_edges(
            graph, frames, self.distance_expansion,
            envelope_cutoff=c.cutoff if c.envelope == "polynomial" else None, lmax=c.lmax, mmax=c.mmax,
            row_scale=self.row_scale, tiles=self.tiles(graph), backend=self.backend,
        )  # fmt: skip

    def forward(
        self, graph: AtomGraph, rng: torch.Generator | None = None, *, frames: Tensor | None = None
    ) -> AtomOutput:
        """Atomic energies [N] and, with a force head, forces [N, 3], in the model's own scale.

        Args:
            graph: neighbours by ``self.spec``.
            rng: for dropout in training.
            frames: [E, 3, 3] to replace the edge frames.

        Raises:
            CovariumError: an atomic number beyond ``max_num_elements``.
        """
        c = self.config
        if not graph.traced:
            self.admit(graph)
        edges = self.edges(graph, frames)
        shared: Elements = ()
        if c.atom_edge_embedding == "shared":
            shared = (self.source_embedding.weight, self.target_embedding.weight)
        scalars = self.sphere_embedding(graph.numbers).unsqueeze(1)
        degree = self.edge_degree_embedding(edges, shared)
        x = torch.cat([scalars + degree[:, :1], degree[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x, edges, shared, graph, rng)
        x = self.norm(x)
        energy = unrounded_call(self.energy_block.scalars, x).squeeze(1) / c.avg_num_nodes
        forces = self.force_block.vectors(x, edges, shared).squeeze(2) if c.force_head else None
        return AtomOutput(energy, forces)


def _element_tables(module: nn.Module, config: Config) -> None:
    """Per-block source and target element tables, when the config asks for them."""
    if config.atom_edge_embedding == "per_block":
        for name in ("source_embedding", "target_embedding"):
            table = nn.Embedding(config.max_num_elements, config.edge_channels)
            nn.init.uniform_(table.weight, -0.001, 0.001)
            module.add_module(name, table)


def _elements(module: nn.Module, shared: Elements) -> tuple[Tensor, Tensor] | None:
    if not hasattr(module, "source_embedding"):
        return (shared[0], shared[1]) if shared else None
    source, target = (module.get_submodule(f"{end}_embedding") for end in ("source", "target"))
    assert isinstance(source, nn.Embedding) and isinstance(target, nn.Embedding)
    return source.weight, target.weight


def _radial_function(config: Config, out: int) -> RadialFunction:
    element_channels = 0 if config.atom_edge_embedding == "none" else config.edge_channels
    return RadialFunction(config.num_distance_basis, element_channels, config.edge_channels, out)


def _activation(kind: str, config: Config, rows: tuple[tuple[int, int], ...], mmax: int) -> nn.Module:
    resolution = config.grid_resolution
    grid = s2_grid(config.lmax, mmax, config.grid, resolution, resolution)
    if mmax < config.lmax:
        # official code: both matrices carry the factor of cut orders, so from(to(x)) ≠ x for l > M
        scale = [math.sqrt((2 * l + 1) / (2 * mmax + 1)) if l > mmax else 1.0 for l, _ in l_primary(config.lmax)]
        grid = type(grid)(grid.to_grid * scale, grid.from_grid * scale)
    s2 = S2Activation(grid, rows)
    return SeparableS2Activation(s2) if kind == "separable_s2" else s2

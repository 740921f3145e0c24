"""Equivariant Transformer of TorchMD-NET (Thölke 2022, arXiv 2202.02541), with the numbers of the official code (3.1)
where paper and code differ.

Letters: N atoms, E edges j → i, B structures, F channels, h heads, K radial functions; x [N, F] scalars, v [N, 3, F]
vectors, C(r) the cosine cutoff. An atom attends to itself too, at r = 0 and without a direction: these loops are terms
of the atoms here, not edges.

Beyond the published model, as named values of Config: lengths of vectors that are smooth at zero. They and
``vector_cutoff`` are the defaults; ``Config.published`` gives the switches of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import ase.data
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from covarium.errors import CovariumError, nearest
from covarium.layers.attention_weights import AttentionWeights
from covarium.layers.constants import ExactConstants
from covarium.layers.expnormal import ExpNormalBasis, SpacedGaussianBasis, cosine_cutoff
from covarium.layers.linear import Linear
from covarium.layers.rounding import unrounded_call
from covarium.layers.streaming import TiledEdges, streamed
from covarium.ops.activation import silu
from covarium.ops.dense import dense
from covarium.ops.gather import gather, scatter_sum
from covarium.ops.messages import edge_logits, edge_messages, few_edges, logits
from covarium.ops.norm import norm
from covarium.ops.rotation import Backend
from covarium.ops.tiled import Tile
from covarium.systems import AtomGraph, AtomModel, AtomOutput, GraphSpec, refuse_elements

Activation = Literal["silu", "ssp", "tanh", "sigmoid"]
Output = Literal["scalar", "equivariant_scalar", "dipole", "equivariant_dipole", "spatial_extent", "vector"]
ANSWERS = {
    "scalar": "energy",
    "equivariant_scalar": "energy",
    "dipole": "dipole",
    "equivariant_dipole": "dipole",
    "spatial_extent": "spatial_extent",
    "vector": "vector",
}
LOG_2 = 0.6931471824645996  # official code: rounded to float32

# Sizes of the published models (official yaml files, releases 0.2.4 and 3.1)
SIZES: dict[str, dict[str, Any]] = {
    "md17": dict(num_layers=6, embedding_dimension=128, num_heads=8, num_rbf=32),
    "ani-1": dict(num_layers=6, embedding_dimension=128, num_heads=8, num_rbf=32),
    "qm9": dict(num_layers=8, embedding_dimension=256, num_heads=8, num_rbf=64),
    "spice": dict(num_layers=5, embedding_dimension=128, num_heads=8, num_rbf=64, cutoff=10.0, vector_cutoff=True),
}


@dataclass(frozen=True)
class Config:
    """Sizes and switches. Defaults: smooth; sized for molecules on a CPU.

    Attributes:
        embedding_dimension: F.
        num_rbf: K.
        rbf_type: ``expnorm`` (with an envelope) or ``gauss`` (without).
        trainable_rbf: centres and widths are learnt.
        activation: of dk, dv, the update of scalars and the heads; ``ssp`` is softplus(x) − log 2.
        attn_activation: of the attention logits; there is no softmax.
        neighbour_embedding: scalars start from the elements around an atom too.
        distance_influence: whether distances enter the logits (``keys``), the values, both or neither.
        vector_cutoff: C(r) on messages to the vectors; without it the energy jumps at the cutoff (published).
        vector_epsilon: lengths of vectors in the heads are √(v² + ε²); 0 is the published length, whose derivative
            jumps at v = 0, on every atom whose surroundings are symmetric.
        output: the head: an energy of every atom (``scalar``, ``equivariant_scalar``), or a value of every structure:
            dipole moment [B, 3], electronic spatial extent [B], vector [B, 3].
        cutoff, cutoff_lower: Å; atoms nearer than ``cutoff_lower`` do not see each other.
    """

    num_layers: int = 4
    embedding_dimension: int = 64
    num_heads: int = 8
    num_rbf: int = 32
    rbf_type: Literal["expnorm", "gauss"] = "expnorm"
    trainable_rbf: bool = False
    activation: Activation = "silu"
    attn_activation: Activation = "silu"
    neighbour_embedding: bool = True
    distance_influence: Literal["both", "keys", "values", "none"] = "both"
    vector_cutoff: bool = True
    vector_epsilon: float = 0.01
    output: Output = "equivariant_scalar"
    cutoff: float = 5.0
    cutoff_lower: float = 0.0
    max_num_elements: int = 100

    def __post_init__(self) -> None:
        for name in ("num_layers", "embedding_dimension", "num_heads", "max_num_elements"):
            if getattr(self, name) < 1:
                raise CovariumError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.num_rbf < 2:
            raise CovariumError(f"model.num_rbf must be at least 2, got {self.num_rbf}")
        if self.embedding_dimension % self.num_heads or self.embedding_dimension % 2:
            raise CovariumError(
                "model.embedding_dimension must be even and divisible by model.num_heads, got "
                f"{self.embedding_dimension} and {self.num_heads}"
            )
        if not 0 <= self.cutoff_lower < self.cutoff < math.inf:
            raise CovariumError(
                f"0 ≤ model.cutoff_lower < model.cutoff is needed, got {self.cutoff_lower} and {self.cutoff}"
            )
        if not 0 <= self.vector_epsilon < math.inf:
            raise CovariumError(f"model.vector_epsilon must be 0 or positive, got {self.vector_epsilon}")

    @property
    def spec(self) -> GraphSpec:
        return GraphSpec(self.cutoff)

    @classmethod
    def published(cls, recipe: str = "md17", **changes: Any) -> Self:  # noqa: ANN401 - fields of Config
        """The published models for ``md17``, ``ani-1``, ``qm9`` and ``spice``; ``changes`` win.

        Raises:
            CovariumError: another recipe.
        """
        if recipe not in SIZES:
            raise CovariumError(f"recipe '{recipe}' is unknown{nearest(recipe, SIZES)}; known: {', '.join(SIZES)}")
        return cls(**({"vector_cutoff": False, "vector_epsilon": 0.0} | SIZES[recipe] | changes))


@dataclass(frozen=True)
class Loops:
    """What takes the place of an edge's numbers for the loops, at r = 0: basis [1, K], C, and the weight of messages
    to the vectors."""

    basis: Tensor
    cutoff: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class Edges(TiledEdges):
    """What every layer reads of the edges.

    Attributes:
        unit: r̂ [E, 3], from target to source.
        basis: [E, K].
        cutoff: C [E].
        vector_weight: of messages to the vectors, [E], or None for 1.
        loops: of every atom.
    """

    unit: Tensor
    basis: Tensor
    cutoff: Tensor
    vector_weight: Tensor | None
    loops: Loops


class ShiftedSoftplus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return softplus(x) - LOG_2


class Silu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return silu(x)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": Silu,
    "ssp": ShiftedSoftplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class Mlp(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, channels: int, hidden: int, out: int, activation: Activation) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Linear(channels, hidden), ACTIVATIONS[activation](), Linear(hidden, out)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class NeighborEmbedding(nn.Module):
    """x_i ← linear [x_i, Σ_j C(r) W(r) ∘ emb(z_j)] over the neighbours (Eq. 4 and 5)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        f = config.embedding_dimension
        self.embedding = nn.Embedding(config.max_num_elements, f)
        self.distance_proj = Linear(config.num_rbf, f)
        self.combine = Linear(2 * f, f)

    def forward(self, x: Tensor, numbers: Tensor, edges: Edges) -> Tensor:
        """[N, F] → [N, F]."""
        around = streamed(self._around, edges, atoms=[self.embedding(numbers)])
        return self.combine(torch.cat([x, around], dim=1))

    def _around(self, edges: Edges, _: Sequence[Tensor], atoms: Sequence[Tensor], *__: Sequence[Tensor]) -> Tensor:
        weight = self.distance_proj(edges.basis) * edges.cutoff.unsqueeze(1)
        return scatter_sum(weight * gather(atoms[0], edges.j), edges.row, edges.rows)


class Attention(AttentionWeights):
    """act(logit) C(r)."""

    def __init__(self, activation: Activation, *, loops: bool = False) -> None:
        super().__init__(loops=loops)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, logits: Tensor, cutoff: Tensor | float) -> Tensor:
        """Logits [E, h] and C [E, 1] → [E, h]."""
        return self.activation(logits) * cutoff


class EquivariantMultiHeadAttention(nn.Module):
    """One update of scalars and vectors (Sec. 3.3, Eq. 6 to 11). Differentiable twice.

    The official value channels are ordered (head, kind, channel) with three kinds, to scalars, from vectors and from
    directions; here the rows of the weights are brought to (kind, head, channel), so that a kind is a slice. Kinds are
    numbered so, and stand in the order 0, 2, 1.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        f = c.embedding_dimension
        self.layernorm = nn.LayerNorm(f)
        self.act = ACTIVATIONS[c.activation]()
        self.attention = Attention(c.attn_activation)
        self.loop_attention = Attention(c.attn_activation, loops=True)
        self.q_proj, self.k_proj, self.v_proj = Linear(f, f), Linear(f, f), Linear(f, 3 * f)
        self.o_proj = Linear(f, 3 * f)
        self.vec_proj = Linear(f, 3 * f, bias=False)
        if c.distance_influence in ("keys", "both"):
            self.dk_proj = Linear(c.num_rbf, f)
        if c.distance_influence in ("values", "both"):
            self.dv_proj = Linear(c.num_rbf, 3 * f)

    def _kinds(self, layer: nn.Linear, x: Tensor, kinds: tuple[int, ...]) -> Tensor:
        """The layer's output for some of the three kinds: [E, 3F] → [E, len(kinds) F]."""
        rows = [t.unflatten(0, (self.config.num_heads, 3, -1)) for t in (layer.weight, layer.bias)]
        weight, bias = (torch.cat([t[:, kind].flatten(0, 1) for kind in kinds]) for t in rows)
        return dense(x, weight, bias)

    def _radial(self, basis: Tensor, kinds: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
        """dk [E, F] and dv [E, len(kinds) F]; None where distances have no influence."""
        influence = self.config.distance_influence
        dk = self.act(self.dk_proj(basis)) if influence in ("keys", "both") else None
        dv = self.act(self._kinds(self.dv_proj, basis, kinds)) if influence in ("values", "both") else None
        return dk, dv

    def forward(self, x: Tensor, vec: Tensor | None, edges: Edges) -> tuple[Tensor, Tensor]:
        """What is added to x [N, F] and v [N, 3, F]; ``vec`` None stands for zeros, as in the first layer."""
        f = x.shape[1]
        heads = self.config.num_heads
        # vectors that are zero send nothing
        kinds = (0, 2) if vec is None else (0, 2, 1)
        x = self.layernorm(x)
        q, k = self.q_proj(x), self.k_proj(x)
        values, *v1 = self._kinds(self.v_proj, x, kinds).split(2 * f, dim=1)

        # what an edge sends of a vector is the product of v1 and the vector, which is of the source alone
        vectors = [(t.unsqueeze(1) * vec).flatten(1) for t in v1 if vec is not None]
        # to scalars, to vectors: [N, F] and [N, 3, F]
        y, w = streamed(self._messages, edges, atoms=[q, k, values, *vectors]).split([f, 3 * f], dim=1)
        w = w.unflatten(1, (3, f))

        dk, dv = self._radial(edges.loops.basis, kinds)
        alpha = self.loop_attention(logits(q, k, dk, heads), edges.loops.cutoff)
        s0 = values[:, :f] if dv is None else values[:, :f] * dv[:, :f]
        y = y + (s0.unflatten(1, (heads, -1)) * alpha.unsqueeze(2)).flatten(1)
        for z in vectors:
            s1 = z if dv is None else z.unflatten(1, (3, f)) * dv[:, 2 * f :].unsqueeze(1)
            w = w + s1.view_as(w) * edges.loops.weight

        o1, o2, o3 = self.o_proj(y).split(f, dim=1)
        if vec is None:
            return o3, w
        u1, u2, u3 = self.vec_proj(vec).split(f, dim=2)
        return (u1 * u2).sum(1) * o2 + o3, u3 * o1.unsqueeze(1) + w

    def _messages(self, edges: Edges, _: Sequence[Tensor], atoms: Sequence[Tensor], *__: Sequence[Tensor]) -> Tensor:
        """Sums over the edges to scalars and to vectors, [N, (1 + 3) F], from q, k, values and vectors if any."""
        q, k, values, *vectors = atoms
        dk, dv = self._radial(edges.basis, (0, 2, 1) if vectors else (0, 2))
        found = edge_logits(q, k, dk, edges.ends, self.config.num_heads, backend=edges.backend)
        alpha = self.attention(found, edges.cutoff.unsqueeze(1))
        weight = None if edges.vector_weight is None else edges.vector_weight.unsqueeze(1)
        directions = edges.unit if weight is None else edges.unit * weight
        return edge_messages(
            alpha, dv, directions, weight, values, vectors[0] if vectors else None, (edges.ends[0], edges.onto),
            backend=edges.backend,
        )  # fmt: skip


class EquivariantTransformer(nn.Module):
    """Elements and geometry to features: x [N, F], v [N, 3, F]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        basis = {"expnorm": ExpNormalBasis, "gauss": SpacedGaussianBasis}[c.rbf_type]
        self.embedding = nn.Embedding(c.max_num_elements, c.embedding_dimension)
        # stored, as published files hold them rounded to float32
        self.distance_expansion = basis(c.num_rbf, c.cutoff, c.cutoff_lower, trainable=c.trainable_rbf, stored=True)
        if c.neighbour_embedding:
            self.neighbor_embedding = NeighborEmbedding(c)
        self.attention_layers = nn.ModuleList(EquivariantMultiHeadAttention(c) for _ in range(c.num_layers))
        self.out_norm = nn.LayerNorm(c.embedding_dimension)

    def edges(self, graph: AtomGraph, tiles: Sequence[Tile] = (), backend: Backend = "torch") -> Edges:
        """Geometry of the edges, and what takes its place for the loops."""
        c = self.config
        vectors = graph.vectors()
        distance = norm(vectors)
        # atoms on top of each other have no direction, but finite derivatives
        unit = vectors / torch.where(distance == 0, 1.0, distance).unsqueeze(1)
        cutoff = cosine_cutoff(distance, c.cutoff_lower, c.cutoff)
        weight = cutoff if c.vector_cutoff else None
        if weight is None and c.cutoff_lower > 0:
            weight = (distance >= c.cutoff_lower).to(distance)
        loop_cutoff = 0.0 if c.cutoff_lower > 0 else 1.0
        return Edges(
            j=graph.edge_index[0],
            i=graph.edge_index[1],
            row=graph.edge_index[1],
            rows=graph.num_atoms,
            tiles=tiles,
            backend=backend,
            unit=unit,
            basis=self.distance_expansion(distance),
            cutoff=cutoff,
            vector_weight=weight,
            loops=Loops(
                self.distance_expansion(distance.new_zeros(1)), loop_cutoff, loop_cutoff if c.vector_cutoff else 1.0
            ),
        )

    def forward(
        self, graph: AtomGraph, tiles: Sequence[Tile] = (), backend: Backend = "torch"
    ) -> tuple[Tensor, Tensor]:
        """x [N, F], v [N, 3, F]."""
        edges = self.edges(graph, tiles, backend)
        x = self.embedding(graph.numbers)
        if self.config.neighbour_embedding:
            x = self.neighbor_embedding(x, graph.numbers, edges)
        vec: Tensor | None = None
        for layer in self.attention_layers:
            dx, dvec = layer(x, vec, edges)
            x, vec = x + dx, dvec if vec is None else vec + dvec
        assert vec is not None
        return self.out_norm(x), vec


class GatedEquivariantBlock(nn.Module):
    """x, v → [x, ‖W₁ v‖] through an MLP → (x, gate); v = gate ∘ W₂ v (Schütt 2021, arXiv 2102.03150, Fig. 3)."""

    def __init__(self, channels: int, out: int, config: Config) -> None:
        super().__init__()
        self.epsilon = config.vector_epsilon
        self.vec1_proj = Linear(channels, channels, bias=False)
        self.vec2_proj = Linear(channels, out, bias=False)
        self.update_net = Mlp(2 * channels, channels, 2 * out, config.activation)

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """[N, F], [N, 3, F] → [N, out], [N, 3, out]."""
        length = norm(self.vec1_proj(v), dim=1, epsilon=self.epsilon)
        x, gate = self.update_net(torch.cat([x, length], dim=1)).chunk(2, dim=1)
        return x, gate.unsqueeze(1) * self.vec2_proj(v)


class Head(ExactConstants):
    """From features to the answer that ``Config.output`` names."""

    atomic_mass: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        f = config.embedding_dimension
        self.output_network: nn.Module
        if config.output in ("scalar", "dipole", "spatial_extent"):
            self.output_network = Mlp(f, f // 2, 1, config.activation)
        else:
            self.act = ACTIVATIONS[config.activation]()
            blocks = [GatedEquivariantBlock(f, f // 2, config), GatedEquivariantBlock(f // 2, 1, config)]
            self.output_network = nn.ModuleList(blocks)
        if ANSWERS[config.output] in ("dipole", "spatial_extent"):
            self.constant("atomic_mass", ase.data.atomic_masses[:119])

    def forward(self, x: Tensor, v: Tensor, graph: AtomGraph) -> AtomOutput:
        """Energies [N], or a value of every structure: [B, 3] or [B].

        Raises:
            CovariumError: a dipole moment or spatial extent of a periodic structure, which has no centre.
        """
        if isinstance(self.output_network, nn.ModuleList):
            first, second = self.output_network
            x, v = first(x, v)
            x, v = second(self.act(x), v)
        else:
            x = self.output_network(x)
        match self.config.output:
            case "scalar" | "equivariant_scalar":
                return AtomOutput(x.squeeze(1))
            case "dipole":
                value = x * self._from_centre(graph)
            case "equivariant_dipole":
                value = x * self._from_centre(graph) + v.squeeze(2)
            case "spatial_extent":
                value = x.squeeze(1) * self._from_centre(graph).square().sum(1)
            case "vector":
                value = v.squeeze(2)
        return AtomOutput(None, value=scatter_sum(value, graph.batch, graph.num_graphs))

    def _from_centre(self, graph: AtomGraph) -> Tensor:
        """[N, 3] Å, from the centre of mass of the structure."""
        if bool(graph.pbc.any()):
            structure = int(graph.pbc.any(1).nonzero()[0])
            raise CovariumError(
                f"structure {structure} is periodic: its {ANSWERS[self.config.output].replace('_', ' ')} about a "
                "centre of mass is undefined; a vector without a centre is model.output=vector"
            )
        mass = self.atomic_mass.index_select(0, graph.numbers).unsqueeze(1)
        total = scatter_sum(mass, graph.batch, graph.num_graphs)
        moment = scatter_sum(mass * graph.positions, graph.batch, graph.num_graphs)
        # a structure without atoms has no centre, and nothing that needs it
        return graph.positions - gather(moment / torch.where(total == 0, 1.0, total), graph.batch)


class TorchMDET(AtomModel):
    """The model: ``forward(graph) -> AtomOutput``; equivariant under E(3). Parameter names are those of release 3.x.

    Differentiable twice; not a third time, where torch's own derivative of the layer norm is wrong.
    """

    group = "E(3)"
    reads: frozenset[str] = frozenset()
    backends = frozenset({"torch", "triton"})

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.spec = config.spec
        self.outputs = frozenset({ANSWERS[config.output]})
        self.width = 4 * config.embedding_dimension
        self.few = few_edges(config.embedding_dimension)
        self.representation_model = EquivariantTransformer(config)
        self.output_model = Head(config)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def admit(self, graph: AtomGraph) -> None:
        refuse_elements(graph, self.config.max_num_elements)

    def forward(self, graph: AtomGraph, rng: torch.Generator | None = None) -> AtomOutput:
        """Energies of the atoms [N], or the ``value`` of every structure, in the model's own scale.

        Args:
            graph: neighbours by ``self.spec``, without loops.
            rng: not used, there is no dropout.

        Raises:
            CovariumError: an atomic number beyond ``max_num_elements``; see ``Head``.
        """
        if not graph.traced:
            self.admit(graph)
        x, v = self.representation_model(graph, self.tiles(graph), self.backend)
        return unrounded_call(self.output_model, x, v, graph)

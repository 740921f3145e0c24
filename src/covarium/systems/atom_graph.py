"""Atoms and their neighbourhood: indices and integer shifts, never vectors.

Letters: N atoms, E directed edges j → i (source, target), B structures in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from covarium.algebra.rounding import unrounded
from covarium.errors import CovariumError
from covarium.ops.rotation import Backend
from covarium.ops.tiled import Tile, tiles_of
from covarium.ops.traced import traced

Rounding = Literal["none", "tf32", "bf16"]
# measured: numbers per tensor that stay in the cache, and edges below which matrix products become slower
IN_CACHE, ENOUGH = 2_500_000, 1024
# The C library of Linux gives memory back to the system where more is free than twice the largest block freed so far,
# and takes it again page by page, a tenth of the time of a pass in tiles. 31 MB, here never written to, is about the
# largest block that it counts.
torch.empty(31 * 2**20, dtype=torch.uint8)


@dataclass(frozen=True)
class GraphSpec:
    """The neighbourhood a model needs.

    Attributes:
        cutoff: radius in Å; pairs with distance < cutoff are neighbours.
        rule: ``all`` neighbours within the cutoff (smooth, the default); ``nearest``: at most ``max_neighbours`` per
            target, the truncation of the published OC20 models (Liao 2023, arXiv 2306.12059; not smooth, ties cut in
            order of source index); ``nearest_with_ties``: the same, but all pairs within 0.01 Å of the first one
            cut stay too, so that symmetry-equivalent neighbours are treated alike (fairchem's
            ``enforce_max_neighbors_strictly: False``).
        max_neighbours: needed by the two truncating rules, and theirs alone.
    """

    cutoff: float
    rule: Literal["all", "nearest", "nearest_with_ties"] = "all"
    max_neighbours: int | None = None

    def __post_init__(self) -> None:
        if not self.cutoff > 0:
            raise CovariumError(f"cutoff must be a positive length in Å, got {self.cutoff}")
        if self.rule not in ("all", "nearest", "nearest_with_ties"):
            raise CovariumError(f"neighbour rule '{self.rule}' is unknown; allowed: all, nearest, nearest_with_ties")
        if self.rule != "all" and not (self.max_neighbours and self.max_neighbours > 0):
            raise CovariumError(f"neighbour rule '{self.rule}' needs max_neighbours > 0, got {self.max_neighbours}")
        if self.rule == "all" and self.max_neighbours is not None:
            raise CovariumError(
                f"max_neighbours {self.max_neighbours} means nothing where all neighbours count; choose neighbours: "
                "nearest or nearest_with_ties"
            )


class AtomOutput(NamedTuple):
    """What a model says, in its own scale, None where it says nothing.

    Attributes:
        energy: [N], a scalar of every atom.
        forces: [N, 3] from a direct head.
        value: [B] or [B, 3], of a head whose answer for a structure is no sum of atomic scalars.
        stress: [B, 3, 3] from a direct head.
        noise: [N, 3], the displacements of a denoising pass.
        displacements: [N, 3], towards the relaxed structure.
    """

    energy: Tensor | None
    forces: Tensor | None = None
    value: Tensor | None = None
    stress: Tensor | None = None
    noise: Tensor | None = None
    displacements: Tensor | None = None


class Denoising(NamedTuple):
    """Inputs of a denoising pass beside the displaced structure.

    forces: [N, 3] eV/Å, of the structure before it was displaced. mask: [N] bool, the displaced atoms; the forces of
    the others are not read.
    """

    forces: Tensor
    mask: Tensor


class AtomModel(nn.Module):
    """What every model of atoms declares; ``forward(graph, rng) -> AtomOutput``.

    Attributes:
        system: the kind of system it reads, for tables of models.
        spec: the neighbourhood it needs.
        group: under which it is equivariant, e.g. ``SE(3)``.
        outputs: ``energy``, and of ``forces``, ``stress`` and ``noise`` those it has direct heads for; a model without
            ``energy`` names what its ``value`` is: ``dipole``, ``spatial_extent`` or ``vector``.
        reads: which of ``charge`` and ``spin`` it uses; the others must be zero.
        tile: edges that are worked on at a time, their inside made again in every pass instead of stored; None to
            store all. It changes memory and time, not the answer.
        keep: edges whose inside is stored nevertheless, in tiles that end before them.
        remember: of others, how many results of large products are stored, counted by edges, see ``tiles_of``.
        products: there are for each edge of a layer whose results can be.
        few: edges up to which it computes in another way, with the same answer.
        width: numbers per edge in the widest of the large tensors. Where all is stored, the CPU works on as many edges
            at a time as stay in its cache; None for all at once.
        backend: what rotates features into the frames of edges and out of them, see ``covarium.ops.rotation``, or sums
            messages, see ``covarium.ops.messages``. It changes time, not the answer.
        backends: those that make a difference.
        rounding: of products with weights: ``bf16`` by autocast in ``rounding_of``, ``tf32`` by a switch of the process
            (``torch.set_float32_matmul_precision``). Edge vectors, Wigner matrices and energies are exact in any case.
    """

    system = "atoms"
    spec: GraphSpec
    group: str
    outputs: frozenset[str]
    reads: frozenset[str]
    tile: int | None = None
    keep: int = 0
    remember: int = 0
    products: int = 0
    few: int = 0
    width: int | None = None
    backend: Backend = "torch"
    backends: frozenset[Backend] = frozenset({"torch"})
    rounding: Rounding = "none"

    def in_cache(self, device: torch.device) -> int | None:
        """How many edges at a time are fastest; None for as many as there are."""
        return max(IN_CACHE // self.width, ENOUGH) if self.width and device.type == "cpu" else None

    def tiles(self, graph: AtomGraph) -> list[Tile]:
        """Those of ``tile``, or those that stay in the cache; none where one would do."""
        size, keep, edges = self.tile, self.keep, graph.edge_index.shape[1]
        if size is not None and not (isinstance(size, int) and size > 0):
            raise CovariumError(f"tile must be a number of edges, at least 1, or None for all; got {size}")
        if size is None:
            fastest = self.in_cache(graph.positions.device)
            if fastest is None or graph.traced:  # a graph that is recorded holds for any number of edges
                return []
            number = max(1, round(edges / fastest))
            # tiles end at targets; a little more room makes them equal
            size, keep = math.ceil(edges / number) + math.ceil(edges / max(graph.num_atoms, 1)), edges
        tiles = graph.tiles(size, keep, self.remember)
        return tiles if len(tiles) > 1 else []

    def admit(self, graph: AtomGraph) -> None:
        """Refuse elements and tags that the model has no table for; ``forward`` does, unless the graph is traced.

        Raises:
            CovariumError: names the first of them.
        """

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that AdamW leaves undecayed, beside biases and vectors."""
        return set()


def rounding_of(model: nn.Module) -> AbstractContextManager[Any]:
    """Where ``forward`` is to be called, by its ``rounding`` if it has one; derivatives are taken outside."""
    if getattr(model, "rounding", "none") != "bf16":
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, torch.bfloat16)


@dataclass(frozen=True)
class AtomGraph:
    """A batch of structures with their edges, grouped by target atom.

    Attributes:
        positions: [N, 3] Å.
        numbers: [N] int64 atomic numbers.
        cell: [B, 3, 3] lattice vectors as rows, Å; rows of directions that are not periodic are ignored.
        pbc: [B, 3] bool, periodicity of each direction.
        batch: [N] int64, the structure of each atom, ascending.
        edge_index: [2, E] int64; row 0 source j, row 1 target i, sorted by target.
        shifts: [E, 3] int64; the edge vector is positions[j] − positions[i] + shifts @ cell.
        charge: [B] total charge in e.
        spin: [B] number of unpaired electrons.
        tags: [N] int64, the kind of an atom in a slab (OC20: 0 bulk, 1 surface, 2 adsorbate); zeros unless given.
    """

    positions: Tensor
    numbers: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor
    edge_index: Tensor
    shifts: Tensor
    charge: Tensor
    spin: Tensor
    tags: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        if self.tags.shape[0] == 0:
            object.__setattr__(self, "tags", torch.zeros_like(self.numbers))

    @property
    def num_graphs(self) -> int:
        return self.cell.shape[0]

    @property
    def num_atoms(self) -> int:
        return self.positions.shape[0]

    @property
    def traced(self) -> bool:
        """Whether it stands for all graphs while operations are recorded."""
        return traced(self.numbers)

    def atoms_per_graph(self) -> Tensor:
        """[B] int64."""
        return torch.bincount(self.batch, minlength=self.num_graphs)

    def vectors(self) -> Tensor:
        """[E, 3] Å, from target to source: r_j − r_i + shift. Differentiable in positions and cell."""
        j, i = self.edge_index
        vectors = self.positions[j] - self.positions[i]
        if not self.traced and not bool(self.pbc.any()):
            return vectors
        cell = unrounded(self.cell)
        offsets = torch.bmm(self.shifts.to(cell.dtype).unsqueeze(1), cell[self.batch[i]]).squeeze(1)
        return vectors + offsets.to(vectors.dtype)

    def tiles(self, edges: int, keep: int = 0, remember: int = 0) -> list[Tile]:
        """All edges in tiles that end at target atoms; see ``covarium.ops.tiled``."""
        return tiles_of(self.edge_index, self.num_atoms, edges, keep, remember)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> AtomGraph:
        """A copy on another device; ``dtype`` applies to positions, cell, charge and spin."""
        moved = {}
        for item in fields(self):
            value = getattr(self, item.name)
            moved[item.name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        return AtomGraph(**moved)

    def transform(self, g: Tensor) -> AtomGraph:
        """The group action: ``g`` is an orthogonal [3, 3] matrix (mirrors included); neighbours stay the same."""
        g = g.to(self.positions)
        return replace(self, positions=self.positions @ g.T, cell=self.cell @ g.T)

    def cost(self) -> int:
        """Relative cost of one pass, for balanced batches: edges plus a few times the atoms."""
        return int(self.edge_index.shape[1]) + 4 * self.num_atoms

    @staticmethod
    def collate(graphs: Sequence[AtomGraph]) -> AtomGraph:
        """Join structures into one batch; no edge crosses structures."""
        if not graphs:
            raise CovariumError("a batch needs at least one structure, got none")
        atoms = [g.num_atoms for g in graphs]
        starts = torch.tensor([0, *atoms[:-1]]).cumsum(0).tolist()
        graph_starts = torch.tensor([0, *[g.num_graphs for g in graphs[:-1]]]).cumsum(0).tolist()
        shifted = {"edge_index": starts, "batch": graph_starts}
        joined = {}
        for item in fields(AtomGraph):
            parts = [getattr(g, item.name) for g in graphs]
            if item.name in shifted:
                parts = [part + start for part, start in zip(parts, shifted[item.name], strict=True)]
            joined[item.name] = torch.cat(parts, dim=1 if item.name == "edge_index" else 0)
        return AtomGraph(**joined)


def refuse_elements(graph: AtomGraph, known: int) -> None:
    """
    Raises:
        CovariumError: an atomic number of ``known`` or more.
    """
    if graph.num_atoms and int(graph.numbers.max()) >= known:
        raise CovariumError(f"atomic number {int(graph.numbers.max())} ≥ model.max_num_elements = {known}; raise it")

"""A model within a given memory: how many edges it may work on at a time, and of how many it may keep the products or
everything for the derivatives, found by trying it on little.

Memory is linear in atoms, edges and the edges of a tile; the slopes are measured by passes over a few atoms with as
many neighbours as the real ones have and with twice as many, in which every tensor that is made is counted. Nothing of
the size of the real structures is computed.
"""

from __future__ import annotations

import math
import re
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from covarium.analysis.errors import frame_graph
from covarium.config import DataSection, RunConfig
from covarium.data import read_structures
from covarium.errors import CovariumError
from covarium.systems import AtomGraph, AtomModel
from covarium.tasks import Potential, Property
from covarium.training import announced
from covarium.training.estimate import costliest_batch, most_memory
from covarium.workflows.inference import Finding, Plan
from covarium.workflows.loaded import as_frame

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SMALLEST, LARGEST = 64, 8192  # edges of a tile; larger ones are no faster
# what allocators and libraries take beside tensors: measured on the CPU, 1.3 to 1.5 times and 50 MB
SLACK, FIXED = 1.5, 10**8
COMPILER = 2 * 10**8  # measured, 160 to 190 MB
# tensors of all atoms have many sizes, so that a freed place fits the next one seldom: measured, up to 2.2 in all
ATOMS = 1.5
EVALUATED = 2048  # edges of a tile, at most, in the evaluation at the end of a run
PREDICTED = 20_000  # cost of a batch of small structures in evaluation and prediction
Shape = tuple[int, int]  # atoms, edges


class TooLittleError(CovariumError):
    """No tile is small enough; ``least`` bytes are needed."""

    def __init__(self, memory: str, least: int, remedy: str) -> None:
        super().__init__(f"{memory} of memory is too little; {least / 1e9:g}GB is the least that works{remedy}")
        self.least = least


@dataclass(frozen=True)
class Fit:
    """What was chosen, a tile of None for all edges; what it is expected to take, and the budget, in bytes."""

    tile: int | None
    keep: int
    remember: int
    edges: int
    needed: int
    budget: int

    def line(self) -> tuple[str, str]:
        """In words: what is done, and what it takes."""
        how = "all edges at once, everything kept for the gradient"
        if self.tile is not None:
            kept = [f"{self.keep:,} of {self.edges:,} edges"] if self.keep else []
            kept += [f"results of {self.remember:,} products"] if self.remember else []
            kept = kept or ["only features of atoms"]
            how = f"tiles of {self.tile:,} edges; {' and '.join(kept)} kept, the rest made again"
        return how, f"about {self.needed / 1e9:.2g} of {self.budget / 1e9:.4g} GB"


def in_bytes(text: str) -> int:
    """``8GB``, ``7.5 GiB`` or ``500MB`` in bytes.

    Raises:
        CovariumError: not a positive size with a unit.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]i?b)", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise CovariumError(f"'{text}' is not a size of memory; write a number and one of {', '.join(UNITS)}, e.g. 8GB")
    return int(float(match[1]) * UNITS[match[2].upper().replace("I", "i")])


def fit(
    model: AtomModel,
    graph: AtomGraph,
    memory: str,
    *,
    forces: bool,
    training: bool,
    times: float = 1.0,
    compiled: bool = False,
    remedy: str = "",
) -> Fit:
    """The largest tile, and the most products and then edges kept, with which a pass over ``graph`` stays within the
    memory; ``model`` is left as it is.

    Args:
        model: on its device, in its dtype.
        graph: what is to be computed.
        memory: of the whole process (on CUDA: of the device), e.g. ``8GB``.
        forces: as the gradient of the energy.
        training: also the gradient with respect to the weights, and the states of the optimiser.
        times: so many such graphs are joined.
        compiled: the compiler and its code take their part.
        remedy: what else could be done against too little memory, for the message.

    Raises:
        CovariumError: not a size.
        TooLittleError: the smallest that would do is named.
    """
    budget = in_bytes(memory)
    atoms, edges = (math.ceil(times * n) for n in (graph.num_atoms, graph.edge_index.shape[1]))
    slopes = _measured(model, graph, (atoms, edges), forces, training)
    slopes = replace(slopes, held=slopes.held + COMPILER * compiled)
    needed = slopes.needed
    if needed(None) <= budget:
        return Fit(None, 0, 0, edges, needed(None), budget)
    largest = min(model.in_cache(graph.positions.device) or LARGEST, LARGEST)
    sizes = [2**k for k in range(int(math.log2(SMALLEST)), int(math.log2(largest)) + 1)]
    fitting = [size for size in sizes if size < edges and needed(size) <= budget]
    if not fitting:
        least = needed(None) if edges <= SMALLEST else min(needed(SMALLEST), needed(None))
        raise TooLittleError(memory, math.ceil(least / 1e7) * 10**7, remedy)
    size = fitting[-1]
    if not forces and not training:
        return Fit(size, 0, 0, edges, needed(size), budget)
    # a stored product saves more time than the same memory for all that is inside of some edges
    products = model.products * edges if slopes.per_product else 0
    remember = _most(lambda n: needed(size, 0, n) <= budget, products)
    keep = _most(lambda n: needed(size, n, remember) <= budget, edges if slopes.per_kept else 0)
    return Fit(size, keep, remember, edges, needed(size, keep, remember), budget)


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to the limit that fits; 0 does."""
    return bisect_right(range(1, limit + 1), 0, key=lambda n: 0 if fits(n) else 1)


@dataclass(frozen=True)
class _Slopes:
    """Bytes that a pass takes: all at once; with tiles of ``tile`` edges, and more for each further edge of a tile,
    each edge and each product kept; ``held`` in any case."""

    at_once: float
    tiled: float
    tile: int
    per_edge: float
    per_kept: float
    per_product: float
    held: int

    def needed(self, size: int | None, keep: int = 0, remember: int = 0) -> int:
        stored = self.per_kept * keep + self.per_product * remember
        tiled = self.tiled + self.per_edge * ((size or 0) - self.tile) + stored
        inside = self.at_once if size is None else min(tiled, self.at_once)
        return int(self.held + FIXED + SLACK * max(inside, 0))


def _measured(model: AtomModel, graph: AtomGraph, shape: Shape, forces: bool, training: bool) -> _Slopes:
    """By passes over few atoms."""
    degree = max(1, math.ceil(graph.edge_index.shape[1] / max(graph.num_atoms, 1)))
    # what computes few edges in another way is not asked about few
    few = model.few if shape[1] > model.few else 0
    # of fewer without training, EquiformerV3 takes most at another place than of many: a third too much was foreseen
    atoms = max(8 if training else 12, math.ceil(1.1 * few / degree))
    made = [_made_up(model, graph, *size) for size in ((atoms, degree), (2 * atoms, degree), (2 * atoms, 2 * degree))]
    _, large, _ = made
    many = large.edge_index.shape[1]
    tile, products = 2 * degree, model.products

    def peak(g: AtomGraph, size: int | None, keep: int = 0, remember: int = 0) -> int:
        return _peak(model, g, (size, keep, remember), forces, training)

    sizes = [(g.num_atoms, g.edge_index.shape[1]) for g in made]
    in_tiles = [peak(g, tile) for g in made]
    per_large = in_tiles[1]
    return _Slopes(
        at_once=_plane(sizes, [peak(g, None) for g in made], shape),
        tiled=_plane(sizes, in_tiles, shape),
        tile=tile,
        per_edge=max(peak(large, 2 * tile) - per_large, 0) / tile,
        per_kept=max(peak(large, tile, many) - per_large, 0) / many,
        per_product=max(peak(large, tile, 0, products * many) - per_large, 0) / (products * many) if products else 0.0,
        held=_held(model, training),
    )


def of_training(plan: Plan) -> Plan:
    """The plan with the tile that its configuration names, or else with the one that fits the memory it names.

    Raises:
        CovariumError: see ``fit``; a model of something else than atoms.
    """
    config, model = plan.config, plan.task.model
    if config.memory is None and config.tile is None:
        return plan
    _refuse_other(model)
    if config.tile is not None:
        _set(model, None if config.tile == "all" else config.tile, config.keep, config.remember)
        return replace(plan, findings=[*plan.findings, Finding("tile", _given(config), "given")])
    assert config.memory is not None
    batch = plan.train.batch(costliest_batch(plan.train, plan.settings, announced())).system
    forces = isinstance(plan.task, Potential) and plan.task.forces == "gradient"
    remedy = ", or lower training.batch_size"
    found = fit(
        model, batch, config.memory, forces=forces, training=True, compiled=config.compile, remedy=remedy
    )  # fmt: skip
    _set(model, found.tile, found.keep, found.remember)
    chosen = {"tile": found.tile or "all", "keep": found.keep, "remember": found.remember}
    config = config.model_copy(update=chosen)
    return replace(plan, config=config, findings=[*plan.findings, Finding("memory", *found.line())])


def _given(config: RunConfig) -> str:
    kept = f", {config.keep:,} edges kept" if config.keep else ""
    kept += f", {config.remember:,} products kept" if config.remember else ""
    unplanned = f"; memory {config.memory} is not looked at, leave tile out for that" if config.memory else ""
    return ("all edges at once" if config.tile == "all" else f"{config.tile} edges at a time{kept}") + unplanned


def _set(model: AtomModel, tile: int | None, keep: int, remember: int) -> None:
    model.tile, model.keep, model.remember = tile, keep, remember


def of_evaluation(plan: Plan, task: Any) -> None:  # noqa: ANN401 - the kind's own class
    """Tiles of the trained task where the plan names a memory: batches of evaluation may hold more than a step does."""
    if isinstance(task.model, AtomModel) and plan.config.tile is not None:
        task.model.tile = min(plan.task.model.tile or EVALUATED, EVALUATED)


def of_structures(
    task: Potential | Property, structures: Sequence[Atoms], memory: str, *, together: bool = False
) -> str:
    """Set the model's tile so that each of these can be computed, and say what was chosen.

    Args:
        task: whose model it is.
        structures: that are going to be computed.
        memory: see ``fit``.
        together: small ones are put into batches.

    Raises:
        CovariumError: see ``fit``; a model of something else than atoms.
    """
    _refuse_other(task.model)
    dtype = next(task.model.parameters()).dtype
    densest, largest = None, None
    for one in (frame_graph(task, as_frame(one), dtype) for one in structures):
        densest = one if densest is None or one.edge_index.shape[1] > densest.edge_index.shape[1] else densest
        largest = one if largest is None or one.num_atoms > largest.num_atoms else largest
    assert densest is not None and largest is not None, "files without structures are refused by their reader"
    forces = isinstance(task, Potential) and task.forces == "gradient"
    compiled = isinstance(task, Potential) and task.compiled is not None
    found, refused = [], []
    # what has the most neighbours need not have the most atoms
    for graph in [densest] if largest is densest else [densest, largest]:
        times = max(1.0, min(PREDICTED / max(graph.cost(), 1), len(structures))) if together else 1.0
        try:
            how = fit(task.model, graph, memory, forces=forces, training=False, times=times, compiled=compiled)
            found.append(how)
        except TooLittleError as error:
            refused.append(error)
    if refused:
        raise max(refused, key=lambda error: error.least)
    chosen = _both(*found)
    _set(task.model, chosen.tile, chosen.keep, chosen.remember)
    return f"memory: {', '.join(chosen.line())}"


def _both(first: Fit, *others: Fit) -> Fit:
    """What fits all."""
    found = first
    for other in others:
        tiled = [one for one in (found, other) if one.tile is not None]
        more = max(found, other, key=lambda one: one.needed)
        if tiled:
            tile, keep, remember = (min(getattr(one, name) for one in tiled) for name in ("tile", "keep", "remember"))
            more = replace(more, tile=tile, keep=keep, remember=remember, edges=max(one.edges for one in tiled))
        found = more
    return found


def of_files(task: Potential | Property, files: Sequence[Path], data: DataSection, memory: str) -> str:
    """The same for the largest structure of files, read as ``data`` says."""
    _refuse_other(task.model)
    read = read_structures(files, keys=data.keys, units=data.units, limit=data.limit)
    return of_structures(task, [one.atoms for one in read], memory, together=True)


def _refuse_other(model: object) -> None:
    if not isinstance(model, AtomModel):
        raise CovariumError("memory and tile are settings of models of atoms; leave them out")


def _plane(sizes: Sequence[Shape], bytes_of: Sequence[int], shape: Shape) -> float:
    """At ``shape``, of the plane through three points, of which the second has more atoms than the first, and the third
    more edges than the second; it falls nowhere."""
    (few, fewer), (atoms, edges), (_, more) = sizes
    per_edge = max(bytes_of[2] - bytes_of[1], 0) / (more - edges)
    per_atom = max((bytes_of[1] - bytes_of[0] - per_edge * (edges - fewer)) / (atoms - few), 0.0)
    of_atoms, of_edges = per_atom * (shape[0] - atoms), per_edge * (shape[1] - edges)
    return bytes_of[1] + (ATOMS * of_atoms if of_atoms > 0 else of_atoms) + of_edges


def _held(model: AtomModel, training: bool) -> int:
    """Bytes held already, and those of two moments and an average of each parameter."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    device = next(model.parameters()).device
    now = torch.cuda.memory_allocated(device) if device.type == "cuda" else most_memory()
    now = math.ceil(now / 2e7) * 2 * 10**7  # the same choice the next time
    return now + (3 * weights if training else 0)


def _made_up(model: AtomModel, graph: AtomGraph, atoms: int, degree: int) -> AtomGraph:
    """A cluster of the first elements of ``graph`` in which every atom has ``degree`` neighbours, wherever they are."""
    one = next(model.parameters())
    i = torch.arange(atoms).repeat_interleave(degree)
    j = (i + 1 + (torch.arange(degree) % (atoms - 1)).repeat(atoms)) % atoms
    index = torch.arange(atoms) % graph.num_atoms
    half = model.spec.cutoff / 4
    places = torch.rand(atoms, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * half
    made = AtomGraph(
        positions=places,
        numbers=graph.numbers.cpu()[index],
        cell=torch.zeros(1, 3, 3),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        batch=torch.zeros(atoms, dtype=torch.int64),
        edge_index=torch.stack([j, i]),
        shifts=torch.zeros(len(i), 3, dtype=torch.int64),
        charge=torch.zeros(1),
        spin=torch.zeros(1),
        tags=graph.tags.cpu()[index],
    )
    return made.to(one.device, one.dtype)


def _peak(model: AtomModel, graph: AtomGraph, how: tuple[int | None, int, int], forces: bool, training: bool) -> int:
    """Bytes of tensors at most in one pass with a tile and numbers of edges and of products kept."""
    with _as_it_will_be(model, how, training), _Counted() as counted:
        positions = graph.positions.detach().requires_grad_(forces)
        rng = torch.Generator(device=positions.device).manual_seed(0)
        with torch.set_grad_enabled(forces or training):
            output = model(replace(graph, positions=positions), rng)
        values = [value.sum() for value in output if value is not None]
        total = torch.stack(values).sum()
        if forces:
            (gradient,) = torch.autograd.grad(total, positions, create_graph=training)
            total = total + gradient.square().sum()
        if training:
            torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return counted.peak


@contextmanager
def _as_it_will_be(model: AtomModel, how: tuple[int | None, int, int], training: bool) -> Iterator[None]:
    was, mode = (model.tile, model.keep, model.remember), model.training
    trained = {p: p.requires_grad for p in model.parameters()}
    _set(model, *how)
    model.train(training)
    model.requires_grad_(training)
    try:
        yield
    finally:
        _set(model, *was)
        model.train(mode)
        for p, required in trained.items():
            p.requires_grad_(required)


class _Counted(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside and not yet gone."""

    def __init__(self) -> None:
        super().__init__()
        self.live: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.live:
                    self.live.add(key)
                    weakref.finalize(storage, self._gone, key, size)
                    self.now += size
                    self.peak = max(self.peak, self.now)
        return out

    def _gone(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.now -= size

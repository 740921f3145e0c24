"""The result of one check, the potential as checks see it, and the small structures they look at.

Letters: N atoms, B structures.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import covalent_radii

from covarium.data import Frame
from covarium.systems import AtomGraph, GraphSpec, atom_graph
from covarium.tasks import Potential, Prediction, Property, PropertyPrediction

MAX_COST = 20_000  # edges + 4 atoms in one pass
CUSP = 0.03  # of the scale: beyond it, differences over 1e-4 Å say the slope of a length to 1e-8
DIRECTION = (0.36, 0.48, 0.8)  # of unit length, on no axis


@dataclass(frozen=True)
class Check:
    """A measured number beside the highest that is accepted; a level of None means it is reported and not judged."""

    name: str
    value: float
    level: float | None
    note: str = ""

    @property
    def passed(self) -> bool:
        """A value that is not a number does not pass."""
        return self.level is None or self.value <= self.level


def largest(values: Iterable[float]) -> float:
    """The maximum; not a number if one of them is not, which Python's ``max`` may pass over."""
    return float(np.max(list(values)))


class Words(NamedTuple):
    """What a probe's numbers are called: value and slope with their units, and the check of one by the other."""

    value: str
    unit: str
    slope: str
    slope_unit: str
    derivative: str


class Probe:
    """A copy of a potential, in evaluation mode and in one dtype, that answers for frames.

    Element references are taken to be zero, so that an error is one of what the model says: beside constants of 10⁴ eV
    a relative one would vanish, and an absolute one be lost in rounding. Neighbours are found anew for every frame.
    """

    floor = 0.0
    words = Words("energy", "eV", "force", "eV/Å", "forces = −dE/dr (eV/Å)")

    def __init__(self, potential: Potential, dtype: torch.dtype = torch.float64) -> None:
        self.potential = copy.deepcopy(potential).to(dtype).eval().requires_grad_(False)
        table = self.potential.reference_table
        self.potential.reference_table = torch.where(table.isnan(), table, 0.0)
        self.dtype = dtype
        self.device: torch.device = potential.scale.device
        model: Any = potential.model  # of the model protocol, which nn.Module does not state
        self.spec: GraphSpec = model.spec
        self.group: str = model.group
        self.elements = potential.elements
        self.conservative = potential.forces == "gradient"

    def system(self, frames: Sequence[Frame]) -> AtomGraph:
        """All frames in one batch."""
        return AtomGraph.collate([frame_graph(self.potential, f, self.dtype) for f in frames]).to(self.device)

    def predict(self, system: AtomGraph) -> Prediction:
        """Energy, forces, and stress where every structure has a volume."""
        return self.potential.predict(system, stress=self.potential.has_stress and bool(system.pbc.all()))

    def __call__(self, frame: Frame) -> Prediction:
        return self.predict(self.system([frame]))

    def in_dtype(self, dtype: torch.dtype) -> Probe:
        """The same potential in another precision."""
        return Probe(self.potential, dtype)

    def differentiable(self, system: AtomGraph) -> torch.Tensor:
        """[B] energies with their graph."""
        return self.potential.evaluate(system, forces=False, stress=False).energy

    def with_slope(self, frames: Sequence[Frame]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Energies [B] eV and forces [N, 3] eV/Å of frames in one batch."""
        prediction = self.predict(self.system(frames))
        return prediction.energy, prediction.forces

    def energies(self, frames: Sequence[Frame]) -> torch.Tensor:
        """[B] eV, many frames in batches of bounded cost."""
        parts = []
        for batch in batches([frame_graph(self.potential, f, self.dtype) for f in frames], MAX_COST):
            system = AtomGraph.collate(batch).to(self.device)
            parts.append(self.potential.predict(system, forces=False).energy.cpu())
        return torch.cat(parts)


class PropertyProbe:
    """A copy of a property task, as ``Probe`` is one of a potential: references and offset are taken to be zero and the
    scale to be one, so that deviations are those of what the model says, in units of the scale.

    Where one number is needed, it is a vector's component along ``DIRECTION``; its slope is −∂y/∂r, as a force is.

    Attributes:
        floor: of the scale; deviations of smaller values, which may vanish by symmetry, are told relative to it.
    """

    floor = 1e-3

    words = Words("value", "scale", "slope", "scale/Å", "slope = −dy/dr (scale/Å)")
    conservative = True

    def __init__(self, task: Property, dtype: torch.dtype = torch.float64) -> None:
        self.task = copy.deepcopy(task).to(dtype).eval().requires_grad_(False)
        self.task.reference_table = torch.where(task.reference_table.isnan(), task.reference_table, 0.0)
        self.task.offset, self.task.scale = 0.0, torch.ones_like(task.scale)
        self.dtype = dtype
        self.device: torch.device = task.scale.device
        self.spec: GraphSpec = task.model.spec
        self.group: str = task.model.group
        self.elements = task.elements
        # a dipole moment or spatial extent has no meaning in a crystal
        self.periodic = not task.model.outputs & {"dipole", "spatial_extent"}

    def system(self, frames: Sequence[Frame]) -> AtomGraph:
        """All frames in one batch."""
        return AtomGraph.collate([frame_graph(self.task, f, self.dtype) for f in frames]).to(self.device)

    def predict(self, system: AtomGraph) -> PropertyPrediction:
        return self.task.predict(system)

    def __call__(self, frame: Frame) -> PropertyPrediction:
        return self.predict(self.system([frame]))

    def near_cusp(self, frame: Frame) -> bool:
        """Whether the value is the length of a vector that nearly vanishes, where it has no derivative."""
        return self.task.readout == "length" and bool(self(frame).value.abs().max() < CUSP)

    def in_dtype(self, dtype: torch.dtype) -> PropertyProbe:
        """The same task in another precision."""
        return PropertyProbe(self.task, dtype)

    def differentiable(self, system: AtomGraph) -> torch.Tensor:
        """[B] values with their graph."""
        values = self.task.values(system)
        return values if values.ndim == 1 else values @ values.new_tensor(DIRECTION)

    def with_slope(self, frames: Sequence[Frame]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Values [B] and slopes [N, 3] of frames in one batch."""
        system = self.system(frames)
        positions = system.positions.clone().requires_grad_()
        with torch.enable_grad():
            values = self.differentiable(replace(system, positions=positions))
            (gradient,) = torch.autograd.grad(values.sum(), positions, allow_unused=True, materialize_grads=True)
        return values.detach(), -gradient

    def energies(self, frames: Sequence[Frame]) -> torch.Tensor:
        """[B] values, many frames in batches of bounded cost."""
        with torch.no_grad():
            parts = [
                self.differentiable(AtomGraph.collate(batch).to(self.device)).cpu()
                for batch in batches([frame_graph(self.task, f, self.dtype) for f in frames], MAX_COST)
            ]
        return torch.cat(parts)


AnyProbe = Probe | PropertyProbe


def frame_graph(potential: Potential | Property, frame: Frame, dtype: torch.dtype) -> AtomGraph:
    """The neighbourhood of one frame as the model of ``potential`` asks for it."""
    model: Any = potential.model
    return atom_graph(
        frame.numbers,
        frame.positions,
        model.spec,
        cell=frame.cell,
        pbc=frame.pbc,
        charge=frame.charge,
        spin=frame.spin,
        tags=frame.tags,
        dtype=dtype,
    )


def batches(graphs: Sequence[AtomGraph], max_cost: int) -> list[list[AtomGraph]]:
    """Consecutive graphs whose costs add up to ``max_cost`` at most; a single one that costs more stands alone."""
    out: list[list[AtomGraph]] = []
    filled = 0
    for graph in graphs:
        cost = graph.cost()
        if not out or filled + cost > max_cost:
            out.append([])
            filled = 0
        out[-1].append(graph)
        filled += cost
    return out


def structure(numbers: Sequence[int], positions: np.ndarray, cell: np.ndarray | None = None) -> Frame:
    """A frame without labels; with a cell it is periodic in three directions."""
    n = len(numbers)
    return Frame(
        numbers=np.asarray(numbers, dtype=np.int64),
        positions=np.asarray(positions, dtype=np.float64).reshape(n, 3),
        cell=np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64),
        pbc=np.full(3, cell is not None),
        labels={},
        fixed=np.zeros(n, dtype=bool),
    )


def typical_spacing(elements: Sequence[int], cutoff: float) -> float:
    """A bond length in Å for structures made of these elements: mean covalent diameter, well inside the cutoff."""
    return min(1.1 * 2 * float(np.mean([covalent_radii[z] for z in elements])), 0.5 * cutoff)


def _cycle(elements: Sequence[int], count: int) -> list[int]:
    return [int(elements[i % len(elements)]) for i in range(count)]


def flat(elements: Sequence[int], spacing: float) -> Frame:
    """A crooked ring whose bonds all have y = 0 exactly, and an atom on either side of it."""
    angle = np.linspace(0, 2 * np.pi, 5, endpoint=False) + 0.1
    radius = spacing * np.array([0.8, 0.9, 1.0, 0.85, 0.95])
    ring = np.stack([radius * np.cos(angle), 0 * angle, radius * np.sin(angle)], axis=1)
    beside = spacing * np.array([[0.1, 1.0, 0.2], [-0.2, -1.1, 0.1]])
    return structure(_cycle(elements, 7), np.concatenate([ring, beside]))


def axes_star(elements: Sequence[int], spacing: float) -> Frame:
    """An atom with six neighbours of different distances exactly on ±x, ±y and ±z."""
    lengths = spacing * (1 + 0.05 * np.arange(6))
    arms = np.concatenate([np.eye(3), -np.eye(3)]) * lengths[:, None]
    return structure(_cycle(elements, 7), np.concatenate([np.zeros((1, 3)), arms]))


def straight_row(elements: Sequence[int], spacing: float) -> Frame:
    """Four atoms exactly on the y axis, the polar axis of the library."""
    positions = np.zeros((4, 3))
    positions[:, 1] = spacing * np.array([0.0, 1.0, 2.1, 3.3])
    return structure(_cycle(elements, 4), positions)


def cluster(elements: Sequence[int], spacing: float, count: int = 9, seed: int = 0) -> Frame:
    """Atoms on a strongly disturbed cubic grid: no symmetry, nothing on an axis, no overlap."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(count ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:count]
    return structure(_cycle(elements, count), spacing * (1.1 * grid + rng.uniform(-0.2, 0.2, (count, 3))))


def crystal(elements: Sequence[int], spacing: float, seed: int = 0) -> Frame:
    """Four disturbed atoms in a skewed periodic cell, smaller than most cutoffs: atoms meet their own images."""
    rng = np.random.default_rng(seed)
    cell = spacing * np.array([[2.2, 0.1, 0.0], [0.3, 2.3, -0.1], [-0.2, 0.15, 1.2]])
    fractions = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.1], [0.0, 0.5, 0.2], [0.5, 0.5, 0.0]])
    positions = fractions @ cell + spacing * rng.uniform(-0.08, 0.08, (4, 3))
    return structure(_cycle(elements, 4), positions, cell)

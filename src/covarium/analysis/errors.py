"""Errors of a potential over labelled frames: MAE and RMSE of energy, forces and stress, per element, per config type.

Energies in eV, lengths in Å; frozen atoms count in no force error. ``to_json`` is the machine's form, ``tables`` the
reader's, where every error stands in meV and in kcal/mol.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from covarium.analysis.check import frame_graph
from covarium.analysis.totals import KEPT, Largest, Sample, Total, VectorTotal, smallest
from covarium.data import Frame, StoredFrames
from covarium.errors import CovariumError
from covarium.systems import AtomGraph
from covarium.tasks import Potential, Property
from covarium.units import GPA, KCAL_PER_MOL

UNITS = {
    "energy": "eV",
    "energy_per_atom": "eV/atom",
    "forces": "eV/Å",
    "stress": "eV/Å³",
    "length": "Å",
}
NAMES = {"energy": "energy", "energy_per_atom": "energy per atom", "forces": "force component", "stress": "stress"}
Progress = Callable[[int, int | None], object]


@dataclass(frozen=True)
class FramePrediction:
    """What a potential says of one frame.

    energy in eV; forces [n, 3] eV/Å; stress [3, 3] eV/Å³ where it has a volume; reference: the part of the energy that
    is the sum of element references, eV.
    """

    frame: Frame
    energy: float
    forces: np.ndarray | None
    stress: np.ndarray | None
    reference: float = 0.0

    def free_forces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prediction and label [free atoms, 3] in eV/Å, and atomic numbers; empty when either force is missing."""
        if self.forces is None or "forces" not in self.frame.labels:
            return np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
        free = ~self.frame.fixed
        return self.forces[free], self.frame.labels["forces"][free], self.frame.numbers[free]

    def energy_error(self) -> float | None:
        """Prediction − label in eV, or None without a label."""
        return self.energy - float(self.frame.labels["energy"]) if "energy" in self.frame.labels else None


@dataclass(frozen=True)
class LeftOut:
    """Something that is in no number: what, how many, and why."""

    what: str
    count: int
    why: str


@dataclass(frozen=True)
class Worst:
    """A frame with a large error: ``error`` is that of the worst free atom in eV/Å, or of the energy in eV/atom."""

    file: str
    index: int
    error: float
    unit: str
    prediction: FramePrediction


@dataclass(frozen=True)
class Table:
    """A table to print: a title, a header, and rows of text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass
class Totals:
    """Sums over the errors of some frames."""

    frames: int = 0
    energy: Total = field(default_factory=Total)
    energy_per_atom: Total = field(default_factory=Total)
    forces: VectorTotal = field(default_factory=VectorTotal)
    stress: Total = field(default_factory=Total)

    def add(self, p: FramePrediction) -> None:
        self.frames += 1
        error = p.energy_error()
        if error is not None:
            self.energy.add(np.array(error))
            self.energy_per_atom.add(np.array(error / len(p.frame.numbers)))
        predicted, labels, _ = p.free_forces()
        self.forces.add(predicted, labels)
        if p.stress is not None and "stress" in p.frame.labels:
            self.stress.add(p.stress - p.frame.labels["stress"])

    def errors(self) -> dict[str, dict[str, float]]:
        """energy, energy_per_atom, forces, stress → errors, for those of them that have labels; eV and Å."""
        found: dict[str, Total | VectorTotal] = {
            "energy": self.energy,
            "energy_per_atom": self.energy_per_atom,
            "forces": self.forces,
            "stress": self.stress,
        }
        return {name: total.errors() for name, total in found.items() if total.count}


class Evaluation:
    """Errors of predictions beside their labels, added one by one; memory does not grow with the number of frames.

    Args:
        has_stress: whether the potential can say a stress at all.
    """

    def __init__(self, *, has_stress: bool = True) -> None:
        self._has_stress = has_stress
        self._total = Totals()
        self._elements: dict[int, VectorTotal] = {}
        self._config_types: dict[str, Totals] = {}
        self._counts: Counter[str] = Counter()
        self._random = np.random.default_rng(0)
        self._energies = Sample(2)
        self._forces: dict[int, Sample] = {}
        self._by_force: Largest[FramePrediction] = Largest()
        self._by_energy: Largest[FramePrediction] = Largest()

    def add(self, p: FramePrediction) -> None:
        """One prediction more."""
        frame = p.frame
        self._total.add(p)
        self._config_types.setdefault(frame.config_type, Totals()).add(p)
        self._count(frame)
        error = p.energy_error()
        if error is not None:
            n, label = len(frame.numbers), float(frame.labels["energy"])
            self._energies.add(self._random.random(1), np.array([[p.energy - p.reference, label - p.reference]]) / n)
            self._by_energy.add(abs(error) / n, p)
        predicted, labels, numbers = p.free_forces()
        if len(numbers):
            random = self._random.random(len(numbers))
            rows = np.concatenate([predicted, labels], axis=1)
            for z in np.unique(numbers).tolist():
                mask = numbers == z
                self._elements.setdefault(z, VectorTotal()).add(predicted[mask], labels[mask])
                self._forces.setdefault(z, Sample(6)).add(random[mask], rows[mask])
            self._by_force.add(float(np.linalg.norm(predicted - labels, axis=1).max()), p)

    def _count(self, frame: Frame) -> None:
        """What ``left_out`` tells."""
        volume = bool(frame.pbc.all())
        # nobody misses the stress of a molecule
        for label in ("energy", "forces", *(["stress"] if volume else [])):
            self._counts[f"no {label}"] += label not in frame.labels
        if "forces" in frame.labels:
            self._counts["frozen"] += int(frame.fixed.sum())
        if "stress" in frame.labels:
            self._counts["stress" if volume else "flat"] += 1

    @property
    def frames(self) -> int:
        return self._total.frames

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What is in no number."""
        counts = self._counts
        found = [LeftOut(x, counts[f"no {x}"], "frames without this label") for x in ("energy", "forces", "stress")]
        found.append(LeftOut("forces of frozen atoms", counts["frozen"], "atoms held fixed in the reference"))
        found.append(LeftOut("stress without a volume", counts["flat"], "frames not periodic in three directions"))
        if not self._has_stress:
            why = "a potential with a direct force head and none for the stress"
            found.append(LeftOut("stress", counts["stress"], why))
        return tuple(x for x in found if x.count)

    def to_json(self) -> dict[str, Any]:
        """Errors in eV and Å; a label that no frame has is absent, and named in ``left_out``.

        Keys: units, energy, energy_per_atom, forces, stress (each with mae and rmse; forces also with norm, the mean
        length of the error vectors, cosine between prediction and label, and the number of components), per_element,
        per_config_type, frames, left_out.
        """
        return {
            "units": dict(UNITS),
            **self.errors(),
            "per_element": self.per_element(),
            "per_config_type": self.per_config_type(),
            "frames": self.frames,
            "left_out": [{"what": x.what, "count": x.count, "why": x.why} for x in self.left_out],
        }

    def errors(self) -> dict[str, dict[str, float]]:
        """Of all frames, as in ``to_json``."""
        return self._total.errors()

    def per_element(self) -> dict[str, dict[str, Any]]:
        """Symbol → {"forces": errors, "atoms": free atoms} in the order of atomic numbers."""
        return {
            chemical_symbols[z]: {"atoms": total.count, "forces": total.errors()}
            for z, total in sorted(self._elements.items())
        }

    def per_config_type(self) -> dict[str, dict[str, Any]]:
        """Config type → errors and frame count; empty when no frame states one."""
        groups = self._config_types
        if set(groups) <= {""}:
            return {}
        return {name: {"frames": group.frames, **group.errors()} for name, group in sorted(groups.items())}

    def forces(self, z: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and labelled forces [n, 3] eV/Å of free atoms, of one element or of all; beyond ``totals.KEPT``
        atoms, a random sample of that many."""
        chosen = [sample.rows() for number, sample in sorted(self._forces.items()) if z in (None, number)]
        rows = smallest(np.concatenate([np.zeros((0, 7)), *chosen]), KEPT)
        return rows[:, 1:4], rows[:, 4:]

    def energies_per_atom(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and labelled energy per atom without element references [n] eV, of frames with a label; beyond
        ``totals.KEPT`` of them, a random sample of that many."""
        rows = self._energies.rows()
        return rows[:, 1], rows[:, 2]

    def worst(self, count: int = 5) -> list[Worst]:
        """Frames with the largest force error of one atom; by energy per atom when there are no force labels.

        Args:
            count: of frames, up to ``totals.WORST``.
        """
        found, unit = (self._by_force, "eV/Å") if self._by_force.items else (self._by_energy, "eV/atom")
        return [Worst(p.frame.source, p.frame.index, size, unit, p) for size, p in found.items[:count]]

    def tables(self) -> list[Table]:
        """Summary, per element and per config type, in meV and kcal/mol (stress in GPa), and what was left out."""
        total = self.errors()
        rows = [_row(NAMES[name], name, total[name]) for name in NAMES if name in total]
        if "forces" in total:
            norm = total["forces"]["norm"]
            milli, kcal = number(norm * 1e3), number(norm / KCAL_PER_MOL)
            rows.append(("force vector", milli, "", "meV/Å", kcal, "", "kcal/mol/Å"))
            rows.append(("force direction", _cosine(total["forces"]), "", "mean cosine", "", "", ""))
        header = ("error", "MAE", "RMSE", "unit", "MAE", "RMSE", "unit")
        tables = [Table(f"Errors over {self.frames:,} frames", header, tuple(rows))]
        elements = [
            (symbol, f"{entry['atoms']:,}", *_force_cells(entry["forces"]))
            for symbol, entry in self.per_element().items()
        ]
        if len(elements) > 1:
            cells = ("MAE meV/Å", "RMSE meV/Å", "MAE kcal/mol/Å", "cosine")
            tables.append(Table("Forces per element", ("element", "atoms", *cells), tuple(elements)))
        kinds = [
            (name or "not stated", f"{entry['frames']:,}", *_group_cells(entry))
            for name, entry in self.per_config_type().items()
        ]
        if kinds:
            cells = ("energy MAE meV/atom", "energy MAE kcal/mol", "force MAE meV/Å", "force MAE kcal/mol/Å")
            tables.append(Table("Per config type", ("config type", "frames", *cells), tuple(kinds)))
        if self.left_out:
            rows_left = tuple((x.what, f"{x.count:,}", x.why) for x in self.left_out)
            tables.append(Table("Left out", ("what", "how many", "why"), rows_left))
        return tables


def evaluate(
    potential: Potential, frames: Sequence[Frame], *, max_cost: int = 20_000, progress: Progress | None = None
) -> Evaluation:
    """Predict every frame and set it beside its labels.

    Args:
        potential: in evaluation mode or not; dropout never acts here.
        frames: with any of the labels; what is missing is named in ``left_out``.
        max_cost: largest cost of a batch, as ``AtomGraph.cost`` counts it.
        progress: called with (frames done, all frames) after every batch.

    Raises:
        CovariumError: no frames, no labels at all, or what ``predict_frames`` refuses.
    """
    if not frames:
        raise CovariumError("nothing to evaluate: the file has no frames")
    labels = _labels(frames)
    if not labels:
        raise CovariumError("nothing to compare with: no frame has energy, forces or stress; use predict instead")
    evaluation = Evaluation(has_stress=potential.has_stress)
    stream = predict_frames(
        potential, frames, forces="forces" in labels, stress="stress" in labels and potential.has_stress,
        max_cost=max_cost, total=len(frames), progress=progress,
    )  # fmt: skip
    for prediction in stream:
        evaluation.add(prediction)
    return evaluation


def _labels(frames: Sequence[Frame]) -> set[str]:
    """Labels that any of the frames has."""
    if isinstance(frames, StoredFrames):
        return set(frames.labels)
    return {label for frame in frames for label in frame.labels}


def predict_frames(
    potential: Potential,
    frames: Iterable[Frame],
    *,
    forces: bool = True,
    stress: bool = False,
    max_cost: int = 20_000,
    total: int | None = None,
    progress: Progress | None = None,
) -> Iterator[FramePrediction]:
    """Predictions in the order of the frames, computed in batches of bounded cost.

    Args:
        potential: on any device, in any dtype.
        frames: labels are not read; no more than a batch of them is held.
        forces: by the force rule of the potential.
        stress: of frames that are periodic in three directions; the others get None.
        max_cost: largest cost of a batch; a frame that costs more stands alone.
        total: how many frames there are, where that is known, for ``progress``.
        progress: called with (frames done, total) after every batch.

    Raises:
        CovariumError: an unknown element, a charge or spin the model ignores, or a prediction that is not finite; the
            frame is named.
    """
    training = potential.training
    potential.eval()
    try:
        done = 0
        for group, graphs, with_stress in batched_frames(potential, frames, stress, max_cost):
            yield from _predict(potential, group, graphs, forces, with_stress)
            done += len(group)
            if progress is not None:
                progress(done, total)
    finally:
        potential.train(training)


def batched_frames(
    potential: Potential | Property, frames: Iterable[Frame], stress: bool, max_cost: int
) -> Iterator[tuple[list[Frame], list[AtomGraph], bool]]:
    """Consecutive frames that fit together: bounded cost, and all or none with a volume when stress is asked for."""
    dtype = next((p.dtype for p in potential.model.parameters()), torch.float64)
    group: list[Frame] = []
    graphs: list[AtomGraph] = []
    cost, kind = 0, False
    for frame in frames:
        try:
            graph = frame_graph(potential, frame, dtype)
            potential.admit(graph.to(potential.scale.device))
        except CovariumError as error:
            raise CovariumError(f"{frame.where}: {error}") from error
        with_stress = stress and bool(frame.pbc.all())
        if group and (cost + graph.cost() > max_cost or with_stress != kind):
            yield group, graphs, kind
            group, graphs, cost = [], [], 0
        group.append(frame)
        graphs.append(graph)
        cost, kind = cost + graph.cost(), with_stress
    if group:
        yield group, graphs, kind


def _predict(
    potential: Potential, frames: list[Frame], graphs: list[AtomGraph], forces: bool, stress: bool
) -> Iterator[FramePrediction]:
    system = AtomGraph.collate(graphs).to(potential.scale.device)
    prediction = potential.predict(system, forces=forces, stress=stress)
    energies = prediction.energy.cpu().numpy()
    references = potential.reference_energy(system).cpu().numpy()
    all_forces = None if prediction.forces is None else prediction.forces.double().cpu().numpy()
    stresses = None if prediction.stress is None else prediction.stress.double().cpu().numpy()
    start = 0
    for k, frame in enumerate(frames):
        end = start + len(frame.numbers)
        own = None if all_forces is None else all_forces[start:end]
        sigma = None if stresses is None else stresses[k]
        for name, value in (("energy", energies[k]), ("forces", own), ("stress", sigma)):
            if value is not None and not np.isfinite(value).all():
                raise CovariumError(
                    f"{frame.where}: the predicted {name} is not finite; look for overlapping atoms in the frame, or "
                    "check the model's training log for a diverged run"
                )
        yield FramePrediction(frame, float(energies[k]), own, sigma, float(references[k]))
        start = end


def number(value: float) -> str:
    """Four significant digits, without an exponent where that is readable."""
    value = float(f"{value:.4g}")
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3e}"
    return f"{value:.{max(0, 3 - int(np.floor(np.log10(abs(value)))))}f}"


def _row(label: str, name: str, errors: dict[str, float]) -> tuple[str, ...]:
    mae, rmse = errors["mae"], errors["rmse"]
    milli = "m" + UNITS[name]
    factor, other = (GPA, "GPa") if name == "stress" else (KCAL_PER_MOL, UNITS[name].replace("eV", "kcal/mol"))
    return label, number(mae * 1e3), number(rmse * 1e3), milli, number(mae / factor), number(rmse / factor), other


def _force_cells(errors: dict[str, float]) -> tuple[str, ...]:
    return (
        number(errors["mae"] * 1e3),
        number(errors["rmse"] * 1e3),
        number(errors["mae"] / KCAL_PER_MOL),
        _cosine(errors),
    )


def _cosine(errors: dict[str, float]) -> str:
    return f"{errors['cosine']:.5f}" if "cosine" in errors else "—"


def _group_cells(entry: dict[str, Any]) -> tuple[str, ...]:
    energy, total, forces = entry.get("energy_per_atom"), entry.get("energy"), entry.get("forces")
    return (
        number(energy["mae"] * 1e3) if energy else "—",
        number(total["mae"] / KCAL_PER_MOL) if total else "—",
        number(forces["mae"] * 1e3) if forces else "—",
        number(forces["mae"] / KCAL_PER_MOL) if forces else "—",
    )

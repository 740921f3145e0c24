"""Errors of a potential over labelled frames: MAE and RMSE of energy, forces and stress, per element, per config type.

Energies in eV, lengths in Å; frozen atoms count in no force error. ``to_json`` is the machine's form, ``tables`` the
reader's, where every error stands in meV and in kcal/mol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from covarium.analysis.check import frame_graph
from covarium.data import Frame
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
Progress = Callable[[int, int], object]


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

    def force_errors(self) -> np.ndarray:
        """[free atoms, 3] prediction − label in eV/Å; empty when either is missing."""
        if self.forces is None or "forces" not in self.frame.labels:
            return np.zeros((0, 3))
        return (self.forces - self.frame.labels["forces"])[~self.frame.fixed]

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


@dataclass(frozen=True)
class Evaluation:
    """Predictions beside their labels."""

    predictions: tuple[FramePrediction, ...]
    left_out: tuple[LeftOut, ...]

    def to_json(self) -> dict[str, Any]:
        """Errors in eV and Å; a label that no frame has is absent, and named in ``left_out``.

        Keys: units, energy, energy_per_atom, forces, stress (each with mae and rmse; forces also with norm, the mean
        length of the error vectors, cosine between prediction and label, and the number of components), per_element,
        per_config_type, frames, left_out.
        """
        return {
            "units": dict(UNITS),
            **summarise(self.predictions),
            "per_element": self.per_element(),
            "per_config_type": self.per_config_type(),
            "frames": len(self.predictions),
            "left_out": [{"what": x.what, "count": x.count, "why": x.why} for x in self.left_out],
        }

    def per_element(self) -> dict[str, dict[str, Any]]:
        """Symbol → {"forces": errors, "atoms": free atoms} in the order of atomic numbers."""
        predicted, labels, numbers = self.forces()
        out: dict[str, dict[str, Any]] = {}
        for z in np.unique(numbers):
            mask = numbers == z
            errors = _force_errors(predicted[mask], labels[mask])
            out[chemical_symbols[z]] = {"atoms": int(mask.sum()), "forces": errors}
        return out

    def per_config_type(self) -> dict[str, dict[str, Any]]:
        """Config type → errors and frame count; empty when no frame states one."""
        groups: dict[str, list[FramePrediction]] = {}
        for prediction in self.predictions:
            groups.setdefault(prediction.frame.config_type, []).append(prediction)
        if set(groups) <= {""}:
            return {}
        return {name: {"frames": len(group), **summarise(group)} for name, group in sorted(groups.items())}

    def forces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predicted and labelled forces [n, 3] eV/Å of all free atoms, and their atomic numbers [n]."""
        return _forces(self.predictions)

    def energies_per_atom(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and labelled energy per atom without element references [frames] eV, where there is a label."""
        predicted, labels = _energies(self.predictions, per_atom=True)
        chosen = [p for p in self.predictions if "energy" in p.frame.labels]
        reference = np.array([p.reference / len(p.frame.numbers) for p in chosen])
        return predicted - reference, labels - reference

    def worst(self, count: int = 5) -> list[Worst]:
        """Frames with the largest force error of one atom; by energy per atom when there are no force labels."""
        by_force = any(len(p.force_errors()) for p in self.predictions)
        found = []
        for p in self.predictions:
            errors, energy = p.force_errors(), p.energy_error()
            if by_force and len(errors):
                size = float(np.linalg.norm(errors, axis=1).max())
                found.append(Worst(p.frame.source, p.frame.index, size, "eV/Å", p))
            elif not by_force and energy is not None:
                found.append(Worst(p.frame.source, p.frame.index, abs(energy) / len(p.frame.numbers), "eV/atom", p))
        return sorted(found, key=lambda w: -w.error)[:count]

    def tables(self) -> list[Table]:
        """Summary, per element and per config type, in meV and kcal/mol (stress in GPa), and what was left out."""
        total = summarise(self.predictions)
        rows = [_row(NAMES[name], name, total[name]) for name in NAMES if name in total]
        if "forces" in total:
            norm = total["forces"]["norm"]
            milli, kcal = number(norm * 1e3), number(norm / KCAL_PER_MOL)
            rows.append(("force vector", milli, "", "meV/Å", kcal, "", "kcal/mol/Å"))
            rows.append(("force direction", _cosine(total["forces"]), "", "mean cosine", "", "", ""))
        header = ("error", "MAE", "RMSE", "unit", "MAE", "RMSE", "unit")
        tables = [Table(f"Errors over {len(self.predictions):,} frames", header, tuple(rows))]
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
    if not any(frame.labels for frame in frames):
        raise CovariumError("nothing to compare with: no frame has energy, forces or stress; use predict instead")
    forces = any("forces" in frame.labels for frame in frames)
    stress = any("stress" in frame.labels and frame.pbc.all() for frame in frames) and potential.has_stress
    stream = predict_frames(potential, frames, forces=forces, stress=stress, max_cost=max_cost, progress=progress)
    return Evaluation(tuple(stream), tuple(_left_out(potential, frames)))


def predict_frames(
    potential: Potential,
    frames: Sequence[Frame],
    *,
    forces: bool = True,
    stress: bool = False,
    max_cost: int = 20_000,
    progress: Progress | None = None,
) -> Iterator[FramePrediction]:
    """Predictions in the order of the frames, computed in batches of bounded cost.

    Args:
        potential: on any device, in any dtype.
        frames: labels are not read.
        forces: by the force rule of the potential.
        stress: of frames that are periodic in three directions; the others get None.
        max_cost: largest cost of a batch; a frame that costs more stands alone.
        progress: called with (frames done, all frames) after every batch.

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
                progress(done, len(frames))
    finally:
        potential.train(training)


def batched_frames(
    potential: Potential | Property, frames: Sequence[Frame], stress: bool, max_cost: int
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


def _left_out(potential: Potential, frames: Sequence[Frame]) -> Iterator[LeftOut]:
    for label in ("energy", "forces", "stress"):
        # nobody misses the stress of a molecule
        missing = sum(label not in frame.labels for frame in frames if label != "stress" or frame.pbc.all())
        if missing:
            yield LeftOut(label, missing, "frames without this label")
    frozen = sum(int(frame.fixed.sum()) for frame in frames if "forces" in frame.labels)
    if frozen:
        yield LeftOut("forces of frozen atoms", frozen, "atoms held fixed in the reference")
    stressed = [frame for frame in frames if "stress" in frame.labels]
    flat = sum(not frame.pbc.all() for frame in stressed)
    if flat:
        yield LeftOut("stress without a volume", flat, "frames not periodic in three directions")
    if not potential.has_stress and len(stressed) > flat:
        yield LeftOut("stress", len(stressed) - flat, "a potential with a direct force head and none for the stress")


def summarise(predictions: Sequence[FramePrediction]) -> dict[str, dict[str, float]]:
    """energy, energy_per_atom, forces, stress → errors, for those of them that have labels; eV and Å."""
    out: dict[str, dict[str, float]] = {}
    for name, per_atom in (("energy", False), ("energy_per_atom", True)):
        predicted, labels = _energies(predictions, per_atom=per_atom)
        if len(labels):
            out[name] = _mae_rmse(predicted - labels)
    predicted, labels, _ = _forces(predictions)
    if len(labels):
        out["forces"] = _force_errors(predicted, labels)
    stressed = [p for p in predictions if "stress" in p.frame.labels]
    stress = [p.stress - p.frame.labels["stress"] for p in stressed if p.stress is not None]
    if stress:
        out["stress"] = _mae_rmse(np.stack(stress))
    return out


def _energies(predictions: Sequence[FramePrediction], *, per_atom: bool) -> tuple[np.ndarray, np.ndarray]:
    chosen = [p for p in predictions if "energy" in p.frame.labels]
    size = np.array([len(p.frame.numbers) if per_atom else 1 for p in chosen], dtype=np.float64)
    predicted = np.array([p.energy for p in chosen], dtype=np.float64)
    return predicted / size, np.array([float(p.frame.labels["energy"]) for p in chosen], dtype=np.float64) / size


def _forces(predictions: Sequence[FramePrediction]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    predicted, labels, numbers = [np.zeros((0, 3))], [np.zeros((0, 3))], [np.zeros(0, dtype=np.int64)]
    for p in predictions:
        if p.forces is not None and "forces" in p.frame.labels:
            free = ~p.frame.fixed
            predicted.append(p.forces[free])
            labels.append(p.frame.labels["forces"][free])
            numbers.append(p.frame.numbers[free])
    return np.concatenate(predicted), np.concatenate(labels), np.concatenate(numbers)


def _mae_rmse(error: np.ndarray) -> dict[str, float]:
    return {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt(np.square(error).mean()))}


def _force_errors(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Over components, and over vectors; the mean cosine is over atoms on which both forces are non-zero, if any."""
    error = predicted - labels
    lengths = np.linalg.norm(predicted, axis=1) * np.linalg.norm(labels, axis=1)
    turned = lengths > 0
    cosines = (predicted * labels).sum(1)[turned] / lengths[turned]
    out = {**_mae_rmse(error), "norm": float(np.linalg.norm(error, axis=1).mean()), "components": error.size}
    return out | {"cosine": float(cosines.mean())} if turned.any() else out


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

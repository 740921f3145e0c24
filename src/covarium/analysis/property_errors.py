"""Errors of a property over labelled frames, in the unit of its labels: table, parity plot, worst frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covarium.analysis.errors import Progress, Table, batched_frames, number
from covarium.analysis.plots import property_parity
from covarium.analysis.report import MAX_ATOMS, Section, Structure
from covarium.data import Frame
from covarium.errors import CovariumError
from covarium.systems import AtomGraph
from covarium.tasks import Property, PropertySemantics


@dataclass(frozen=True)
class PropertyEvaluation:
    """Predictions beside their labels.

    Attributes:
        semantics: what the values mean.
        frames: those with a label.
        values, labels: [n] or [n, 3].
        unlabelled: frames without a label, in no number.
    """

    semantics: PropertySemantics
    frames: tuple[Frame, ...]
    values: np.ndarray
    labels: np.ndarray
    unlabelled: int

    def to_json(self) -> dict[str, Any]:
        """Keys: units, property (name, mae, rmse over components, largest, spread of the labels, and of vectors the
        mean length of the error), per_config_type, frames, unlabelled."""
        kinds = sorted({frame.config_type for frame in self.frames})
        by_kind = {kind: self._errors(np.array([frame.config_type == kind for frame in self.frames])) for kind in kinds}
        return {
            "units": {"property": self.semantics.unit, "length": "Å"},
            "property": {"name": self.semantics.name, **self._errors(np.full(len(self.frames), True))},
            "per_config_type": {} if kinds == [""] else by_kind,
            "frames": len(self.frames),
            "unlabelled": self.unlabelled,
        }

    def _errors(self, chosen: np.ndarray) -> dict[str, float]:
        error, labels = (self.values - self.labels)[chosen], self.labels[chosen]
        found = {
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt(np.square(error).mean())),
            "largest": float(np.abs(error).max()),
            "spread": float(np.sqrt(np.square(labels - labels.mean(axis=0)).mean())),
        }
        return found | ({"norm": float(np.linalg.norm(error, axis=1).mean())} if error.ndim == 2 else {})

    def tables(self) -> list[Table]:
        """Errors of all frames and of each config type."""
        report = self.to_json()
        rows = [(self.semantics.name, report["frames"], report["property"])]
        rows += [(kind or "not stated", "", errors) for kind, errors in report["per_config_type"].items()]
        unit = self.semantics.unit_or_not
        header = ("property", "frames", "MAE", "RMSE", "largest", "spread of labels", "unit")
        lines = [
            (name, f"{frames:,}" if frames else "", *[number(e[k]) for k in ("mae", "rmse", "largest", "spread")], unit)
            for name, frames, e in rows
        ]
        tables = [Table(f"Errors over {report['frames']:,} frames", header, tuple(lines))]
        if self.unlabelled:
            rows_left = ((self.semantics.name, f"{self.unlabelled:,}", "frames without this label"),)
            tables.append(Table("Left out", ("what", "how many", "why"), rows_left))
        return tables

    def worst(self, count: int = 5) -> list[tuple[Frame, float]]:
        """Frames with the largest errors, of a vector the longest ones."""
        error = np.abs(self.values - self.labels)
        size = np.linalg.norm(error, axis=1) if error.ndim == 2 else error
        return [(self.frames[k], float(size[k])) for k in np.argsort(-size, kind="stable")[:count]]


def predict_property(
    task: Property, frames: Sequence[Frame], *, max_cost: int = 20_000, progress: Progress | None = None
) -> Iterator[np.ndarray]:
    """The value of each frame, 0-d or [3], in the order of the frames.

    Raises:
        CovariumError: an unknown element, a charge or spin the model ignores, a periodic frame where the property has
            no meaning, or a prediction that is not finite; the frame is named.
    """
    training = task.training
    task.eval()
    try:
        done = 0
        for group, graphs, _ in batched_frames(task, frames, False, max_cost):
            try:
                values = task.predict(AtomGraph.collate(graphs).to(task.scale.device)).value.cpu().numpy()
            except CovariumError as error:
                raise CovariumError(f"in the batch that begins with {group[0].where}: {error}") from error
            for frame, value in zip(group, values, strict=True):
                if not np.isfinite(value).all():
                    raise CovariumError(f"{frame.where}: the predicted {task.semantics.name} is not finite")
                yield value
            done += len(group)
            if progress is not None:
                progress(done, len(frames))
    finally:
        task.train(training)


def evaluate_property(
    task: Property, frames: Sequence[Frame], *, progress: Progress | None = None
) -> PropertyEvaluation:
    """Predict every frame that has a label.

    Raises:
        CovariumError: no frame has a label, labels of another shape than the predictions, or what
            ``predict_property`` refuses.
    """
    labelled = [frame for frame in frames if "property" in frame.labels]
    if not labelled:
        raise CovariumError(f"nothing to compare with: no frame has a label for '{task.semantics.name}'")
    labels = np.stack([frame.labels["property"] for frame in labelled])
    values = np.stack(list(predict_property(task, labelled, progress=progress)))
    if values.shape != labels.shape:
        kinds = {1: "a scalar", 2: "a vector"}
        raise CovariumError(
            f"'{task.semantics.name}' is {kinds[labels.ndim]} in {labelled[0].source}, but the model predicts "
            f"{kinds[values.ndim]}"
        )
    return PropertyEvaluation(task.semantics, tuple(labelled), values, labels, len(frames) - len(labelled))


def property_sections(evaluation: PropertyEvaluation, *, worst: int = 5) -> list[Section]:
    """Chapters of a report."""
    semantics = evaluation.semantics
    plot = property_parity(evaluation.labels, evaluation.values, semantics.name, semantics.unit)
    caption = "Prediction against label; brighter where points are denser."
    found = evaluation.worst(worst)
    unit = semantics.unit_or_not
    rows = tuple((Path(f.source).name or "—", str(f.index), number(error), unit) for f, error in found)
    structures = [
        Structure(f"frame {f.index} of {Path(f.source).name or 'the data'}: {error:.3g} {unit}", f.numbers, f.positions,
                  f.cell if f.pbc.any() else None)
        for f, error in found
        if len(f.numbers) <= MAX_ATOMS
    ]  # fmt: skip
    return [
        Section("Errors", tables=evaluation.tables(), figures=[(plot, caption)]),
        Section(
            "Worst frames",
            tables=[Table("Largest errors", ("file", "frame", "error", "unit"), rows)],
            structures=structures,
        ),
    ]

"""Errors of a property over labelled frames, in the unit of its labels: table, parity plot, worst frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np

from covarium.analysis.errors import Progress, Table, batched_frames, number
from covarium.analysis.plots import property_parity
from covarium.analysis.report import MAX_ATOMS, Section, Structure
from covarium.analysis.totals import Largest, Sample, Spread, Total
from covarium.data import Frame
from covarium.errors import CovariumError
from covarium.systems import AtomGraph
from covarium.tasks import Property, PropertySemantics


@dataclass
class PropertyTotals:
    """Sums over the errors of some frames."""

    frames: int = 0
    components: Total = field(default_factory=Total)
    largest: float = 0.0
    lengths: float = 0.0
    spread: Spread = field(default_factory=Spread)

    def add(self, value: np.ndarray, label: np.ndarray) -> None:
        """0-d or [3] each."""
        error = value - label
        self.frames += 1
        self.components.add(error)
        self.largest = max(self.largest, float(np.abs(error).max()))
        self.lengths += float(np.linalg.norm(error))
        self.spread.add(label)

    def errors(self, *, vector: bool) -> dict[str, float]:
        """As in ``PropertyEvaluation.to_json``."""
        found = {**self.components.errors(), "largest": self.largest, "spread": self.spread.value()}
        return found | ({"norm": self.lengths / self.frames} if vector else {})


class PropertyEvaluation:
    """Errors of predictions beside their labels, added one by one; memory does not grow with the number of frames.

    Args:
        semantics: what the values mean.
        vector: whether they are vectors.

    Attributes:
        unlabelled: frames without a label, in no number.
    """

    def __init__(self, semantics: PropertySemantics, *, vector: bool) -> None:
        self.semantics, self.vector, self.unlabelled = semantics, vector, 0
        self._total = PropertyTotals()
        self._config_types: dict[str, PropertyTotals] = {}
        self._random = np.random.default_rng(0)
        self._values = Sample(6 if vector else 2)
        self._largest: Largest[Frame] = Largest()

    def add(self, frame: Frame, value: np.ndarray) -> None:
        """The value [] or [3] of a frame that has a label."""
        label = frame.labels["property"]
        self._total.add(value, label)
        self._config_types.setdefault(frame.config_type, PropertyTotals()).add(value, label)
        row = np.concatenate([np.atleast_1d(label), np.atleast_1d(value)])
        self._values.add(self._random.random(1), row[None])
        self._largest.add(float(np.linalg.norm(value - label)), frame)

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Predictions and labels [n] or [n, 3]; beyond ``totals.KEPT`` frames, a random sample of that many."""
        rows = self._values.rows()[:, 1:]
        labels, values = (rows[:, :3], rows[:, 3:]) if self.vector else (rows[:, 0], rows[:, 1])
        return values, labels

    @property
    def frames(self) -> int:
        return self._total.frames

    def to_json(self) -> dict[str, Any]:
        """Keys: units, property (name, mae, rmse over components, largest, spread of the labels, and of vectors the
        mean length of the error), per_config_type, frames, unlabelled."""
        kinds = sorted(self._config_types.items())
        by_kind = {kind: totals.errors(vector=self.vector) for kind, totals in kinds}
        return {
            "units": {"property": self.semantics.unit, "length": "Å"},
            "property": {"name": self.semantics.name, **self._total.errors(vector=self.vector)},
            "per_config_type": {} if list(by_kind) == [""] else by_kind,
            "frames": self.frames,
            "unlabelled": self.unlabelled,
        }

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
        """Frames with the largest errors, of a vector the longest ones; up to ``totals.WORST``."""
        return [(frame, size) for size, frame in self._largest.items[:count]]


def predict_property(
    task: Property,
    frames: Iterable[Frame],
    *,
    max_cost: int = 20_000,
    total: int | None = None,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """The value of each frame, 0-d or [3], in the order of the frames, of which no more than a batch is held.

    Args:
        task: in evaluation mode or not.
        frames: labels are not read.
        max_cost: largest cost of a batch; a frame that costs more stands alone.
        total: how many frames there are, where that is known, for ``progress``.
        progress: called with (frames done, total) after every batch.

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
                progress(done, total)
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
    evaluation = PropertyEvaluation(task.semantics, vector=task.vector)

    def labelled() -> Iterator[Frame]:
        for frame in frames:
            if "property" not in frame.labels:
                evaluation.unlabelled += 1
                continue
            if (frame.labels["property"].ndim == 1) != task.vector:
                kinds = {False: "a scalar", True: "a vector"}
                raise CovariumError(
                    f"'{task.semantics.name}' is {kinds[not task.vector]} in {frame.source}, but the model predicts "
                    f"{kinds[task.vector]}"
                )
            yield frame

    judged, given = tee(labelled())
    for frame, value in zip(judged, predict_property(task, given, total=len(frames), progress=progress), strict=True):
        evaluation.add(frame, value)
    if not evaluation.frames:
        raise CovariumError(f"nothing to compare with: no frame has a label for '{task.semantics.name}'")
    return evaluation


def property_sections(evaluation: PropertyEvaluation, *, worst: int = 5) -> list[Section]:
    """Chapters of a report."""
    semantics = evaluation.semantics
    values, labels = evaluation.values()
    plot = property_parity(labels, values, semantics.name, semantics.unit, evaluation.to_json()["property"])
    caption = "Prediction against label; brighter where points are denser."
    if evaluation.frames > len(values):
        caption += f" Points are a random sample of {len(values):,}; the errors told are of all."
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

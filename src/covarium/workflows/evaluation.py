"""A trained model beside labels, or in place of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from covarium import checkpoint
from covarium.analysis import report
from covarium.analysis.errors import Evaluation, evaluate, predict_frames
from covarium.config import DataSection, RunConfig, build, merge, parse_assignment
from covarium.data import read, read_structures
from covarium.errors import CovariumError
from covarium.simulation.record import frame as extxyz
from covarium.tasks import Potential
from covarium.workflows.loaded import LoadedPotential, as_frame, with_results

Progress = Callable[[int, int], object]


def data_settings(assignments: Sequence[str]) -> DataSection:
    """From texts like ``data.keys.energy=E_dft``; only the ``data`` section means something here.

    Raises:
        CovariumError: settings of another section.
    """
    given = merge(*[parse_assignment(text) for text in assignments])
    others = given.keys() - {"data"}
    if others:
        raise CovariumError(
            f"--set {min(others)}.… means nothing here; only settings of data do, e.g. data.keys.energy=E_dft"
        )
    return build(RunConfig, given).data


def evaluate_files(
    task: Potential, files: Sequence[Path], data: DataSection, progress: Progress | None = None
) -> tuple[list[str], Evaluation]:
    """Errors of a potential on labelled files, and what was read.

    Args:
        task: the potential.
        files: what ``covarium.data.read`` reads.
        data: keys, units and limit.
        progress: called with (frames done, all frames).

    Raises:
        CovariumError: files that cannot be read or have no energies, or elements the model does not know.
    """
    reading = read(files, keys=data.keys, units=data.units, need=("energy",), limit=data.limit)
    return [*reading.notes, *reading.left_out], evaluate(task, reading.frames, progress=progress)


def write_json(errors: Mapping[str, Any], path: Path, about: Mapping[str, Any]) -> None:
    """Errors with ``about`` beside them, written at once."""
    text = json.dumps({**errors, **about}, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.replace_file(path, lambda place: place.write_text(text + "\n", encoding="utf-8"))


def write_report(model: Path, notes: Sequence[str], sections: Sequence[report.Section], path: Path) -> None:
    """What was read and the errors in one HTML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report.write(path, f"Errors of {model.name}", [report.Section("Data", text=notes), *sections], subtitle=str(model))


def predict_file(
    model: LoadedPotential,
    files: Sequence[Path],
    out: Path,
    *,
    assignments: Sequence[str] = (),
    progress: Progress | None = None,
) -> int:
    """Write every structure with predicted energy, forces and stress as extxyz; nothing is written if one fails.

    Labels of the files are not judged; info and arrays of the structures stay.

    Returns:
        The number of structures.
    """
    data = data_settings(assignments)
    structures = read_structures(files, keys=data.keys, units=data.units, limit=data.limit)
    frames = [as_frame(structure.atoms, structure.index, structure.source) for structure in structures]
    stress = model.potential.forces == "gradient"
    predictions = predict_frames(model.potential, frames, stress=stress, progress=progress)
    texts = []
    for structure, p in zip(structures, predictions, strict=True):
        results = {"energy": p.energy, "forces": p.forces, "stress": p.stress}
        known = {name: value for name, value in results.items() if value is not None}
        texts.append(extxyz(with_results(structure.atoms, known)))
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.replace_file(out, lambda place: place.write_text("".join(texts), encoding="utf-8"))
    return len(texts)

"""A trained model beside labels, or in place of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from covarium import checkpoint
from covarium.analysis import report
from covarium.analysis.errors import Evaluation, evaluate, predict_frames
from covarium.config import DataSection, RunConfig, build, merge, parse_assignment
from covarium.data import Reading, read, read_structures
from covarium.errors import CovariumError
from covarium.simulation.record import frame as extxyz
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


def read_labelled(files: Sequence[Path], assignments: Sequence[str]) -> Reading:
    """Labelled structures.

    Args:
        files: what ``covarium.data.read`` reads.
        assignments: texts like ``data.keys.energy=E_dft``; only the ``data`` section means something here.

    Raises:
        CovariumError: files that cannot be read or have no energies, or settings of another section.
    """
    data = data_settings(assignments)
    return read(files, keys=data.keys, units=data.units, need=("energy",), limit=data.limit)


def evaluate_files(
    model: LoadedPotential,
    files: Sequence[Path],
    *,
    assignments: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Reading, Evaluation]:
    """Errors of the model on labelled files.

    Raises:
        CovariumError: files without labels, elements the model does not know.
    """
    reading = read_labelled(files, assignments)
    return reading, evaluate(model.potential, reading.frames, progress=progress)


def write_json(evaluation: Evaluation, path: Path, about: dict[str, Any]) -> None:
    """Errors in eV and Å, with ``about`` beside them, written at once."""
    text = json.dumps({**evaluation.to_json(), **about}, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.replace_file(path, lambda place: place.write_text(text + "\n", encoding="utf-8"))


def write_report(model: LoadedPotential, reading: Reading, evaluation: Evaluation, path: Path) -> None:
    """Tables, parity plots and worst frames in one HTML file."""
    sections = [report.Section("Data", text=[*reading.notes, *reading.left_out]), *report.error_sections(evaluation)]
    path.parent.mkdir(parents=True, exist_ok=True)
    report.write(path, f"Errors of {model.path.name}", sections, subtitle=str(model.path))


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

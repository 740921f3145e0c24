"""A trained model beside labels, or in place of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from covarium.analysis import report
from covarium.analysis.errors import Evaluation, evaluate, predict_frames
from covarium.analysis.property_errors import PropertyEvaluation, evaluate_property, predict_property, sections_of
from covarium.config import DataSection, RunConfig, build, merge, parse_assignment
from covarium.data import Frame, Reading, Structure, read, read_structures
from covarium.errors import CovariumError
from covarium.files import replace_text
from covarium.simulation.record import frame as extxyz
from covarium.workflows.loaded import BEST, LoadedPotential, as_frame, with_results
from covarium.workflows.loaded_property import LoadedProperty
from covarium.workflows.training_run import CONFIG, STATE

ERRORS = "errors.json"
OF_RUNS = (CONFIG, STATE, BEST, "trajectory.extxyz")  # of training, md and relax

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


def read_property(model: LoadedProperty, files: Sequence[Path], assignments: Sequence[str]) -> Reading:
    """Structures labelled with the model's property, under the key of the training files unless another is given.

    Raises:
        CovariumError: files that cannot be read or lack the label, a unit that is not the model's, or settings of
            another section.
    """
    data = data_settings(assignments)
    keys = {"property": model.key, **data.keys}
    reading = read(files, keys=keys, units=data.units, need=("property",), limit=data.limit)
    own, theirs = model.task.semantics.unit, reading.units["property"]
    if own and theirs and own != theirs:
        raise CovariumError(
            f"'{keys['property']}' is in {theirs} in {files[0]}, but the model was trained in {own}; convert the file"
        )
    return reading


def evaluate_files(
    model: LoadedPotential | LoadedProperty,
    files: Sequence[Path],
    *,
    assignments: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Reading, Evaluation | PropertyEvaluation]:
    """Errors of the model on labelled files.

    Raises:
        CovariumError: files without labels, elements the model does not know.
    """
    if isinstance(model, LoadedProperty):
        reading = read_property(model, files, assignments)
        return reading, evaluate_property(model.task, reading.frames, progress=progress)
    reading = read_labelled(files, assignments)
    return reading, evaluate(model.potential, reading.frames, progress=progress)


def refuse_targets(files: Sequence[Path], json: Path | None, out: Path | None) -> None:
    """Before anything is computed: the errors of ``files`` must not be written over something else.

    Args:
        files: that are evaluated.
        json: file for the errors.
        out: folder for report and errors; one of an earlier evaluation is written anew.

    Raises:
        CovariumError: ``json`` is one of the files, or ``out`` holds a run, which has a report of its own.
    """
    if json is not None:
        _refuse_input(json, files, "--json")
    if out is None:
        return
    there = [name for name in OF_RUNS if (out / name).exists()]
    if there:
        raise CovariumError(
            f"'{out}' holds a run ({', '.join(there)}), whose report would be overwritten; choose another --out, "
            f"e.g. {out / 'errors'}"
        )


def _refuse_input(target: Path, files: Sequence[Path], option: str) -> None:
    if target.resolve() in {file.resolve() for file in files}:
        raise CovariumError(f"{option} '{target}' is one of the files that are read; choose another name")


def write_json(evaluation: Evaluation | PropertyEvaluation, path: Path, about: dict[str, Any]) -> None:
    """Errors in eV and Å, or of a property in its unit, with ``about`` beside them, written at once."""
    text = json.dumps({**evaluation.to_json(), **about}, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text + "\n")


def write_report(
    model: LoadedPotential | LoadedProperty,
    reading: Reading,
    evaluation: Evaluation | PropertyEvaluation,
    path: Path,
) -> None:
    """Tables, parity plots and worst frames in one HTML file."""
    sections = [report.Section("Data", text=[*reading.notes, *reading.left_out]), *sections_of(evaluation)]
    path.parent.mkdir(parents=True, exist_ok=True)
    report.write(path, f"Errors of {model.path.name}", sections, subtitle=str(model.path))


def predict_file(
    model: LoadedPotential | LoadedProperty,
    files: Sequence[Path],
    out: Path,
    *,
    assignments: Sequence[str] = (),
    progress: Progress | None = None,
) -> int:
    """Write every structure with predicted energy, forces and stress, or property, as extxyz; nothing is written if
    one fails.

    Labels of the files are not judged; info and arrays of the structures stay.

    Returns:
        The number of structures.

    Raises:
        CovariumError: ``out`` exists, or is one of the files; a file cannot be read; see ``predict``.
    """
    _refuse_input(out, files, "--out")
    if out.exists():
        raise CovariumError(f"'{out}' exists already; choose another --out, or remove it")
    data = data_settings(assignments)
    structures = read_structures(files, keys=data.keys, units=data.units, limit=data.limit)
    frames = [as_frame(structure.atoms, structure.index, structure.source) for structure in structures]
    labelled: Iterator[Atoms]
    if isinstance(model, LoadedProperty):
        labelled = _with_property(model, structures, frames, progress)
    else:
        labelled = _with_energies(model, structures, frames, progress)
    texts = [extxyz(atoms) for atoms in labelled]
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, "".join(texts))
    return len(texts)


def _with_energies(
    model: LoadedPotential, structures: Sequence[Structure], frames: Sequence[Frame], progress: Progress | None
) -> Iterator[Atoms]:
    stress = model.potential.has_stress
    predictions = predict_frames(model.potential, frames, stress=stress, progress=progress)
    for structure, p in zip(structures, predictions, strict=True):
        results = {"energy": p.energy, "forces": p.forces, "stress": p.stress}
        known = {name: value for name, value in results.items() if value is not None}
        yield with_results(structure.atoms, known)


def _with_property(
    model: LoadedProperty, structures: Sequence[Structure], frames: Sequence[Frame], progress: Progress | None
) -> Iterator[Atoms]:
    """The value in ``info``, in place of a label of the same name."""
    values = predict_property(model.task, frames, progress=progress)
    for structure, value in zip(structures, values, strict=True):
        copy = structure.atoms.copy()
        copy.info[model.task.semantics.name] = float(value) if value.ndim == 0 else value
        yield copy

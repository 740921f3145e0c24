"""A trained model beside labels, or in place of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, tee
from pathlib import Path
from typing import Any

from ase import Atoms

from covarium.analysis import report
from covarium.analysis.errors import Evaluation, evaluate, predict_frames
from covarium.config import DataSection, RunConfig, build, merge, parse_assignment
from covarium.data import Structure, read, stream_structures
from covarium.errors import CovariumError
from covarium.files import replace_file, replace_text
from covarium.simulation.record import frame as extxyz
from covarium.training.state import FILE as STATE
from covarium.workflows.loaded import BEST, CONFIG, LoadedTask, as_frame, with_results

ERRORS = "errors.json"
OF_RUNS = (CONFIG, STATE, BEST, "trajectory.extxyz")  # of training, md and relax

Progress = Callable[[int, int | None], object]


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
    loaded: LoadedTask, files: Sequence[Path], data: DataSection, progress: Progress | None = None
) -> tuple[list[str], Evaluation]:
    """Errors of a potential on labelled files, and what was read.

    Args:
        loaded: the potential.
        files: what ``covarium.data.read`` reads.
        data: keys, units and limit.
        progress: called with (frames done, all frames).

    Raises:
        CovariumError: files that cannot be read or have no energies, or elements the model does not know.
    """
    reading = read(files, keys=data.keys, units=data.units, need=("energy",), limit=data.limit)
    return [*reading.notes, *reading.left_out], evaluate(loaded.task, reading.frames, progress=progress)


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


def predict_energies(
    loaded: LoadedTask, structures: Iterable[Structure], progress: Progress | None = None
) -> Iterator[Atoms]:
    """Structures with energy, forces and stress of a potential, as they come."""
    shown, given = tee(structures)
    frames = (as_frame(one.atoms, one.index, one.source) for one in given)
    predictions = predict_frames(loaded.task, frames, stress=loaded.task.has_stress, progress=progress)
    for structure, p in zip(shown, predictions, strict=True):
        results = {"energy": p.energy, "forces": p.forces, "stress": p.stress}
        known = {name: value for name, value in results.items() if value is not None}
        yield with_results(structure.atoms, known)


def write_json(errors: Mapping[str, Any], path: Path, about: Mapping[str, Any]) -> None:
    """Errors with ``about`` beside them, written at once."""
    text = json.dumps({**errors, **about}, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text + "\n")


def write_report(model: Path, notes: Sequence[str], sections: Sequence[report.Section], path: Path) -> None:
    """What was read and the errors in one HTML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report.write(path, f"Errors of {model.name}", [report.Section("Data", text=notes), *sections], subtitle=str(model))


def predict_file(
    predict: Callable[[LoadedTask, Iterable[Structure], Progress | None], Iterable[Atoms]],
    loaded: LoadedTask,
    files: Sequence[Path],
    out: Path,
    data: DataSection,
    progress: Progress | None = None,
) -> int:
    """Write every structure with what is predicted as extxyz, one after another; there is no file if one fails.

    Labels of the files are not judged; info and arrays of the structures stay.

    Args:
        predict: puts what the model predicts into structures.
        loaded: the model.
        files: what ``covarium.data.read`` reads.
        out: extxyz file.
        data: keys, units and limit.
        progress: called with (structures done, None).

    Returns:
        The number of structures.

    Raises:
        CovariumError: ``out`` exists, or is one of the files; a file cannot be read.
    """
    _refuse_input(out, files, "--out")
    if out.exists():
        raise CovariumError(f"'{out}' exists already; choose another --out, or remove it")
    structures = stream_structures(files, keys=data.keys, units=data.units, limit=data.limit)
    predicted = iter(predict(loaded, structures, progress))
    first = next(predicted)  # files that cannot be read leave no folder behind
    count = 0

    def write(place: Path) -> None:
        nonlocal count
        with place.open("w", encoding="utf-8") as file:
            for atoms in chain([first], predicted):
                file.write(extxyz(atoms))
                count += 1

    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, write)
    return count

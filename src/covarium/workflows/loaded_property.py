"""A trained property: loaded in two lines of Python, judged on files, written beside structures, described."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from covarium.analysis.property_errors import PropertyEvaluation, evaluate_property, predict_property
from covarium.config import DataSection
from covarium.data import Structure, read
from covarium.errors import CovariumError
from covarium.tasks import Property
from covarium.workflows.evaluation import Progress
from covarium.workflows.loaded import (
    LoadedPotential,
    LoadedTask,
    as_frame,
    as_frames,
    as_potential,
    element_list,
    load_task,
    reference_list,
)
from covarium.workflows.property_inference import READOUTS


@dataclass(frozen=True)
class LoadedProperty:
    """A trained property ready for use.

    Attributes:
        task: model, readout, scale, meaning of the values.
        header: of the file: ``model``, ``config``, ``task`` and the training ``card``.
        path: the file.
    """

    task: Property
    header: dict[str, Any]
    path: Path

    def predict(self, atoms: Atoms | Sequence[Atoms]) -> np.ndarray:
        """The property of every structure, [n] or [n, 3], in the unit of its labels.

        Raises:
            CovariumError: an element the model does not know, a charge or spin it ignores, or a periodic structure
                where the property has no meaning; the structure is named. Something else than structures.
        """
        return np.array(list(predict_property(self.task, as_frames(atoms))))


def load_model(
    path: Path | str, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> LoadedPotential | LoadedProperty:
    """What ``covarium train`` made of structures, a potential or a property; arguments and errors as for
    ``loaded.load``."""
    read = load_task(path, device=device, dtype=dtype)
    if isinstance(read.task, Property):
        return LoadedProperty(read.task, read.header, read.path)
    return as_potential(read)


def evaluate_files(
    loaded: LoadedTask, files: Sequence[Path], data: DataSection, progress: Progress | None = None
) -> tuple[list[str], PropertyEvaluation]:
    """Errors of a property on labelled files, and what was read, under the key of the training files unless another
    is given.

    Raises:
        CovariumError: files that cannot be read or lack the label, a unit that is not the model's, elements the model
            does not know.
    """
    task: Property = loaded.task
    trained = loaded.header["card"].get("run", {}).get("data", {}).get("keys", {})
    keys = {"property": str(trained.get("property", task.semantics.name)), **data.keys}
    reading = read(files, keys=keys, units=data.units, need=("property",), limit=data.limit)
    own, theirs = task.semantics.unit, reading.units["property"]
    if own and theirs and own != theirs:
        raise CovariumError(
            f"'{keys['property']}' is in {theirs} in {files[0]}, but the model was trained in {own}; convert the file"
        )
    return [*reading.notes, *reading.left_out], evaluate_property(task, reading.frames, progress=progress)


def predict_values(
    loaded: LoadedTask, structures: Iterable[Structure], progress: Progress | None = None
) -> Iterator[Atoms]:
    """Structures with the value in ``info``, in place of a label of the same name, as they come."""
    shown, given = tee(structures)
    frames = (as_frame(one.atoms, one.index, one.source) for one in given)
    values = predict_property(loaded.task, frames, progress=progress)
    for structure, value in zip(shown, values, strict=True):
        copy = structure.atoms.copy()
        copy.info[loaded.task.semantics.name] = float(value) if value.ndim == 0 else value
        yield copy


def about_property(task: Property) -> dict[str, str]:
    """What its values mean, in words."""
    meaning = task.semantics
    return {"values": f"{meaning.name}, {meaning.unit_or_not}, {meaning.theory or 'level of theory not stated'}"}


def describe_property(task: Property) -> list[tuple[str, str, str]]:
    """Lines (what, value, remark) about a property."""
    semantics = task.semantics
    return [
        ("property", semantics.name, semantics.unit_or_not),
        ("theory", semantics.theory or "not stated", ""),
        ("symmetry", task.model.group, ""),
        ("elements", element_list(task.elements), "others are refused"),
        ("readout", READOUTS[task.readout], ""),
        ("scale", f"{float(task.scale):.4g}, offset {task.offset:.5g}", semantics.unit),
        *(
            [("references", reference_list(task.references, ".4g", ""), semantics.unit)]
            if any(task.references.values())
            else []
        ),
        ("neighbours", f"{task.model.spec.rule} within {task.model.spec.cutoff:g} Å", ""),
    ]

"""A trained property model in two lines of Python: load it, then predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from covarium.analysis.property_errors import predict_property
from covarium.tasks import Property
from covarium.workflows.loaded import LoadedPotential, as_frames, read_model
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

    @property
    def key(self) -> str:
        """Where the training files had the labels."""
        keys = self.header["card"].get("run", {}).get("data", {}).get("keys", {})
        return str(keys.get("property", self.task.semantics.name))

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
    """What ``covarium train`` made, a potential or a property; arguments and errors as for ``loaded.load``."""
    read, file = read_model(path, device, dtype)
    if isinstance(read.task, Property):
        return LoadedProperty(read.task, read.header, file)
    return LoadedPotential(read.task, read.header, file)


def describe_property(loaded: LoadedProperty) -> dict[str, list[tuple[str, str, str]]]:
    """Title → lines (what, value, remark), for printing."""
    task, header = loaded.task, loaded.header
    card, semantics = header["card"], task.semantics
    parameters = sum(p.numel() for p in task.model.parameters())
    precision = str(next(iter(task.model.parameters())).dtype).removeprefix("torch.")
    references = ", ".join(f"{chemical_symbols[z]} {value:.4g}" for z, value in task.references.items())
    about = [
        ("file", str(loaded.path), f"{loaded.path.stat().st_size / 2**20:.1f} MiB, format {header['format']}"),
        ("property", semantics.name, semantics.unit_or_not),
        ("theory", semantics.theory or "not stated", ""),
        ("model", f"{header['model']}, {parameters:,} parameters", precision),
        ("symmetry", task.model.group, ""),
        ("elements", " ".join(chemical_symbols[z] for z in task.elements), "others are refused"),
        ("readout", READOUTS[task.readout], ""),
        ("scale", f"{float(task.scale):.4g}, offset {task.offset:.5g}", semantics.unit),
        *([("references", references, semantics.unit)] if any(task.references.values()) else []),
        ("neighbours", f"{task.model.spec.rule} within {task.model.spec.cutoff:g} Å", ""),
    ]
    training = [("data", file, "") for file in card.get("run", {}).get("data", {}).get("train", [])]
    for name in ("training_frames", "validation_frames", "step", "epoch", "covarium", "torch"):
        if name in card:
            training.append((name.replace("_", " "), str(card[name]), ""))
    if "property_mae" in card:
        training.append(
            (f"{semantics.name} mae", f"{card['property_mae']:.4g}", f"{semantics.unit_or_not}; on validation frames")
        )
    sizes = [(name, str(value), "") for name, value in header["config"].items()]
    return {"Model": about, "Training": training, "Sizes": sizes}

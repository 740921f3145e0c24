"""A trained potential in two lines of Python: load it, then predict or attach it to ASE atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms

from covarium import checkpoint
from covarium.analysis.errors import predict_frames
from covarium.data import Frame
from covarium.errors import CovariumError, nearest
from covarium.tasks import Potential
from covarium.workflows.device import DTYPES, choose_device

if TYPE_CHECKING:
    from covarium.simulation import Calculator

BEST = "best.safetensors"


@dataclass(frozen=True)
class AtomsPrediction:
    """energy in eV (total, as the labels were); forces [n, 3] eV/Å; stress [3, 3] eV/Å³, > 0 under tension, or None."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None


@dataclass(frozen=True)
class LoadedPotential:
    """A trained potential ready for use.

    Attributes:
        potential: the task: model, scale, element references, meaning of the energies.
        header: of the file: ``model``, ``config``, ``task`` and the training ``card``.
        path: the file.
    """

    potential: Potential
    header: dict[str, Any]
    path: Path

    def predict(self, atoms: Atoms | Sequence[Atoms], *, stress: bool = True) -> list[AtomsPrediction]:
        """Energy, forces and stress of every structure, computed in batches.

        Args:
            atoms: one structure or many; ``info["charge"]`` and ``info["spin"]`` are read.
            stress: where a structure is periodic in three directions and forces are gradients; else it is None.

        Raises:
            CovariumError: an element the model does not know, or a charge or spin it ignores; the structure is named.
        """
        structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        frames = [as_frame(structure, index) for index, structure in enumerate(structures)]
        stress = stress and self.potential.forces == "gradient"
        predictions = []
        for p in predict_frames(self.potential, frames, stress=stress):
            assert p.forces is not None
            predictions.append(AtomsPrediction(p.energy, p.forces, p.stress))
        return predictions

    def calculator(self, *, skin: float = 0.5) -> Calculator:
        """An ASE calculator; ``skin`` in Å is how far beyond the cutoff neighbours are kept between steps."""
        from covarium.simulation import Calculator

        return Calculator(self.potential, skin=skin)


def load(
    path: Path | str, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> LoadedPotential:
    """A potential that ``covarium train`` made.

    Args:
        path: a ``.safetensors`` file, or the folder of a run, whose best model is taken.
        device: None for CUDA where there is one, else the CPU.
        dtype: ``"float32"``, ``"float64"``; None for that of the file.

    Raises:
        CovariumError: no such file, not one of ours, damaged or of a newer version; the device is not available.
    """
    file = model_file(Path(path))
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise CovariumError(f"dtype '{dtype}' is unknown; allowed: {', '.join(DTYPES)}{nearest(dtype, DTYPES)}")
        dtype = DTYPES[dtype]
    place = device if isinstance(device, torch.device) else choose_device(device)
    read = checkpoint.load(file, device=place, dtype=dtype)
    # parameters that need no gradient save the memory of their graph when forces are computed
    return LoadedPotential(read.task.requires_grad_(False), read.header, file)


def model_file(path: Path) -> Path:
    """The file meant by a file or by the folder of a run.

    Raises:
        CovariumError: there is none.
    """
    file = path / BEST if path.is_dir() else path
    if not file.is_file():
        if path.is_dir():
            raise CovariumError(f"'{path}' holds no {BEST}; give the folder of a finished run, or a .safetensors file")
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CovariumError(f"model '{path}' does not exist{nearest(path.name, there)}")
    return file


def as_frame(atoms: Atoms, index: int = 0, source: str = "") -> Frame:
    """The structure without its labels; a constraint that fixes atoms is kept."""
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
    return Frame(
        numbers=atoms.numbers.astype(np.int64),
        positions=atoms.positions.astype(np.float64),
        cell=np.asarray(atoms.cell[:], dtype=np.float64),
        pbc=np.asarray(atoms.pbc, dtype=bool),
        labels={},
        fixed=fixed,
        charge=float(atoms.info.get("charge", 0.0)),
        spin=float(atoms.info.get("spin", 0.0)),
        source=source,
        index=index,
    )

"""A trained potential in two lines of Python: load it, then predict or attach it to ASE atoms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from covarium import checkpoint
from covarium.analysis.errors import predict_frames
from covarium.data import Frame, charge_and_spin, read_structures
from covarium.errors import CovariumError, nearest
from covarium.tasks import EffectiveAction, Potential, Property
from covarium.workflows.arithmetic import arrange
from covarium.workflows.device import DTYPES, choose_device

if TYPE_CHECKING:
    from covarium.simulation import Calculator

BEST = "best.safetensors"
FITTED = "model.safetensors"  # of a fit of `covarium slmc`, whose couplings are fitted anew to its best
CONFIG = "config.resolved.yaml"
# of the columns of a log, those that say how good a model is
ERRORS = (
    "energy_mae", "energy_mae_per_atom", "forces_mae", "stress_mae", "property_mae",
    "positions_mse", "vectors_mse", "scalars_mse",
)  # fmt: skip


@dataclass(frozen=True)
class AtomsPrediction:
    """energy in eV (total, as the labels were); forces [n, 3] eV/Å; stress [3, 3] eV/Å³, > 0 under tension, or None."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None


@dataclass(frozen=True)
class LoadedTask:
    """A trained task of any kind: itself, the header of its file, the file."""

    task: Any
    header: dict[str, Any]
    path: Path


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
            atoms: one structure or many; charge and spin are read as by ``covarium.data.charge_and_spin``.
            stress: where a structure is periodic in three directions and the potential has it; else it is None.

        Raises:
            CovariumError: an element the model does not know, or a charge or spin it ignores; the structure is named.
                Something else than structures, such as the name of a file.
        """
        frames = as_frames(atoms)
        stress = stress and self.potential.has_stress
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
    """A potential that ``covarium train`` made; see ``load_task`` for tasks of other kinds.

    Args:
        path: a ``.safetensors`` file, or the folder of a run, whose best model is taken.
        device: None for CUDA where there is one, else the CPU.
        dtype: ``"float32"``, ``"float64"``, or ``"tf32"``, ``"bf16"`` for float32 with products of weights rounded;
            None for that of the file.

    Raises:
        CovariumError: no such file, not one of ours, damaged or of a newer version; the device is not available; the
            dtype is another one; the task is none of energies.
    """
    return as_potential(load_task(path, device=device, dtype=dtype))


def as_potential(loaded: LoadedTask) -> LoadedPotential:
    """
    Raises:
        CovariumError: the task is none of energies.
    """
    if not isinstance(loaded.task, Potential):
        raise CovariumError(refusal(loaded))
    return LoadedPotential(loaded.task, loaded.header, loaded.path)


def refusal(loaded: LoadedTask) -> str:
    """What to say of a task that does not serve what was asked."""
    if isinstance(loaded.task, Property):
        asked = f"predicts the property '{loaded.task.semantics.name}'"
    else:
        asked = f"answers questions of the kind '{loaded.header['task']['kind']}'"
    return (
        f"{loaded.path} {asked}, not energies and forces, and does not serve this; "
        "`covarium info` and `covarium check model` say more of it"
    )


def load_task(
    path: Path | str, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> LoadedTask:
    """Whatever ``covarium train`` made; arguments and errors as of ``load``."""
    file = model_file(Path(path))
    name = None
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise CovariumError(f"dtype '{dtype}' is unknown; allowed: {', '.join(DTYPES)}{nearest(dtype, DTYPES)}")
        name, dtype = dtype, DTYPES[dtype]
    if dtype is not None and dtype not in DTYPES.values():
        raise CovariumError(f"dtype {dtype} cannot be used; allowed: {', '.join(DTYPES)}")
    place = device if isinstance(device, torch.device) else choose_device(device)
    read = checkpoint.load(file, device=place, dtype=dtype)
    arrange(read.task.model, name)
    # parameters that need no gradient save the memory of their graph when forces are computed
    return LoadedTask(read.task.requires_grad_(False), read.header, file)


def model_file(path: Path) -> Path:
    """The file meant by a file or by the folder of a run.

    Raises:
        CovariumError: there is none.
    """
    fitted = path / FITTED
    file = (fitted if fitted.is_file() else path / BEST) if path.is_dir() else path
    if not file.is_file():
        if path.is_dir():
            raise CovariumError(f"'{path}' holds no {BEST}; give the folder of a finished run, or a .safetensors file")
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CovariumError(f"model '{path}' does not exist{nearest(path.name, there)}")
    return file


def as_frames(atoms: object) -> list[Frame]:
    """One structure or many, without their labels.

    Raises:
        CovariumError: something is not a structure.
    """
    structures: Iterable[object] = [atoms]
    if isinstance(atoms, Iterable) and not isinstance(atoms, Atoms | str | PathLike):
        structures = atoms
    frames = []
    for index, structure in enumerate(structures):
        if not isinstance(structure, Atoms):
            raise CovariumError(
                f"predict takes ase.Atoms or a list of them, got {type(structure).__name__} {structure!r:.80}; read a "
                "file by ase.io.read(file, ':'), or use the command `covarium predict`"
            )
        frames.append(as_frame(structure, index))
    return frames


def as_frame(atoms: Atoms, index: int = 0, source: str = "") -> Frame:
    """The structure without its labels; a constraint that fixes atoms is kept."""
    charge, spin = charge_and_spin(atoms, f"{source}, frame {index}" if source else f"frame {index}")
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
        charge=charge,
        spin=spin,
        source=source,
        index=index,
        tags=atoms.get_tags().astype(np.int64),
    )


def with_results(atoms: Atoms, results: Mapping[str, Any]) -> Atoms:
    """A copy with ``results`` (energy, forces, stress as [3, 3]) in a calculator of its own; info and arrays stay."""
    copy = atoms.copy()
    copy.info = {key: value for key, value in copy.info.items() if key not in all_properties}
    for key in [key for key in copy.arrays if key in all_properties]:
        del copy.arrays[key]
    known = dict(results)
    if "stress" in known:
        known["stress"] = full_3x3_to_voigt_6_stress(known["stress"])
    copy.calc = SinglePointCalculator(copy, **known)
    return copy


def read_structure(path: Path, index: int | None = None) -> tuple[Atoms, str]:
    """One structure of a file, and a line that says which.

    Args:
        path: what ``covarium.data.read`` reads.
        index: from 0, negative from the end; None for the only one, or else the last.

    Returns:
        The structure as read, with constraints, masses, momenta, info and arrays; labels are not judged.

    Raises:
        CovariumError: the file cannot be read or has no such structure.
    """
    structures = read_structures([path])
    chosen = -1 if index is None else index
    if not -len(structures) <= chosen < len(structures):
        raise CovariumError(f"'{path}' has {len(structures)} structures, counted from 0; there is no {chosen}")
    found = structures[chosen]
    as_frame(found.atoms, found.index, found.source)  # checked, and refused under the name of the file
    which = f"structure {found.index} of {len(structures)} in {path}" if len(structures) > 1 else str(path)
    return found.atoms, f"{which}: {len(found.atoms)} atoms"


def predicted_by_potential(task: Potential) -> str:
    """What its predictions hold, for a sentence."""
    if not task.has_stress:
        return "energy (eV) and forces (eV/Å)"
    return "energy (eV), forces (eV/Å) and, where there is a volume, stress (eV/Å³)"


def about_potential(potential: Potential) -> dict[str, str]:
    """What its energies mean, in words."""
    semantics = potential.semantics
    return {"energies": f"{semantics.kind}, {semantics.functional or 'level of theory not stated'}"}


def element_list(numbers: Sequence[int]) -> str:
    """Symbols of elements; of a whole table the first and the last."""
    symbols = [chemical_symbols[z] for z in numbers]
    if len(numbers) > 20 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"all {len(numbers)} from {symbols[0]} to {symbols[-1]}"
    return " ".join(symbols)


def reference_list(references: Mapping[int, float], digits: str, unit: str) -> str:
    """References of the elements that have one, zero being none."""
    given = {z: value for z, value in references.items() if value}
    if not given:
        return "none"
    listed = ", ".join(f"{chemical_symbols[z]} {value:{digits}}" for z, value in given.items())
    return f"{listed} {unit}".rstrip() + ("" if len(given) == len(references) else "; others 0")


def describe_potential(potential: Potential) -> list[tuple[str, str, str]]:
    """Lines (what, value, remark) about a potential."""
    semantics = potential.semantics
    rule = {"gradient": "gradient of the energy", "direct": "direct head"}[potential.forces]
    warning = "" if potential.forces == "gradient" else "not conservative: energy drifts in MD"
    return [
        ("symmetry", potential.model.group, ""),
        ("elements", element_list(potential.elements), "others are refused"),
        ("energies", semantics.kind, semantics.functional or "level of theory not stated"),
        ("references", reference_list(potential.references, ".4f", "eV"), ""),
        ("forces", rule, warning),
        ("reads", ", ".join(sorted(potential.model.reads)) or "neither charge nor spin", ""),
        ("neighbours", f"{potential.model.spec.rule} within {potential.model.spec.cutoff:g} Å", ""),
    ]


def describe_action(task: EffectiveAction) -> list[tuple[str, str, str]]:
    """Lines (what, value, remark) about an effective model of spins."""
    model, physics = task.model, ", ".join(f"{name.replace('_', ' ')} {x:g}" for name, x in task.physics.items())
    couplings = ", ".join(f"{x:.4g}" for x in model.J.tolist())
    return [
        ("symmetry", model.group, "spins turned and reflected alike; translations and point group"),
        ("lattice", f"{model.config.size} × {model.config.size}, periodic", ""),
        ("stands for", physics or "not stated", "double exchange" if physics else ""),
        ("couplings", couplings, "by shell of neighbours, nearest first; units of the temperature"),
    ]


def describe(
    loaded: LoadedTask, about: Sequence[tuple[str, str, str]], unit: str
) -> dict[str, list[tuple[str, str, str]]]:
    """Title → lines (what, value, remark) about a model, for printing.

    Args:
        loaded: the model.
        about: lines about its task.
        unit: of its errors.
    """
    header, card = loaded.header, loaded.header["card"]
    run = card.get("run", {})
    parameters = sum(p.numel() for p in loaded.task.model.parameters())
    precision = next(iter(loaded.task.model.parameters())).dtype
    first = [
        ("file", str(loaded.path), f"{loaded.path.stat().st_size / 2**20:.1f} MiB, format {header['format']}"),
        ("model", f"{header['model']}, {parameters:,} parameters", str(precision).removeprefix("torch.")),
    ]
    training = [("data", file, "") for file in run.get("data", {}).get("train", [])]
    for name in ("training_frames", "validation_frames", "step", "epoch", "covarium", "torch"):
        if name in card:
            training.append((name.replace("_", " "), str(card[name]), ""))
    errors = [
        (name.replace("_", " "), f"{card[name]:.4g}", f"{unit}; in validation") for name in ERRORS if name in card
    ]
    sizes = [(name, str(value), "") for name, value in header["config"].items()]
    return {"Model": [*first, *about], "Training": [*training, *errors], "Sizes": sizes}

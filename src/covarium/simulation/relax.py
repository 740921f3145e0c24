"""Relaxation to the nearest minimum through ASE's optimisers, with the guards of molecular dynamics."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS, BFGSLineSearch
from ase.optimize.optimize import Optimizer

from covarium.errors import CovariumError, nearest
from covarium.files import replace_text
from covarium.simulation.calculator import Calculator, require_stress
from covarium.simulation.guards import Halt, failure, force_warnings, overlap
from covarium.simulation.record import Progress, Record, frame, unlabelled
from covarium.units import GPA

OPTIMISERS: dict[str, type[Optimizer]] = {"bfgs": BFGS, "bfgs_line": BFGSLineSearch, "fire": FIRE, "lbfgs": LBFGS}
LARGEST_STRAIN = 4.0  # the volume may grow or shrink by this factor before the cell counts as lost


@dataclass(frozen=True)
class RelaxSettings:
    """What to do.

    Attributes:
        fmax: eV/Å, converged when no atom feels more force; with ``cell``, also for the forces on the strain.
        steps: at most.
        optimiser: ``bfgs`` (fewest steps, but cubic in the atoms: a second per step from 1000 atoms on), ``bfgs_line``
            (with line search), ``fire`` (three times the steps, at home with any size) or ``lbfgs`` (cheap; may run
            in circles on flat surfaces).
        cell: relax the lattice too, all of its strain.
        pressure: GPa, with ``cell``.
        interval: steps between two saved frames.
    """

    fmax: float = 0.01
    steps: int = 500
    optimiser: Literal["bfgs", "bfgs_line", "fire", "lbfgs"] = "bfgs"
    cell: bool = False
    pressure: float = 0.0
    interval: int = 1

    def __post_init__(self) -> None:
        if self.optimiser not in OPTIMISERS:
            hint = nearest(self.optimiser, OPTIMISERS)
            raise CovariumError(f"optimiser '{self.optimiser}' is unknown; allowed: {', '.join(OPTIMISERS)}{hint}")
        if not self.fmax > 0 or self.steps < 0 or self.interval < 1:
            raise CovariumError(f"fmax > 0, steps ≥ 0, interval ≥ 1; got {self.fmax}, {self.steps}, {self.interval}")
        if self.pressure != 0.0 and not self.cell:
            raise CovariumError("a pressure has no meaning for a fixed cell; set cell=True")


@dataclass(frozen=True)
class RelaxResult:
    """How a relaxation ended.

    Attributes:
        atoms: the last structure, with the calculator attached.
        steps: steps done.
        reason: ``converged``, ``steps_exhausted``, or the guard that stopped it: ``overlap``, ``not_finite``,
            ``out_of_memory``, ``volume``, ``line_search``.
        message: one sentence for the user; empty if converged.
        energies: eV of every structure on the way, the first and the last included.
        fmax: eV/Å, largest force of the last structure; None if it could not be computed.
        files: ``trajectory`` and ``relaxed`` (extxyz), or ``stopped`` instead of ``relaxed`` if a guard stopped it.
        warnings: what the user must know of this potential.
    """

    atoms: Atoms
    steps: int
    reason: str
    message: str
    energies: tuple[float, ...]
    fmax: float | None
    files: dict[str, Path]
    warnings: tuple[str, ...] = ()


def relax(
    atoms: Atoms, calculator: Calculator, settings: RelaxSettings, out: Path, *, progress: Progress | None = None
) -> RelaxResult:
    """Relax a structure into a new folder.

    The lattice moves by the logarithm of its deformation (ASE's FrechetCellFilter), whose forces are exact gradients.

    Args:
        atoms: not changed. Constraints, info and arrays are kept, labels are not.
        calculator: over the potential.
        settings: what to do.
        out: receives ``trajectory.extxyz`` and ``relaxed.extxyz``, or ``stopped.extxyz`` if a guard stops it.
        progress: called after every step.

    Raises:
        CovariumError: the folder holds a relaxation already; ``cell`` without three periodic directions or with a
            potential that has no stress; the structure cannot be computed (see ``Calculator``); the disk is full.
    """
    if len(atoms) == 0:
        raise CovariumError("a relaxation needs at least one atom, the structure has none")
    if settings.cell:
        require_stress(calculator.potential, atoms, "relaxing the cell")
    notes = force_warnings(calculator.potential)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    moving = unlabelled(atoms)
    moving.calc = calculator
    energies: list[float] = []
    trajectory = Record(out / "trajectory.extxyz", resumes=False)
    try:
        ending = _descend(moving, calculator, settings, trajectory, energies, progress)
    finally:
        trajectory.close()
    name = "stopped" if ending.guarded else "relaxed"
    last = out / f"{name}.extxyz"
    out.mkdir(parents=True, exist_ok=True)
    replace_text(last, frame(moving, labels=not ending.guarded))
    forces = calculator.results.get("forces") if not calculator.check_state(moving) else None
    return RelaxResult(
        atoms=moving,
        steps=ending.steps,
        reason=ending.reason,
        message=ending.message,
        energies=tuple(energies),
        fmax=None if forces is None else _largest(moving),
        files={"trajectory": trajectory.path, name: last} if trajectory.length else {name: last},
        warnings=notes,
    )


@dataclass(frozen=True)
class _Ending:
    steps: int
    reason: str
    message: str = ""
    guarded: bool = False


def _descend(
    atoms: Atoms,
    calculator: Calculator,
    settings: RelaxSettings,
    trajectory: Record,
    energies: list[float],
    progress: Progress | None,
) -> _Ending:
    volume = atoms.get_volume() if settings.cell else None
    # ASE types its optimisers for Atoms; a filter stands in for them
    target: Any = FrechetCellFilter(atoms, scalar_pressure=settings.pressure * GPA) if settings.cell else atoms
    step = 0
    try:
        optimiser = OPTIMISERS[settings.optimiser](target, logfile=None)
        for converged in optimiser.irun(fmax=settings.fmax, steps=settings.steps):
            step = optimiser.nsteps
            energies.append(atoms.get_potential_energy())
            halt = overlap(calculator, atoms) or _lost_cell(atoms, volume)
            if halt is not None:
                return _Ending(step, halt.reason, halt.message, guarded=True)
            last = bool(converged) or step == settings.steps
            if last or step % settings.interval == 0:
                trajectory.append(frame(atoms, step=step))
            if progress is not None:
                progress(step, settings.steps, {"energy_ev": energies[-1], "fmax": _largest(atoms)})
            if converged:
                return _Ending(step, "converged")
    except Exception as error:
        halt = _line_search(error) or failure(error)
        if halt is None:
            raise
        return _Ending(step, halt.reason, halt.message, guarded=True)
    return _Ending(
        step,
        "steps_exhausted",
        f"not converged after {step} steps: the largest force is {_largest(atoms):.4f} eV/Å, asked for {settings.fmax}"
        + (" (or the stress is too large)" if settings.cell else ""),
    )


def _lost_cell(atoms: Atoms, volume: float | None) -> Halt | None:
    if volume is None or 1.0 / LARGEST_STRAIN < atoms.get_volume() / volume < LARGEST_STRAIN:
        return None
    return Halt(
        "volume",
        f"the volume went from {volume:.1f} to {atoms.get_volume():.1f} Å³: the model does not bind this crystal; "
        "train it on strained cells",
    )


def _line_search(error: Exception) -> Halt | None:
    if not (isinstance(error, RuntimeError) and "LineSearch failed" in str(error)):
        return None
    return Halt(
        "line_search",
        "the line search found no lower energy along the forces: they are not its gradient, or rounding hides it; use "
        "float64, a larger fmax, or optimiser fire",
    )


def _largest(atoms: Atoms) -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())

"""HTML reports of simulations: what happened, the last structure, and how to go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from covarium import __version__
from covarium.analysis import plots, report
from covarium.analysis.report import MAX_ATOMS, Section, Structure
from covarium.simulation import MDResult, MDSettings, RelaxResult, RelaxSettings
from covarium.simulation.md import read_log

REPORT = "report.html"


def dynamics_report(result: MDResult, settings: MDSettings, path: Path, commands: Sequence[str]) -> None:
    """Energies, temperature and, with a piston, volume of a run, its last structure, and ``commands``.

    Raises:
        CovariumError: the file cannot be written.
    """
    facts = {
        "ensemble": settings.ensemble,
        "steps": f"{result.steps} of {settings.steps}, {settings.timestep:g} fs each",
        "ended": result.reason,
    }
    if result.temperature is not None:
        facts["mean temperature"] = f"{result.temperature:.0f} K"
    if result.drift is not None:
        facts["energy drift"] = f"{result.drift:+.4f} meV/atom/ps"
    figures, structures = [], []
    rows = read_log(result.files["log"]) if "log" in result.files else {}
    if len(rows.get("time_fs", ())) > 1:
        figures.append((plots.dynamics(rows), "Along the run; the total energy is constant at constant energy only."))
    last = result.files.get("stopped") or result.files.get("trajectory")
    if last is not None:
        (atoms,) = ase.io.read(last, index="-1:")
        if settings.ensemble == "nve" and len(rows.get("time_fs", ())) > 2:
            conserved = report.dynamics_section(rows["time_fs"], rows["total_ev"], len(atoms))
            figures += conserved.figures
        structures = _shown("last structure", atoms)
    text = [result.message] if result.message else []
    _write(path, "Molecular dynamics", facts, [*text, *result.warnings], figures, structures, commands)


def relaxation_report(
    result: RelaxResult, settings: RelaxSettings, start: Atoms, path: Path, commands: Sequence[str]
) -> None:
    """Trace of a relaxation, first and last structure, and ``commands``.

    Raises:
        CovariumError: the file cannot be written.
    """
    facts = {"ended": result.reason, "method": settings.optimiser, "lattice": "relaxed" if settings.cell else "fixed"}
    traced = []
    if "trajectory" in result.files:
        forces = largest_forces(result)
        energies = np.array(result.energies[-len(forces) :])
        traced = [report.relaxation_section(energies, forces, target=settings.fmax)]
        facts |= traced[0].facts
    structures = [*_shown("relaxed" if result.reason == "converged" else "last structure", result.atoms),
                  *_shown("start", start)]  # fmt: skip
    figures = [figure for section in traced for figure in section.figures]
    text = [result.message] if result.message else []
    _write(path, "Relaxation", facts, [*text, *result.warnings], figures, structures, commands)


def largest_forces(relaxed: RelaxResult) -> np.ndarray:
    """The largest force on an atom along the trajectory, [T] eV/Å."""
    frames = ase.io.read(relaxed.files["trajectory"], index=":")
    return np.array([np.linalg.norm(frame.get_forces(), axis=1).max() for frame in frames])


def _shown(label: str, atoms: Atoms) -> list[Structure]:
    if len(atoms) > MAX_ATOMS:
        return []
    cell = atoms.cell.array if atoms.pbc.any() else None
    return [Structure(label, atoms.numbers, atoms.positions, cell)]


def _write(
    path: Path,
    title: str,
    facts: dict[str, str],
    text: Sequence[str],
    figures: Sequence[tuple[plots.Figure, str]],
    structures: Sequence[Structure],
    commands: Sequence[str],
) -> None:
    chapters = [Section("Run", facts=facts, text=text, figures=figures)]
    if structures:
        chapters.append(Section("Structures", structures=structures))
    if commands:
        chapters.append(Section("Next", text=["What to type next:"], commands=commands))
    report.write(path, f"{title}: {path.parent.name}", chapters, subtitle=f"covarium {__version__}")

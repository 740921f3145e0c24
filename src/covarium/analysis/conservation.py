"""How well a simulation keeps its energy."""

from __future__ import annotations

import numpy as np

from covarium.errors import CovariumError


def energy_drift(time: np.ndarray, energy: np.ndarray, atoms: int) -> float:
    """Slope of the straight line through the total energy, in meV/atom/ps.

    Args:
        time: [T] fs.
        energy: [T] total (potential + kinetic) energy, eV.
        atoms: number of atoms.

    Raises:
        CovariumError: fewer than three moments, or values that are not finite.
    """
    _admit(time, energy)
    slope = np.polyfit(time - time[0], energy - energy[0], 1)[0]
    return float(slope * 1e3 * 1e3 / atoms)


def energy_fluctuation(time: np.ndarray, energy: np.ndarray, atoms: int) -> float:
    """Root mean square of the total energy around its straight line, in meV/atom.

    It is the error of the integrator, which for velocity Verlet falls as dt²: half the time step, a quarter of it
    (E. Hairer et al., Acta Numerica 12, 399 (2003), §5).

    Args:
        time: [T] fs.
        energy: [T] total energy, eV.
        atoms: number of atoms.

    Raises:
        CovariumError: fewer than three moments, or values that are not finite.
    """
    _admit(time, energy)
    t, e = time - time[0], energy - energy[0]
    return float(np.sqrt(np.mean((e - np.polyval(np.polyfit(t, e, 1), t)) ** 2)) * 1e3 / atoms)


def _admit(time: np.ndarray, energy: np.ndarray) -> None:
    if len(time) < 3 or len(time) != len(energy):
        raise CovariumError(f"a drift needs at least three moments with an energy each, got {len(time)} and {len(energy)}")
    if not (np.isfinite(time).all() and np.isfinite(energy).all()):
        raise CovariumError("times or energies of the run are not finite; the simulation has failed before its end")

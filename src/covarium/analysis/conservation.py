"""Does a short run at constant energy conserve it? Velocity Verlet, W. C. Swope et al., J. Chem. Phys. 76, 637 (1982).

Verlet's energy wanders by an amount ∝ dt², so that half the time step leaves a quarter, and (4 E(dt/2) − E(dt)) / 3
leaves what no time step mends: the work of forces that are no gradient of the energy, jumps, rounding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ase.data import atomic_masses

from covarium.analysis.check import Check, Probe
from covarium.data import Frame
from covarium.errors import CovariumError
from covarium.units import BOLTZMANN, FS

LONGEST = 0.5  # fs
STRIDE = 5e-4  # Å, the farthest that a force moves an atom in one step
WARM = 300.0 * BOLTZMANN  # eV, at room temperature
ROUNDING = 1e-12  # of the energies: below it nothing fluctuates


def constant_energy(
    probe: Probe, frame: Frame, *, steps: int = 16, drift_level: float = 1.0, law_level: float = 0.2, seed: int = 0
) -> tuple[Check, Check]:
    """Drift of the total energy in meV/atom/ps, the time step taken to zero, and how far the ratio of its fluctuations
    at dt and dt/2 is from 4. Direct forces are reported without a level, since they are not meant to conserve it.

    Args:
        probe: of the potential.
        frame: where to start, at room temperature.
        steps: at dt, which is half a femtosecond, or less where forces are strong; twice as many at dt/2.
        drift_level, law_level: highest accepted.
        seed: of the velocities.

    Raises:
        CovariumError: the potential has no forces.
    """
    forces = probe(frame).forces
    if forces is None:
        raise CovariumError("the potential predicts no forces to move atoms by")
    masses = atomic_masses[frame.numbers][:, None]
    strongest = float((np.linalg.norm(forces.double().cpu().numpy(), axis=1) / masses[:, 0]).max())
    dt = min(LONGEST * FS, float(np.sqrt(STRIDE / strongest))) if strongest > 0 else LONGEST * FS
    velocities = np.random.default_rng(seed).normal(size=frame.positions.shape) * np.sqrt(WARM / masses)
    whole = _energies(probe, frame, velocities, masses, dt, steps)
    half = _energies(probe, frame, velocities, masses, dt / 2, 2 * steps)[::2]
    times = dt / FS * (np.arange(steps + 1) - steps / 2)
    left = float(times @ ((4 * half - whole) / 3) / (times @ times)) * 1e6 / len(frame.numbers)
    wide, narrow = float(whole.std()), float(half.std())
    still = wide <= ROUNDING * max(1.0, float(np.abs(whole).max()))
    ratio = 4.0 if still else wide / narrow if narrow > 0 else np.inf
    judged = probe.conservative
    note = f"{steps} steps of {dt / FS:.2g} fs" + ("" if judged else "; direct forces do not conserve energy")
    told = f"fluctuations {wide:.1e} and {narrow:.1e} eV, ratio {ratio:.4g}"
    if still:
        told = "the energy does not fluctuate"
    return (
        Check("NVE drift at dt → 0 (meV/atom/ps)", abs(left), drift_level if judged else None, note),
        Check("NVE dt² law: |ratio − 4|", abs(ratio - 4), law_level if judged else None, told),
    )


def _energies(
    probe: Probe, frame: Frame, velocities: np.ndarray, masses: np.ndarray, dt: float, steps: int
) -> np.ndarray:
    """[steps + 1] total energy in eV, dt in Å √(u/eV); not a number from where forces are not."""
    positions, v = frame.positions, velocities
    totals, push = np.full(steps + 1, np.nan), np.zeros_like(positions)
    for step in range(steps + 1):
        if step:
            v = v + 0.5 * dt * push / masses
            positions = positions + dt * v
        energy, forces = probe.with_slope([replace(frame, positions=positions)])
        assert forces is not None
        push = forces.double().cpu().numpy()
        if not np.isfinite(push).all():
            break
        if step:
            v = v + 0.5 * dt * push / masses
        totals[step] = float(energy) + 0.5 * float((masses * v**2).sum())
    return totals

"""Why a simulation stops before its end, each reason by name.

A stop is an answer, not a crash: what was written before stays readable, and nothing integrates on with stale forces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii

from covarium.simulation.calculator import Calculator, NotFiniteError
from covarium.tasks import Potential

Reason = Literal["overlap", "temperature", "not_finite", "out_of_memory", "volume", "line_search"]

CLOSEST = 0.4  # Å
FRACTION = 0.5  # of the sum of the covalent radii; the shortest real bonds (H–H, N≡N, C≡O) keep more than 0.75
HOTTER = 10.0  # times the reference temperature

DIRECT_FORCES = (
    "this potential has direct forces: they are not the gradient of its energy, so energy is not conserved and the "
    "forces do not vanish at its minima; use a potential with gradient forces for dynamics and relaxations"
)


@dataclass(frozen=True)
class Halt:
    """Why the simulation stopped; ``message`` names the atoms and the values."""

    reason: Reason
    message: str


def overlap(calculator: Calculator, atoms: Atoms) -> Halt | None:
    """A pair closer than max(0.4 Å, half the sum of the covalent radii).

    Radii: B. Cordero et al., Dalton Trans. 2832 (2008), as in ASE. Only pairs within the model's cutoff are seen.
    """
    pairs = calculator.pairs
    if pairs is None or len(pairs.squares) == 0:
        return None
    radii = covalent_radii[atoms.numbers]
    if pairs.squares.min() >= max(CLOSEST, 2.0 * FRACTION * radii.max()) ** 2:
        return None
    source, target = pairs.edge_index
    limits = np.maximum(CLOSEST, FRACTION * (radii[source] + radii[target]))
    ratios = pairs.squares / limits**2
    worst = int(np.argmin(ratios))
    if ratios[worst] >= 1.0:
        return None
    j, i = int(source[worst]), int(target[worst])
    return Halt(
        "overlap",
        f"atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) are {pairs.squares[worst] ** 0.5:.3f} Å apart, "
        f"closer than {limits[worst]:.3f} Å; the model has left its training data, or the structure began with a clash",
    )


def too_hot(temperature: float, reference: float) -> Halt | None:
    """More than ten times the reference temperature."""
    if temperature <= HOTTER * reference:
        return None
    return Halt(
        "temperature",
        f"the temperature jumped to {temperature:.0f} K, more than {HOTTER:.0f} times {reference:.0f} K; use a shorter "
        "timestep, relax the structure first, or train the model on hotter frames",
    )


def failure(error: Exception) -> Halt | None:
    """The stop that an exception of the model means; None if it is no business of a simulation and must be raised."""
    if isinstance(error, NotFiniteError):
        return Halt("not_finite", str(error))
    text = str(error)
    starved = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )
    if starved:
        first = (text.splitlines() or [""])[0]
        return Halt("out_of_memory", f"out of memory ({first}); use a smaller structure, float32 or a larger device")
    return None


def force_warnings(potential: Potential) -> tuple[str, ...]:
    """What a user of the forces must know."""
    return (DIRECT_FORCES,) if potential.forces == "direct" else ()

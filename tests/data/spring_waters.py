"""Small structures with exact labels: atoms on springs, whose energy and forces belong together."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from covarium.data import Frame

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
STIFFNESS = 3.0  # eV/Å²


def springs(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy (around that of a valence-only water molecule) and forces of three springs."""
    step = positions - WATER
    return -14.2 + 0.5 * STIFFNESS * float((step**2).sum()), -STIFFNESS * step


def waters(count: int, seed: int = 0, spread: float = 0.05) -> list[Atoms]:
    """Water molecules with labels in a calculator, as ASE keeps them."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        atoms = Atoms("OHH", positions=WATER + rng.normal(scale=spread, size=(3, 3)))
        energy, forces = springs(atoms.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        images.append(atoms)
    return images


def frame(symbols: str, energy: float = 0.0, **changes: object) -> Frame:
    """A frame on a line, 1 Å apart, with zero forces."""
    numbers = Atoms(symbols).numbers.astype(np.int64)
    n = len(numbers)
    positions = np.zeros((n, 3))
    positions[:, 0] = np.arange(n)
    values: dict = {
        "numbers": numbers,
        "positions": positions,
        "cell": np.zeros((3, 3)),
        "pbc": np.zeros(3, dtype=bool),
        "labels": {"energy": np.array(energy), "forces": np.zeros((n, 3))},
        "fixed": np.zeros(n, dtype=bool),
    }
    return Frame(**(values | changes))

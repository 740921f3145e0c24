"""Labelled structures with nothing wrong, made by potentials that depend on distances only."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

STIFFNESS = 20.0  # eV/Å²
ATOM = {"H": -3.0, "C": -9.0, "O": -4.0, "N": -8.0}  # eV


def labelled(atoms: Atoms, offset: float = 0.0) -> Atoms:
    """With a spring between every two atoms, at rest in ASE's own geometry of the molecule."""
    rest = molecule(atoms.info["name"]).get_all_distances() if len(atoms) > 1 else np.zeros((1, 1))
    vectors = atoms.positions[:, None] - atoms.positions[None]
    distances = np.linalg.norm(vectors, axis=-1)
    stretch = distances - rest
    np.fill_diagonal(distances, 1.0)
    energy = sum(ATOM[s] for s in atoms.symbols) + STIFFNESS * float(np.square(stretch).sum()) / 4 + offset
    forces = -STIFFNESS * (stretch[..., None] * vectors / distances[..., None]).sum(axis=1)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def molecules(count: int = 40, seed: int = 0) -> list[Atoms]:
    """Shaken molecules of several compositions in any direction, and their isolated atoms."""
    rng = np.random.default_rng(seed)
    frames = [
        labelled(Atoms(symbol, info={"name": symbol, "config_type": "IsolatedAtom"})) for symbol in ("H", "C", "O")
    ]
    names = ("H2O", "CH4", "CH3OH", "C2H6")
    for k in range(count):
        atoms = molecule(names[k % len(names)], info={"name": names[k % len(names)]})
        atoms.rotate(rng.uniform(0, 360), rng.normal(size=3))
        atoms.positions += rng.normal(0, 0.04, atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


def crystals(count: int = 20, seed: int = 0) -> list[Atoms]:
    """Copper cells of several volumes with energies, forces and stresses of effective-medium theory."""
    rng = np.random.default_rng(seed)
    frames = []
    for scale in np.linspace(0.96, 1.05, count):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * scale, scale_atoms=True)
        atoms.positions += rng.normal(0, 0.03, (4, 3))
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def write(path: Path, frames: list[Atoms]) -> Path:
    ase.io.write(path, frames)
    return path


def relabel(atoms: Atoms, **results: object) -> None:
    """Other labels, as they are."""
    known = {**atoms.calc.results, **results}
    atoms.calc = SinglePointCalculator(atoms, **{key: value for key, value in known.items() if value is not None})

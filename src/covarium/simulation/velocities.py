"""Velocities to start from, and what a temperature is."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from covarium.errors import CovariumError
from covarium.units import BOLTZMANN


def fixed_atoms(atoms: Atoms) -> np.ndarray:
    """[N] bool, the atoms held by constraints.

    Raises:
        CovariumError: a constraint other than ``FixAtoms``, which no integrator here promises to keep.
    """
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise CovariumError(
                f"molecular dynamics keeps FixAtoms constraints only, the structure has {type(constraint).__name__}; "
                "remove it with atoms.set_constraint()"
            )
        fixed[constraint.index] = True
    return fixed


def conserved_motions(atoms: Atoms) -> int:
    """How many of the degrees of freedom are total momentum and angular momentum, both kept at zero by NVE.

    None where atoms are fixed; 3 with any periodicity; 6 for a molecule, 5 if linear, 3 for an atom.
    """
    if atoms.constraints:
        return 0
    return 3 if atoms.pbc.any() else 3 + int(np.linalg.matrix_rank(_inertia(atoms), tol=1e-6, hermitian=True))


def start_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator, *, conserved: bool = True) -> None:
    """Maxwell–Boltzmann momenta, scaled so that the kinetic energy is exactly ½ f k T.

    Args:
        atoms: receives the momenta; fixed atoms stay at rest.
        temperature: K.
        rng: advanced by 3N normal numbers.
        conserved: total momentum, and for molecules total angular momentum, are taken out, and f counts the motions
            that are left; False for a thermostat that conserves neither, where f counts all of the free atoms.
    """
    free = ~fixed_atoms(atoms)
    masses = atoms.get_masses()[:, None]
    velocities = rng.standard_normal((len(atoms), 3)) * np.sqrt(BOLTZMANN * temperature / masses) * free[:, None]
    removed = conserved_motions(atoms) if conserved else 0
    if removed:
        velocities -= (masses * velocities).sum(0) / masses.sum()
    if removed > 3:
        arms = atoms.positions - atoms.get_center_of_mass()
        angular = (masses * np.cross(arms, velocities)).sum(0)
        # the pseudo-inverse leaves out the axis of a linear molecule, about which nothing can turn
        velocities -= np.cross(np.linalg.pinv(_inertia(atoms), rcond=1e-8, hermitian=True) @ angular, arms)
    freedom = 3 * int(free.sum()) - removed
    kinetic = 0.5 * float((masses * velocities**2).sum())
    wanted = 0.5 * freedom * BOLTZMANN * temperature
    scale = np.sqrt(wanted / kinetic) if freedom > 0 and kinetic > 0.0 else 0.0
    atoms.set_momenta(masses * velocities * scale, apply_constraint=False)


def temperature_of(kinetic: float, freedom: int) -> float:
    """K, from the kinetic energy in eV; 0 if nothing can move."""
    return 2.0 * kinetic / (freedom * BOLTZMANN) if freedom > 0 else 0.0


def _inertia(atoms: Atoms) -> np.ndarray:
    """[3, 3] u Å², about the centre of mass."""
    arms = atoms.positions - atoms.get_center_of_mass()
    masses = atoms.get_masses()
    return float((masses * (arms**2).sum(1)).sum()) * np.eye(3) - np.einsum("n,na,nb->ab", masses, arms, arms)

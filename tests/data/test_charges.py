"""Charge and spin of a structure, the same from Python as from a file."""

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms

from covarium.data import charge_and_spin, read, read_structures
from covarium.errors import CovariumError

WATER = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


def water(charges: list[float] | None = None, **info: Any) -> Atoms:
    atoms = WATER.copy()
    atoms.info = info
    if charges is not None:
        atoms.set_initial_charges(charges)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (water(), (0.0, 0.0)),
        (water(charge=1, spin=1), (1.0, 1.0)),
        (water(total_charge=np.int64(-1), spin_multiplicity=2), (-1.0, 1.0)),
        (water([0.5, 0.3, 0.2]), (1.0, 0.0)),
        (water([-0.8, 0.4, 0.4]), (0.0, 0.0)),
        (water([-0.801, 0.4, 0.4]), (0.0, 0.0)),
        (water([0.5, 0.3, 0.2], charge=2), (2.0, 0.0)),
    ],
)
def test_python_and_files_agree(atoms: Atoms, expected: tuple[float, float], tmp_path: Path) -> None:
    assert charge_and_spin(atoms) == expected
    ase.io.write(tmp_path / "a.extxyz", atoms)
    (structure,) = read_structures([tmp_path / "a.extxyz"])
    assert charge_and_spin(structure.atoms) == expected
    (frame,) = read([tmp_path / "a.extxyz"], need=()).frames
    assert (frame.charge, frame.spin) == expected


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (water(charge="one"), "'charge' must be a number, got 'one'"),
        (water(charge=np.nan), "finite"),
        (water(charge=1, total_charge=0), "several values of charge"),
        (water(spin=2, multiplicity=2), "contradict"),
        (water(spin=1), "multiplicity"),
    ],
)
def test_what_is_unclear_is_refused(atoms: Atoms, message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        charge_and_spin(atoms)

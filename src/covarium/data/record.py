"""One structure as its file has it, before anything is chosen or converted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.db.row import AtomsRow

from covarium.data.names import MADE_BY, STATED_UNITS

GROWTH = (2**30, 1000)  # bytes, times the size on disk: text of structures shrinks to a third or, repeated, to 1 %


@dataclass(frozen=True)
class Damage:
    """In place of a record that cannot be read: its place in the file, and why."""

    index: int
    what: str


@dataclass(frozen=True)
class Record:
    """One structure as its file has it.

    Attributes:
        numbers, positions, cell, pbc: [n], [n, 3], [3, 3] rows, [3]; lengths in the file's unit.
        fixed: [n] bool, from constraints or a mask.
        values: everything else, per structure or per atom.
        atoms: the structure as read, with what its file says of it as a whole in ``info``.
        source, index: file and place in it.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    fixed: np.ndarray
    values: dict[str, Any]
    atoms: Atoms
    source: str
    index: int

    @property
    def where(self) -> str:
        return f"{self.source}, frame {self.index}"


def from_atoms(atoms: Atoms, info: Mapping[str, Any], source: str, index: int) -> Record:
    """ASE keeps labels in info, in arrays, or moves them into the calculator; all are gathered, without constraints."""
    values = dict(info)
    values.update((key, value) for key, value in atoms.arrays.items() if key not in ("numbers", "positions"))
    if atoms.calc is not None:
        # results, not get_forces(): that would zero the forces of constrained atoms
        values.update(atoms.calc.results)
        functional = getattr(atoms.calc, "parameters", {}).get("gga", "--")
        if functional != "--":  # VASP's word for "as the pseudopotentials have it"
            values.setdefault("gga", functional)
    atoms.info = dict(info)
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if fixes(constraint):
            fixed[constraint.index] = True
    return Record(
        numbers=atoms.numbers.astype(np.int64),
        positions=np.asarray(atoms.positions, dtype=np.float64),
        cell=np.asarray(atoms.cell.array, dtype=np.float64),
        pbc=np.asarray(atoms.pbc, dtype=bool),
        fixed=fixed,
        values=values,
        atoms=atoms,
        source=source,
        index=index,
    )


def fixes(constraint: object) -> bool:
    """Whether a constraint holds its atoms where they are."""
    whole = isinstance(constraint, FixCartesian) and bool(np.all(constraint.mask))
    return isinstance(constraint, FixAtoms) or whole


def from_row(row: AtomsRow, metadata: Mapping[str, Any], source: str, index: int) -> Record:
    """A row of an ASE data base, with its data and key-value pairs, and the units that its metadata state."""
    data, stated = dict(row.data), _stated_units(metadata)
    if MADE_BY not in metadata:  # schnetpack keeps an energy as an array of one number
        data = {key: value[0] if np.shape(value) == (1,) else value for key, value in data.items()}
    return from_atoms(row.toatoms(), {**stated, **data, **row.key_value_pairs}, source, index)


def _stated_units(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Units as schnetpack states them in the data base's metadata."""
    stated = {STATED_UNITS["length"][0]: metadata.get("_distance_unit")}
    for label, unit in metadata.get("_property_unit_dict", {}).items():
        stated[STATED_UNITS[label][0] if label in ("energy", "forces") else f"{label}_unit"] = unit
    return {key: unit for key, unit in stated.items() if unit}


def from_values(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    values: Mapping[str, Any],
    source: str,
    index: int,
    fixed: np.ndarray | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Record:
    """A structure of a format that ASE does not read; single values go to its ``info``, ``tags`` and what is said to be
    per atom (``arrays``) to its atoms."""
    numbers, positions = numbers.astype(np.int64), positions.astype(np.float64)
    cell, pbc = cell.astype(np.float64), pbc.astype(bool)
    values = dict(values)
    info = {name: value for name, value in values.items() if np.ndim(value) == 0}
    atoms = Atoms(numbers, positions, cell=cell, pbc=pbc, info=info)
    for name, array in (arrays or {}).items():
        atoms.set_array(name, np.asarray(array))
        values[name] = atoms.arrays[name]
    tags = np.asarray(values.get("tags"))
    if tags.size == len(numbers) and tags.dtype.kind in "iuf":
        atoms.set_tags(tags.reshape(-1).astype(np.int64))
        values["tags"] = atoms.get_tags()
    fixed = np.zeros(len(numbers), dtype=bool) if fixed is None else fixed
    return Record(numbers, positions, cell, pbc, fixed, values, atoms, source, index)

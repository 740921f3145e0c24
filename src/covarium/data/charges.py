"""Total charge and unpaired electrons of a structure: one rule for files, Python and the calculator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms

from covarium.data.names import LABELS, plain
from covarium.errors import CovariumError

CHARGES = ("charge", "spin", "multiplicity")
PER_ATOM = "initial_charges"  # ASE's array
WHOLE = 1e-2  # e; per-atom charges are written rounded, so that their sum misses a whole number by a little


def charge_and_spin(atoms: Atoms, where: str = "the structure") -> tuple[float, float]:
    """Total charge in e and number of unpaired electrons, both 0 if nothing is said.

    Read from ``atoms.info`` under the usual names of charge, spin and multiplicity (spin = multiplicity − 1). Without a
    charge there, initial charges of the atoms that do not sum to zero count.

    Args:
        atoms: its info and initial charges are read.
        where: the structure's name in messages.

    Raises:
        CovariumError: not a number, names that contradict each other, or a spin that the electrons do not allow.
    """
    values = dict(atoms.info)
    if atoms.has(PER_ATOM):
        values[PER_ATOM] = atoms.get_initial_charges()
    keys: dict[str, str | None] = {}
    for label in CHARGES:
        found = [key for key in atoms.info if isinstance(key, str) and plain(key) in LABELS[label]]
        given = {key: _number(values, key, where) for key in found}
        if len(set(given.values())) > 1:
            raise CovariumError(f"{where} has several values of {label}: {given}; keep one of them")
        keys[label] = found[0] if found else None
    return chosen_charge_and_spin(values, keys, atoms.numbers, molecule=not atoms.pbc.any(), where=where)


def chosen_charge_and_spin(
    values: Mapping[str, Any], keys: Mapping[str, str | None], numbers: np.ndarray, *, molecule: bool, where: str
) -> tuple[float, float]:
    """The same from values of a file, under the keys chosen for ``charge``, ``spin`` and ``multiplicity``.

    Some files keep the multiplicity under ``spin``; in a molecule the parity of the electrons tells them apart.
    """
    charge = _number(values, keys["charge"], where)
    if charge is None:
        charge = float(np.sum(values.get(PER_ATOM, 0.0)))
        charge = float(round(charge)) if abs(charge - round(charge)) < WHOLE else charge
    spin, multiplicity = _number(values, keys["spin"], where), _number(values, keys["multiplicity"], where)
    if spin is None:
        return charge, 0.0 if multiplicity is None else multiplicity - 1.0
    if multiplicity is not None and multiplicity != spin + 1.0:
        raise CovariumError(
            f"{where}: '{keys['spin']}' = {spin:g} unpaired electrons and '{keys['multiplicity']}' = {multiplicity:g} "
            "contradict each other; the multiplicity is one more than the unpaired electrons"
        )
    whole = charge == round(charge) and spin == round(spin)
    if molecule and whole and (numbers.sum() - charge - spin) % 2:
        raise CovariumError(
            f"{where}: '{keys['spin']}' = {spin:g} unpaired electrons is impossible with {numbers.sum() - charge:g} "
            f"electrons; if it is the multiplicity, say --set data.keys.multiplicity={keys['spin']}, or in Python "
            "atoms.info['multiplicity']"
        )
    return charge, spin


def _number(values: Mapping[str, Any], key: str | None, where: str) -> float | None:
    if key is None:
        return None
    try:
        number = float(values[key])
    except (TypeError, ValueError):
        raise CovariumError(f"{where}: '{key}' must be a number, got {values[key]!r}") from None
    if not np.isfinite(number):
        raise CovariumError(f"{where}: '{key}' must be a finite number, got {number}")
    return number

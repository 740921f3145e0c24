"""Which key of a file holds which label: found under its usual names, or refused with the keys the file has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from covarium.data.conversion import Units
from covarium.data.names import FORCE_CONSISTENT, GROUPS, LABELS, THEORY, plain
from covarium.data.record import Record
from covarium.errors import CovariumError, nearest

SAME = 1e-6  # in the file's unit: two keys whose values differ by less hold the same label
ASYMMETRY = 0.01  # of the largest component: more is not a stress


def fits(label: str, value: Any, atoms: int) -> bool:  # noqa: ANN401  (a foreign file's value)
    """Whether a value has the type and shape of the label."""
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return False
    if array.dtype.kind not in ("bif" if label == "fixed" else "if"):
        return False
    if label == "forces":
        return array.shape == (atoms, 3)
    if label == "fixed":
        return array.shape == (atoms,)
    if label in ("stress", "virial"):
        return array.shape in ((6,), (9,), (3, 3))
    if label == "property":
        return array.shape in ((), (1,), (3,))
    return array.shape == ()


def choose(records: Sequence[Record], label: str, given: Mapping[str, str], notes: list[str]) -> str | None:
    """The key that holds a label in all records, None if no usual name occurs.

    Args:
        records: of all files together.
        label: a key of ``LABELS``.
        given: the user's choices, by label; a key given to one label is not taken for another.
        notes: what was decided between several keys is added here.

    Raises:
        CovariumError: the given key does not exist or never has the label's shape, or several usual names hold
            different values.
    """
    if label in given:
        key = given[label]
        if all(key not in record.values for record in records):
            hint = nearest(key, keys_of(records))
            raise CovariumError(f"{records[0].source} has no key '{key}' for {label}{hint}; it has {listed(records)}")
        return key
    taken = set(given.values())
    usual = LABELS[label]
    rank = {name: place for place, name in enumerate(usual)}
    count: Counter[str] = Counter()
    for record in records:
        atoms = len(record.numbers)
        count.update(key for key, value in record.values.items() if plain(key) in rank and fits(label, value, atoms))
    found = sorted(count.keys() - taken, key=lambda key: (rank[plain(key)], key))
    if label == "energy" and len(found) > 1:
        found = _set_aside_free_energy(records, found, notes)
    if not found:
        return None
    for other in found[1:]:
        gap = _gap(records, label, found[0], other)
        if gap > SAME:
            raise CovariumError(
                f"{records[0].source} has {label} under several keys with different values, {', '.join(found)}: "
                f"'{found[0]}' and '{other}' differ by up to {gap:.6g}. Choose with --set data.keys.{label}={other}"
            )
    best = max(found, key=lambda key: count[key])
    if len(found) > 1:
        notes.append(f"{label} is under {' and '.join(found)} with the same values; '{best}' is used")
    return best


def _set_aside_free_energy(records: Sequence[Record], found: list[str], notes: list[str]) -> list[str]:
    """The electronic free energy beside an energy is a documented second quantity; which one was taken is said."""
    free = [key for key in found if plain(key) == FORCE_CONSISTENT]
    rest = [key for key in found if key not in free]
    if not free or not rest:
        return found
    gap = _gap(records, "energy", rest[0], free[0])
    if gap > SAME:
        notes.append(
            f"energy is '{rest[0]}'; '{free[0]}', of which forces are the exact derivative, differs by up to {gap:.3g} "
            f"and is chosen with --set data.keys.energy={free[0]}"
        )
    return rest


def _gap(records: Sequence[Record], label: str, one: str, other: str) -> float:
    """The largest difference between two keys over the records that have both; infinite where none has."""
    gaps = []
    for record in records:
        values, atoms = record.values, len(record.numbers)
        if fits(label, values.get(one), atoms) and fits(label, values.get(other), atoms):
            first, second = np.ravel(values[one]), np.ravel(values[other])
            gaps.append(np.abs(first - second).max() if first.size == second.size else np.inf)
    # a NaN on one side only is a difference too
    return float(np.nan_to_num(gaps, nan=np.inf).max()) if gaps else np.inf


def extract(record: Record, label: str, key: str, units: Units) -> np.ndarray | None:
    """The label in eV and Å, a property as it is, float64; None where the record lacks the key.

    A virial becomes a stress by stress = −virial / volume.

    Raises:
        CovariumError: the value has another type or shape than the label, or a stress lacks a volume or symmetry.
    """
    if key not in record.values or record.values[key] is None:
        return None
    if label == "property":
        return property_value(record.values, key, record.where)
    array = _number(record.values[key], label, key, len(record.numbers), record.where)
    if label in ("stress", "virial"):
        return _stress(record, label, key, array, units)
    return np.asarray(array * units.size.get(label, 1.0))


def property_value(values: Mapping[str, Any], key: str, where: str) -> np.ndarray | None:
    """The value under a key as a property, 0-d or [3], float64, as it is; None where there is none.

    Raises:
        CovariumError: it has another type or shape.
    """
    if values.get(key) is None:
        return None
    array = _number(values[key], "property", key, 0, where)
    return array.reshape(()) if array.size == 1 else array


def _number(value: Any, label: str, key: str, atoms: int, where: str) -> np.ndarray:  # noqa: ANN401
    if not fits(label, value, atoms):
        raise CovariumError(
            f"{where}: {label} '{key}' is of type {type(value).__name__} and shape {np.shape(value)}, "
            f"{str(value)[:60]!r}; expected {_expected(label, atoms)}"
        )
    return np.array(value, dtype=np.float64)


def _expected(label: str, atoms: int) -> str:
    shapes = {
        "forces": f"numbers [{atoms}, 3]",
        "fixed": f"0 or 1 per atom [{atoms}]",
        "stress": "6 or 9 numbers",
        "property": "one number or a vector of 3",
    }
    return shapes.get("stress" if label == "virial" else label, "one number")


def _stress(record: Record, label: str, key: str, array: np.ndarray, units: Units) -> np.ndarray | None:
    if not record.pbc.all():
        return None
    full = voigt_6_to_full_3x3_stress(array) if array.shape == (6,) else array.reshape(3, 3)
    if np.abs(full - full.T).max() > ASYMMETRY * np.abs(full).max():
        raise CovariumError(f"{record.where}: {label} '{key}' is not symmetric: {full.tolist()}")
    if label == "virial":
        volume = abs(np.linalg.det(record.cell)) * units.size["length"] ** 3
        full = -full * units.size["energy"] / volume
    else:
        full = full * units.size["stress"]
    return (full + full.T) / 2


def stated_units(values: Mapping[str, Any], key: str) -> set[str]:
    """What a structure states under ``KEY_unit``."""
    names = (plain(key) + "unit", plain(key) + "units")
    return {str(value) for name, value in values.items() if plain(name) in names}


def property_unit(stated: set[str], key: str, given: str) -> str:
    """The unit of a property: the one given, else the one that structures state, else empty.

    Raises:
        CovariumError: the files state several.
    """
    if not given and len(stated) > 1:
        raise CovariumError(f"the files state '{key}' in several units, {', '.join(sorted(stated))}; read them apart")
    return given or next(iter(stated), "")


def keys_of(records: Sequence[Record]) -> list[str]:
    return sorted({key for record in records for key in record.values})


def listed(records: Sequence[Record]) -> str:
    """The keys of the records, for messages."""
    return ", ".join(f"'{key}'" for key in keys_of(records)) or "no keys but the structures"


def group_key(records: Sequence[Record], given: str | None) -> str | None:
    """The key whose values name molecules or trajectories: it must tell some frames apart and join others."""
    if given is not None:
        if all(given not in record.values for record in records):
            raise CovariumError(f"no frame has the key '{given}' for groups; the frames have {listed(records)}")
        return given
    for name in GROUPS:
        for key in {key: None for record in records for key in record.values if plain(key) == name}:
            values = [str(record.values[key]) for record in records if np.shape(record.values.get(key, [0])) == ()]
            if 1 < len(set(values)) < len(values):
                return key
    return None


def theory(records: Sequence[Record], notes: list[str]) -> str:
    """What the files state of the level of theory, empty if nothing."""
    found: Counter[str] = Counter()
    for record in records:
        stated = {key: record.values[key] for key in record.values if plain(key) in THEORY}
        found[", ".join(f"{key} {value}" for key, value in sorted(stated.items()) if isinstance(value, str))] += 1
    kinds = [kind for kind in found if kind]
    if len(kinds) > 1 or (kinds and "" in found):
        counts = "; ".join(f"{kind or 'nothing stated'}: {count} frames" for kind, count in found.most_common(5))
        notes.append(f"the frames state different levels of theory ({counts}); their energies may not be comparable")
    return "; ".join(kinds[:5])

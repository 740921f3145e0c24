"""A record of any file as a frame in eV and Å, with everything else it says beside it: what conversion writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.io.jsonio import encode

from covarium.data import labels as labelling
from covarium.data.charges import CHARGES
from covarium.data.conversion import Units, resolve
from covarium.data.frame import Frame
from covarium.data.names import FORCE_CONSISTENT, GROUPS, LABELS, STATED_UNITS, plain
from covarium.data.reading import check_values, frame_of
from covarium.data.record import Record
from covarium.data.store import LABELS as KEPT
from covarium.data.store import Rest
from covarium.errors import CovariumError

KEPT_AS = "original_"  # before the name of a value that would else be taken for a label
STRUCTURE = ("numbers", "positions")  # arrays that are no values
HIDDEN = "its atoms or its labels have another value of that name"
OTHER = "values of other types than numbers, texts and lists of them"


@dataclass(frozen=True)
class Choice:
    """Where labels are: the key of each, None for those the files do not have; the units; the key of groups."""

    keys: dict[str, str | None]
    units: Units
    group: str | None
    theory: str
    notes: list[str]

    @property
    def same_units(self) -> bool:
        return all(size == 1.0 for size in self.units.size.values())


def choose(sample: Sequence[Record], keys: Mapping[str, str], units: Mapping[str, str]) -> Choice:
    """Decide by some records for all.

    Args:
        sample: the first records.
        keys, units: as for ``read``; a given key need not occur in the sample.

    Raises:
        CovariumError: labels are ambiguous, or units unknown or contradicted by the values.
    """
    notes: list[str] = []
    found = {label: keys[label] if label in keys else labelling.choose(sample, label, keys, notes) for label in LABELS}
    resolved = resolve(units, sample)
    group = keys.get("group") or next((key for name in GROUPS for key in _keys_named(sample, name)), None)
    choice = Choice(found, resolved, group, labelling.theory(sample, notes), notes)
    frames = [canonical(record, choice)[0] for record in sample]
    used = [f"{label} from '{key}'" for label, key in found.items() if key is not None]
    notes.append("labels: " + (", ".join(used) or "none"))
    check_values(frames, resolved, resolved.names, notes)
    if group is not None:
        notes.append(f"groups for splitting from '{group}'")
    return choice


def canonical(record: Record, choice: Choice) -> tuple[Frame, Rest, list[str]]:
    """A record as a frame, what it says beside, and what could not be kept.

    Raises:
        CovariumError: a label of the wrong shape, not finite, or under another key than in the records before.
    """
    _refuse_other_names(record, choice)
    labels, used = {}, {key for key in record.values if plain(key) in _stated()}
    if record.atoms.has("tags"):
        used.add("tags")
    for label in KEPT:
        name = "virial" if label == "stress" and choice.keys["stress"] not in record.values else label
        key = choice.keys[name]
        value = None if key is None else labelling.extract(record, name, key, choice.units)
        if value is None and label == "forces" and key is not None and len(record.numbers) == 1:
            value = np.zeros((1, 3))  # by symmetry
        if value is not None and key is not None:
            labels[label] = value
            used.add(key)
    charges = {label: choice.keys[label] for label in CHARGES}
    for label, key in charges.items():
        if key is not None and not labelling.fits(label, record.values.get(key), len(record.numbers)):
            raise CovariumError(f"{record.where} lacks {label} '{key}'; give it to all frames or to none")
    frame = frame_of(record, labels, choice.keys, choice.group, choice.units)
    used |= {key for key in (*charges.values(), choice.keys["fixed"]) if key is not None}
    info: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    left_out = []
    for key, value in record.values.items():
        if key in used or value is None:
            continue
        if not _writable(value):
            left_out.append(f"'{key}': {OTHER}")
            continue
        # a value of the whole may have the name of what every structure has
        part: dict[str, Any] = arrays if key in record.atoms.arrays and key not in STRUCTURE else info
        part[_name(key, choice)] = value
    left_out += [f"'{key}' of the whole structure: {HIDDEN}" for key in record.atoms.info if _hidden(record, key)]
    return frame, Rest(info, arrays), left_out


def _keys_named(sample: Sequence[Record], name: str) -> list[str]:
    return sorted(
        {key for record in sample for key, value in record.values.items() if plain(key) == name and np.ndim(value) == 0}
    )


def _stated() -> set[str]:
    return {name for names in STATED_UNITS.values() for name in names}


def _refuse_other_names(record: Record, choice: Choice) -> None:
    """A label that shows up under a name that was not chosen, in a record without the chosen one."""
    for label, key in choice.keys.items():
        if key is not None and key in record.values:
            continue
        others = [
            other for other, value in record.values.items()
            if plain(other) in LABELS[label] and other not in choice.keys.values()
            and labelling.fits(label, value, len(record.numbers))
        ]  # fmt: skip
        if others:
            before = f"the frames before have it under '{key}'" if key else "the frames before have none"
            raise CovariumError(
                f"{record.where} has {label} under '{others[0]}', {before}. Say which is meant with --set "
                f"data.keys.{label}={others[0]}, or convert these frames separately"
            )


def _name(key: str, choice: Choice) -> str:
    """The key under which a value is kept: its own, unless that would make it a label."""
    name = plain(key)
    if name == FORCE_CONSISTENT and choice.same_units:
        return key
    return KEPT_AS + key if any(name in names for names in LABELS.values()) else key


def _hidden(record: Record, key: str) -> bool:
    """Whether a value of the whole structure gave way to another one of its name."""
    whole, kept = record.atoms.info[key], record.values.get(key)
    return whole is not kept and kept is not None and not np.array_equal(np.ravel(whole), np.ravel(kept))


def _writable(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufcU"
    if isinstance(value, str | int | float | np.number | np.bool_):
        return True
    try:
        encode(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, list | tuple | dict)

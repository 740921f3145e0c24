"""Files of labelled structures to frames. What is inferred is noted, what is unclear is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.data import chemical_symbols

from covarium.data import labels as labelling
from covarium.data.charges import CHARGES, chosen_charge_and_spin
from covarium.data.columns import StoredFrames
from covarium.data.conversion import Units, length_size, resolve
from covarium.data.formats import load, stream
from covarium.data.frame import LABEL_UNITS, Frame
from covarium.data.names import LABELS, NPZ_STRUCTURE, plain
from covarium.data.plausibility import findings
from covarium.data.record import Record, fixes
from covarium.data.store import LABELS as KEPT
from covarium.data.store import SUFFIX, Store, is_store
from covarium.errors import CovariumError, nearest

MANY = 50_000  # frames, from which on files of their own are better than memory


@dataclass(frozen=True)
class Reading:
    """What was read, and how.

    Attributes:
        frames: in the order of the files; those of our own sets are read when they are asked for.
        keys: the key in the files that each label was taken from.
        units: the files' units of ``energy``, ``length``, ``forces``, ``stress``; the frames are in eV and Å.
        theory: the level of theory as the files state it, empty if they do not.
        notes: everything that was inferred, one line each.
        left_out: labels that the files hold and the frames do not, with the reason.
    """

    frames: Sequence[Frame]
    keys: dict[str, str]
    units: dict[str, str]
    theory: str
    notes: list[str]
    left_out: list[str]


def read(
    paths: Sequence[Path],
    *,
    keys: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    need: Sequence[str] = ("energy", "forces"),
    firm: Sequence[str] = (),
    limit: int | None = None,
) -> Reading:
    """Read labelled structures from files that belong together.

    Args:
        paths: anything ASE reads, npz, LMDB and HDF5, plain or compressed with xz, gz or bz2, read into memory; or
            sets of ``covarium data convert``, which stay in their files.
        keys: which key of the files holds ``energy``, ``forces``, ``stress``, ``virial``, ``charge``, ``spin``,
            ``multiplicity``, ``fixed``, ``group``, ``property`` (which has no usual name); for npz also ``positions``,
            ``numbers``, ``cell``, ``pbc``. Others are found under their usual names.
        units: of the files, for ``energy``, ``length``, ``forces`` (else energy/length) and ``stress`` (else
            energy/length³). Those missing are taken from the files where stated, else eV and Å. Naming any of them also
            turns refusals for implausible values into notes. That of ``property`` is recorded and converts nothing.
        need: the labels that every frame must have; others are kept where all frames have them. A single atom needs no
            forces: they are zero by symmetry. With ``property``, energies, forces and stress are not looked for.
        firm: labels that may be absent, but not ambiguous or only in part of the frames.
        limit: read only the first frames of each file, this many.

    Raises:
        CovariumError: a file cannot be read; a needed label is missing, ambiguous, not finite or only in part of the
            frames; units are unknown or contradicted by the values.
    """
    keys, given_units = dict(keys or {}), dict(units or {})
    check_arguments(paths, keys, need, limit)
    if any(is_store(Path(path)) for path in paths):
        return _stored(paths, keys, given_units, need, firm, limit)
    given_unit = given_units.pop("property", "")
    records = [record for path in paths for record in load(Path(path), keys, limit)]
    file_units = resolve(given_units, records)
    notes = [_contents(records)]
    if len(records) > MANY:
        notes.append(f"all of them are held in memory; covarium data convert makes a {SUFFIX} set, which is streamed")
    left_out: list[str] = []
    chosen = _choose(records, keys, need, firm, notes, left_out)
    group = labelling.group_key(records, keys.get("group"))
    values = _labels(records, chosen, need, firm, file_units, notes, left_out)
    _charge_everywhere(records, chosen)
    frames = [frame_of(record, value, chosen, group, file_units) for record, value in zip(records, values, strict=True)]
    used = {label: key for label, key in chosen.items() if key is not None}
    names = file_units.names
    if "property" in used:
        stated = {unit for record in records for unit in labelling.stated_units(record.values, used["property"])}
        names = names | {"property": labelling.property_unit(stated, used["property"], given_unit)}
    notes.append("labels: " + (", ".join(f"{label} from '{key}'" for label, key in used.items()) or "none"))
    used |= {role: keys[role] for role in NPZ_STRUCTURE if role in keys}
    check_values(frames, file_units, names, notes)
    if group is not None:
        used["group"] = group
        notes.append(f"groups for splitting from '{group}'")
    theory = labelling.theory(records, notes)
    return Reading(frames, used, names, theory, notes, left_out)


def _stored(
    paths: Sequence[Path],
    keys: Mapping[str, str],
    units: Mapping[str, str],
    need: Sequence[str],
    firm: Sequence[str],
    limit: int | None,
) -> Reading:
    """Our own sets: everything was chosen, converted and checked when they were made.

    Raises:
        CovariumError: other files among them, settings that mean nothing here, a set that is not complete, that has
            changed bytes, or in which frames lack a needed label.
    """
    foreign = [str(path) for path in paths if not is_store(Path(path))]
    if foreign:
        raise CovariumError(
            f"{foreign[0]} cannot be read together with {SUFFIX} sets; convert it first: covarium data convert "
            f"{foreign[0]} {Path(foreign[0]).name.split('.')[0]}{SUFFIX}"
        )
    meaningless = [*(f"data.keys.{key}" for key in keys if key != "property"),
                   *(f"data.units.{key}" for key in units if key != "property")]  # fmt: skip
    if meaningless:
        raise CovariumError(
            f"{paths[0]} has its keys and units from its conversion; leave out {', '.join(meaningless)}"
        )
    stores = [Store(Path(path)) for path in paths]
    theory = "; ".join(dict.fromkeys(store.header["theory"] for store in stores if store.header["theory"]))
    notes = [stored_contents(stores)]
    if "property" in need:
        if "property" not in keys:
            raise CovariumError(f"{paths[0]}: name the property with --set data.keys.property=KEY")
        frames = StoredFrames(stores, ("property",), limit=limit, key=keys["property"])
        frames.verify()
        unit = _check_property(frames, units.get("property", ""))
        notes += [f"labels: property from '{keys['property']}'", f"property: {unit or 'unit not stated'}"]
        return Reading(frames, {"property": keys["property"]}, {"property": unit}, theory, notes, [])
    labels, left_out = _stored_labels(stores, need, firm)
    frames = StoredFrames(stores, labels, limit=limit)
    frames.verify()
    notes.append(f"labels: {', '.join(labels) or 'none'}, in eV and Å")
    return Reading(frames, {}, {}, theory, notes, left_out)


def _stored_labels(
    stores: Sequence[Store], need: Sequence[str], firm: Sequence[str]
) -> tuple[tuple[str, ...], list[str]]:
    """The labels that all frames have, and those that only some have, with the reason for leaving them out."""
    frames = sum(map(len, stores))
    labels, left_out = [], []
    for label in KEPT:
        have = sum(store.labels[label] for store in stores)
        problem = f"{have:,} of {frames:,} frames have {label}" if have < frames else ""
        if have == frames and label != "energy" and not any(label in store.header["nonzero"] for store in stores):
            problem = f"{label} is exactly zero in all frames; it was lost before conversion"
        if problem and (label in need or (have and label in firm)):
            raise CovariumError(f"{stores[0].path}: {problem}; leave out or label the others before the conversion")
        if not problem:
            labels.append(label)
        elif have:
            left_out.append(f"{label} is left out. {problem}")
    return tuple(labels), left_out


def _check_property(frames: StoredFrames, given: str) -> str:
    """Go through the values of a property once; returns its unit.

    Raises:
        CovariumError: a frame lacks it, some have scalars and some vectors, all are zero, or several units are stated.
    """
    key = str(frames.key)
    first: tuple[int, ...] | None = None
    zero, stated = True, set[str]()
    for store, k in frames.places():
        rest = store.rest(k)
        value = store.property(k, key, rest)
        first = value.shape if first is None else first
        if value.shape != first:
            raise CovariumError(f"'{key}' is a scalar in some frames and a vector in others; separate them")
        zero = zero and not value.any()
        stated |= labelling.stated_units(rest.values, key)
    if zero:
        raise CovariumError(f"{frames.stores[0].path}: property '{key}' is exactly zero in all frames")
    return labelling.property_unit(stated, key, given)


def stored_contents(stores: Sequence[Store]) -> str:
    """One line about sets of ours."""
    frames, atoms = (sum(store.totals[what] for store in stores) for what in ("frame", "atom"))
    names = " ".join(chemical_symbols[z] for z in sorted({z for store in stores for z in store.header["elements"]}))
    periodic = "some periodic" if any("pbc" in store.header["nonzero"] for store in stores) else "not periodic"
    frozen = ", some atoms fixed" if any("fixed" in store.header["nonzero"] for store in stores) else ""
    return f"{frames:,} frames, {atoms:,} atoms, elements {names}, {periodic}{frozen}"


@dataclass(frozen=True)
class Structure:
    """A structure as its file has it: constraints, masses, momenta, info and arrays; its place in the file."""

    atoms: Atoms
    source: str
    index: int


def read_structures(
    paths: Sequence[Path],
    *,
    keys: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[Structure]:
    """All at once; see ``stream_structures``."""
    return list(stream_structures(paths, keys=keys, units=units, limit=limit))


def stream_structures(
    paths: Sequence[Path],
    *,
    keys: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Iterator[Structure]:
    """Read structures for the sake of the structures, one after another: labels are neither looked for nor judged.

    Args:
        paths, limit: as for ``read``.
        keys: as for ``read``; those of labels mean nothing here.
        units: that of ``length`` counts, else the one stated in the file, else Å.

    Raises:
        CovariumError: a file cannot be read, a key does not exist, or the unit of length is unknown or changes.
    """
    keys, units = dict(keys or {}), dict(units or {})
    check_arguments(paths, keys, (), limit)
    first: Record | None = None
    size = 1.0
    for path in paths:
        record = None
        for record in stream(Path(path), keys, limit):
            own = length_size(units, [record] if first is None else [first, record])
            if first is None:
                first, size = record, own
            if own != size:
                raise CovariumError(
                    f"{record.where} states another unit of length than {first.where}; read them separately, or give "
                    "the unit of both with --set data.units.length=Å"
                )
            yield Structure(_structure(record, keys, size), record.source, record.index)
        if record is None:
            raise CovariumError(f"{path} holds no structures")


def _structure(record: Record, keys: Mapping[str, str], size: float) -> Atoms:
    atoms = record.atoms
    atoms.calc = None
    if size != 1.0:
        if atoms.has("momenta"):
            raise CovariumError(f"{record.where} has momenta, and lengths that are not in Å; convert both beforehand")
        # not set_positions and not set_cell, which constraints would stop
        atoms.positions *= size
        atoms.cell[:] *= size
    for label in CHARGES:
        if label in keys:
            if keys[label] not in record.values:
                hint = nearest(keys[label], record.values)
                raise CovariumError(f"{record.where} has no key '{keys[label]}' for {label}{hint}")
            atoms.info.pop(keys[label], None)
            atoms.info[label] = record.values[keys[label]]
    named = [key for key in record.values if key == keys.get("fixed") or plain(key) in LABELS["fixed"]]
    fixed = record.fixed.copy()
    for key in named:
        if labelling.fits("fixed", record.values[key], len(atoms)):
            fixed |= _mask(record, key)
    others = [constraint for constraint in atoms.constraints if not fixes(constraint)]
    atoms.set_constraint([*others, FixAtoms(mask=fixed)] if fixed.any() else others)
    return atoms


def _mask(record: Record, key: str) -> np.ndarray:
    """[n] bool of fixed atoms."""
    mask = np.asarray(record.values[key])
    if not np.isin(mask, (0, 1)).all():
        raise CovariumError(f"{record.where}: '{key}' must mark fixed atoms by 1, others by 0")
    return mask.astype(bool)


def check_arguments(paths: Sequence[Path], keys: Mapping[str, str], need: Sequence[str], limit: int | None) -> None:
    """
    Raises:
        CovariumError: no files, or names that mean nothing.
    """
    if not paths:
        raise CovariumError("no data file was named")
    allowed = (*LABELS, "group", *NPZ_STRUCTURE)
    for name in keys:
        if name not in allowed:
            raise CovariumError(f"data.keys.{name} is unknown{nearest(name, allowed)}; allowed: {', '.join(allowed)}")
    for label in need:
        if label not in LABEL_UNITS:
            hint = nearest(label, LABEL_UNITS)
            raise CovariumError(f"label '{label}' is unknown{hint}; allowed: {', '.join(LABEL_UNITS)}")
    if limit is not None and limit < 1:
        raise CovariumError(f"limit must be at least 1 frame, got {limit}")


def _contents(records: Sequence[Record]) -> str:
    sizes = [len(record.numbers) for record in records]
    elements = np.unique(np.concatenate([record.numbers for record in records]))
    names = " ".join(chemical_symbols[z] if 0 <= z < len(chemical_symbols) else str(z) for z in elements)
    periodic = sorted({int(record.pbc.sum()) for record in records})
    atoms = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    directions = " or ".join("not periodic" if p == 0 else f"periodic in {p} directions" for p in periodic)
    return f"{len(records)} frames of {atoms} atoms, elements {names}, {directions}"


def _choose(
    records: Sequence[Record],
    keys: Mapping[str, str],
    need: Sequence[str],
    firm: Sequence[str],
    notes: list[str],
    left_out: list[str],
) -> dict[str, str | None]:
    """The key of each label; what is unclear is refused if it is needed or firm, else left out."""
    chosen: dict[str, str | None] = {}
    for label in LABELS:
        if "property" in need and label in ("energy", "forces", "stress", "virial"):
            chosen[label] = None
            continue
        optional = label not in (*need, *firm, *keys) and label in (*LABEL_UNITS, "virial")
        try:
            chosen[label] = labelling.choose(records, label, keys, notes)
        except CovariumError as error:
            if not optional:
                raise
            chosen[label] = None
            left_out.append(f"{label} is left out. {error}")
    for label in need:
        found = chosen[label] or (label == "stress" and chosen["virial"])
        if not found and not (label == "forces" and all(len(record.numbers) == 1 for record in records)):
            raise CovariumError(
                f"{records[0].source} has no {label} under a usual name; its keys are {labelling.listed(records)}. "
                f"Name one with --set data.keys.{label}=KEY"
            )
    return chosen


def _labels(
    records: Sequence[Record],
    chosen: dict[str, str | None],
    need: Sequence[str],
    firm: Sequence[str],
    units: Units,
    notes: list[str],
    left_out: list[str],
) -> list[dict[str, np.ndarray]]:
    """The labels of each record in eV and Å, the same ones for all."""
    values: list[dict[str, np.ndarray]] = [{} for _ in records]
    for label in LABEL_UNITS:
        name = "virial" if label == "stress" and chosen["stress"] is None else label
        key = chosen[name]
        if key is None and not (label == "forces" and label in need):
            continue
        column = [None if key is None else labelling.extract(record, name, key, units) for record in records]
        if label == "forces":
            column = _fill_single_atoms(records, column, notes)
        problem = _incomplete(records, column, name, key)
        if problem and label in (*need, *firm):
            raise CovariumError(problem)
        if problem:
            left_out.append(f"{label} is left out. {problem}")
            chosen[name] = None
            continue
        if name == "virial":
            notes.append(f"stress = −'{key}' / volume")
        if label == "property" and len({value.shape for value in column if value is not None}) > 1:
            raise CovariumError(f"'{key}' is a scalar in some frames and a vector in others; separate them")
        for value, slot in zip(column, values, strict=True):
            if value is not None:
                slot[label] = value
    return values


def _incomplete(
    records: Sequence[Record], column: Sequence[np.ndarray | None], label: str, key: str | None
) -> str | None:
    """Why a label cannot be used: some frames lack it, or all its values were lost."""
    missing = [record for record, value in zip(records, column, strict=True) if value is None]
    if missing:
        volume = " with a volume" if label in ("stress", "virial") else ""
        return (
            f"{missing[0].where} is the first of {len(missing)} frames of {len(records)} without {label} '{key}'"
            f"{volume}; leave these frames out or label them"
        )
    if label == "energy" or any(value.any() for value in column if value is not None):
        return None
    # forces vanish by symmetry for single atoms and in perfect crystals, which have another cell in each frame
    cells = {record.cell.tobytes() for record in records if record.pbc.all()}
    if label == "forces" and (all(len(record.numbers) == 1 for record in records) or len(cells) == len(records)):
        return None
    return f"{records[0].source}: {label} '{key}' is exactly zero in all frames; it was lost on writing"


def _fill_single_atoms(
    records: Sequence[Record], column: list[np.ndarray | None], notes: list[str]
) -> list[np.ndarray | None]:
    """The energy of one atom, alone or in a crystal, does not depend on where it is: its force is exactly zero."""
    filled: list[np.ndarray | None] = []
    for record, value in zip(records, column, strict=True):
        filled.append(np.zeros((1, 3)) if value is None and len(record.numbers) == 1 else value)
    count = sum(new is not old for new, old in zip(filled, column, strict=True))
    if count:
        notes.append(f"{count} single-atom frames have no forces; they are zero by symmetry")
    return filled


def frame_of(
    record: Record, labels: dict[str, np.ndarray], chosen: Mapping[str, str | None], group: str | None, units: Units
) -> Frame:
    """A record in eV and Å, with its labels and with charge, spin and frozen atoms under the chosen keys.

    Args:
        record: in its own units.
        labels: in eV and Å.
        chosen: the keys of charge, spin, multiplicity and fixed.
        group: the key of the group.
        units: of the record.

    Raises:
        CovariumError: it is no valid structure, or its charge and spin are impossible.
    """
    charge, spin = chosen_charge_and_spin(
        record.values, chosen, record.numbers, molecule=not record.pbc.any(), where=record.where
    )
    fixed = record.fixed
    if chosen["fixed"] is not None and chosen["fixed"] in record.values:
        fixed = fixed | _mask(record, chosen["fixed"])
    return Frame(
        numbers=record.numbers,
        positions=record.positions * units.size["length"],
        cell=record.cell * units.size["length"],
        pbc=record.pbc,
        labels=labels,
        fixed=fixed,
        charge=charge,
        spin=spin,
        config_type=str(record.values.get("config_type", "")),
        group=str(record.values.get(group, "")) if group is not None else "",
        source=record.source,
        index=record.index,
        tags=record.atoms.get_tags().astype(np.int64),
    )


def _charge_everywhere(records: Sequence[Record], chosen: Mapping[str, str | None]) -> None:
    """Charge and spin on every frame or on none."""
    for label in CHARGES:
        key = chosen[label]
        if key is None:
            continue
        missing = [r for r in records if not labelling.fits(label, r.values.get(key), len(r.numbers))]
        if missing:
            raise CovariumError(
                f"{len(missing)} of {len(records)} frames lack {label} '{key}', the first is {missing[0].where}; "
                "give it to all frames or to none"
            )


def check_values(frames: Sequence[Frame], units: Units, names: Mapping[str, str], notes: list[str]) -> None:
    """Note the units and what the values say of them.

    Args:
        frames: in eV and Å.
        units: of the files.
        names: of the units, with that of a property if there is one.
        notes: are added to.

    Raises:
        CovariumError: the values contradict units that nobody gave.
    """
    if "property" in names:
        unit = names["property"] or "numbers as in the file, unit not stated"
        notes.append(f"units {units.origin}: length {names['length']}; property: {unit}")
    else:
        notes.append(
            f"units {units.origin}: energy {names['energy']}, length {names['length']}, forces {names['forces']}"
        )
    for finding in findings(frames, units.size["energy"]):
        if finding.wrong and units.origin != "given":
            usual = (
                "give its units, for example --set data.units.energy=kcal/mol --set data.units.length=Å, or confirm "
                "these the same way"
            )
            raise CovariumError(
                f"{frames[0].source}: {finding.text}. The file was read in {names['energy']} and {names['length']} "
                f"({units.origin}); {finding.remedy or usual}"
            )
        notes.append(("doubtful, but units were given: " if finding.wrong else "") + finding.text)

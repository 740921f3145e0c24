"""HDF5 files of groups with positions and numbers, as ANI-1, ANI-1x, QM7-X and SPICE are kept, and our own columns.

A group holds one structure, positions [n, 3], or many of one molecule, [M, n, 3]; numbers [n] or [M, n] are atomic
numbers or symbols. To be run by ``processes.apart``: the library may end its process on damaged files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import atomic_numbers

from covarium.data.names import NPZ_STRUCTURE, plain
from covarium.data.record import Damage, Record, from_values
from covarium.data.store import COLUMNS, FrameColumns, as_record, charged, checked_header
from covarium.errors import CovariumError

AT_ONCE = 1000  # structures of a group
MOLECULE = "molecule"  # the key under which the name of the group is given, for splits
STRUCTURE = "structure"  # that of a group of a single structure, whose molecule is the group around it


def hdf5_records(path: Path, source: str, start: int, only: Collection[str] | None = None) -> Iterator[Record | Damage]:
    """The records from ``start`` on, groups in the order of their names; in our own columns also what is damaged.

    Args:
        path: the file.
        source: what it is called in the records.
        start: place of the first record.
        only: the data sets that are read beside positions and numbers; None for all.

    Raises:
        CovariumError: no group with structures, or links out of the file.
    """
    index = 0
    with h5py.File(path, "r") as file:
        if "covarium" in file.attrs:
            yield from _own(_OwnColumns(file, Path(source)), source, start)
            return
        for group in _groups(file, source):
            roles = {role: _role(group, role, source) for role in NPZ_STRUCTURE}
            names = [name for name in group if only is None or name in only or name in roles.values()]
            positions = group[roles["positions"]]
            count = len(positions) if positions.ndim == 3 else 1
            for first in range(0, count, AT_ONCE):
                last = min(first + AT_ONCE, count)
                if index + last - first > start:
                    for record in _structures(group, names, roles, slice(first, last), source, index):
                        if record.index >= start:
                            yield record
                index += last - first


class _OwnColumns(FrameColumns):
    def __init__(self, file: h5py.File, path: Path) -> None:
        self.path = path
        refuse_other_files(file, str(path))
        self.header = checked_header(file.attrs["covarium"], path)
        self._file = file
        for name in COLUMNS:
            if not isinstance(file.get(name), h5py.Dataset) or len(file[name]) != self.totals[COLUMNS[name].per]:
                raise CovariumError(f"{path}: '{name}' is missing or has lost values; copy it again")

    def column(self, name: str) -> np.ndarray:
        return self._file[name]


def _own(columns: _OwnColumns, source: str, start: int) -> Iterator[Record | Damage]:
    for k in range(start, len(columns)):
        try:
            yield as_record(columns.frame(k), columns.rest(k), source, charged=charged(columns.header))
        except OSError as error:  # of the checksums of its chunks
            yield Damage(k, f"it cannot be read: {error}; copy the file again")


def _groups(group: h5py.Group, source: str) -> Iterator[h5py.Group]:
    """Groups that hold structures, at any depth."""
    refuse_other_files(group, source)
    datasets = [group[name] for name in group if isinstance(group[name], h5py.Dataset)]
    if any(plain(dataset.name.rsplit("/", 1)[-1]) in NPZ_STRUCTURE["positions"] for dataset in datasets):
        yield group
    for name in group:
        if isinstance(group[name], h5py.Group):
            yield from _groups(group[name], source)


def refuse_other_files(group: h5py.Group, source: str) -> None:
    """
    Raises:
        CovariumError: a member of the group is a link to another file, or keeps its values in one.
    """
    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise CovariumError(
                f"{source}: '{group.name}/{name}' is a link to another file, {link.filename}; not followed"
            )
        member = group[name]
        if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
            raise CovariumError(f"{source}: '{member.name}' keeps its values in other files; they are not read")


def _role(group: h5py.Group, role: str, source: str) -> Any:  # noqa: ANN401  (a str, or None where optional)
    found = [name for name in group if isinstance(group[name], h5py.Dataset) and plain(name) in NPZ_STRUCTURE[role]]
    if len(found) > 1 or (not found and role in ("positions", "numbers")):
        has = ", ".join(f"{name} {list(group[name].shape)}" for name in group if isinstance(group[name], h5py.Dataset))
        problem = f"has several data sets that may be the {role}" if found else f"has no data set for the {role}"
        raise CovariumError(f"{source}: group '{group.name}' {problem}; it has {has}")
    return found[0] if found else None


def _structures(
    group: h5py.Group, names: Sequence[str], roles: Mapping[str, Any], rows: slice, source: str, index: int
) -> Iterator[Record]:
    """The structures of some rows of the named data sets of a group."""
    arrays: dict[str, Any] = {}
    positions = group[roles["positions"]]
    many = positions.ndim == 3
    n = positions.shape[-2] if positions.ndim in (2, 3) else -1
    if n < 0 or positions.shape[-1] != 3 or positions.dtype.kind != "f":
        raise CovariumError(
            f"{source}: '{positions.name}' holds {positions.dtype} of shape {list(positions.shape)}, expected floats "
            "[structures, atoms, 3] or [atoms, 3]"
        )
    each = {}
    for name in names:
        dataset = group[name]
        if isinstance(dataset, h5py.Dataset):
            each[name] = many and dataset.ndim > 0 and len(dataset) == len(positions) and name != roles["numbers"]
            if name == roles["numbers"]:
                each[name] = many and dataset.ndim == 2
            arrays[name] = _read(dataset, rows if each[name] else None, source)
    place, _, own = (group.name, "", "") if many else group.name.rpartition("/")
    for k in range(rows.stop - rows.start):
        values = {name: array[k] if each[name] else array for name, array in arrays.items()}
        if not many:
            values[roles["positions"]] = arrays[str(roles["positions"])]
        if own:
            values.setdefault(STRUCTURE, own)
        yield _record(values, roles, place, source, index + k)


def _read(dataset: h5py.Dataset, rows: slice | None, source: str) -> Any:  # noqa: ANN401
    rows_: Any = () if rows is None else rows
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return dataset.asstr(errors="replace")[rows_]
    if dataset.dtype.kind not in "biufS":
        raise CovariumError(f"{source}: '{dataset.name}' holds {dataset.dtype} values; numbers and strings are read")
    return dataset[rows_]


def _record(values: dict[str, Any], roles: Mapping[str, str | None], place: str, source: str, index: int) -> Record:
    where = f"{source}, frame {index}"
    structure = {role: values.pop(name) for role, name in roles.items() if name is not None}
    numbers = structure["numbers"]
    if numbers.dtype.kind in "OSU":
        symbols = [x.decode() if isinstance(x, bytes) else str(x) for x in numbers]
        unknown = [symbol for symbol in symbols if symbol not in atomic_numbers]
        if unknown:
            raise CovariumError(f"{where}: '{unknown[0]}' is not a chemical symbol")
        numbers = np.array([atomic_numbers[symbol] for symbol in symbols], dtype=np.int64)
    positions = structure["positions"].astype(np.float64)
    if numbers.shape != positions.shape[:1]:
        raise CovariumError(f"{where}: {list(numbers.shape)} numbers for positions {list(positions.shape)}")
    cell = np.asarray(structure.get("cell", np.zeros((3, 3))), dtype=np.float64).reshape(3, 3)
    pbc = np.broadcast_to(structure.get("pbc", cell.any()), 3).astype(bool)
    plain_values = {name: _plain(value) for name, value in values.items()}
    if place not in ("", "/"):
        plain_values.setdefault(MOLECULE, place.strip("/"))
    return from_values(numbers, positions, cell, pbc, plain_values, source, index)


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Single numbers and strings out of their arrays; symbols as text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray) and value.dtype.kind in "OS":
        texts = [x.decode(errors="replace") if isinstance(x, bytes) else str(x) for x in value.ravel()]
        return texts[0] if len(texts) == 1 else texts
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.item()
    return value.item() if isinstance(value, np.generic) else value

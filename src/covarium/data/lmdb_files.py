"""LMDB files: ASE's rows (``.aselmdb``, as OMat and OC25 are kept) and OC20's pickled records (S2EF, IS2RE).

To be run by ``processes.apart``: LMDB maps its file, and a truncated one ends the process.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from ase.db.row import AtomsRow
from ase.io.jsonio import decode

from covarium.data import oc20
from covarium.data.record import Damage, Record, from_row, from_values
from covarium.errors import CovariumError

# what the records call the labels; y_relaxed and pos_relaxed of IS2RE are not labels of the structure at pos
OC20_NAMES = {"y": "energy", "force": "forces"}
STRUCTURE = ("pos", "atomic_numbers", "cell", "pbc", "fixed")


def lmdb_records(path: Path, source: str, start: int) -> Iterator[Record | Damage]:
    """The records from ``start`` on, and what is damaged.

    Raises:
        CovariumError: neither layout, or a file damaged as a whole.
    """
    with lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False) as environment:
        with environment.begin() as view:
            if view.get(b"nextid") is not None:
                yield from _ase_rows(view, source, start)
            elif (view.get(b"0") or b"").startswith(b"\x80"):
                yield from _oc20_records(view, source, start, environment.stat()["entries"])
            else:
                keys = [bytes(key[:20]) for key, _ in zip(view.cursor().iternext(values=False), range(5), strict=False)]
                raise CovariumError(
                    f"{source} holds neither ASE rows nor OC20 records; its first keys are {keys}. Convert it "
                    "with the program that made it"
                )


def _ase_rows(view: lmdb.Transaction, source: str, start: int) -> Iterator[Record | Damage]:
    deleted = set(_json(view, b"deleted_ids", source) or ())
    ids = [k for k in range(1, int(_json(view, b"nextid", source))) if k not in deleted]
    metadata = dict(_json(view, b"metadata", source) or {})
    for index in range(start, len(ids)):
        try:
            row = _json(view, str(ids[index]).encode(), f"its row {ids[index]}")
        except CovariumError as error:
            yield Damage(index, str(error))
            continue
        if row is None:
            yield Damage(index, f"its row {ids[index]} is missing; the file is truncated, copy it again")
            continue
        try:
            # OC20's own databases may lack what ASE's class insists on
            whole = AtomsRow({"unique_id": "", "user": "", "ctime": 0.0, "mtime": 0.0, **row})
            record = from_row(whole, metadata, source, index)
        except Exception as error:  # ASE raises every kind of exception on damaged rows
            yield Damage(index, f"its row {ids[index]} is no structure: {str(error) or type(error).__name__}")
            continue
        yield record


def _json(view: lmdb.Transaction, key: bytes, where: str) -> Any:  # noqa: ANN401
    content = view.get(key)
    if content is None:
        return None
    try:
        return decode(zlib.decompress(content).decode())
    except (zlib.error, ValueError) as error:
        raise CovariumError(f"{where} is damaged ({key!r}: {error}); copy the file again") from error


def _oc20_records(view: lmdb.Transaction, source: str, start: int, entries: int) -> Iterator[Record | Damage]:
    length = view.get(b"length")
    count = entries if length is None else oc20.read_number(bytes(length))
    for index in range(start, min(count, entries)):
        content = view.get(str(index).encode())
        if content is None:
            yield Damage(index, "it is missing; copy the file again")
            continue
        try:
            yield _from_oc20(oc20.read_record(bytes(content)), source, index)
        except CovariumError as error:
            yield Damage(index, str(error))
    if count > entries:
        yield Damage(entries, f"it and all after it are missing, the file says it has {count}; copy it again")


def _from_oc20(fields: dict[str, Any], source: str, index: int) -> Record:
    """Slabs and their adsorbates are periodic in all directions; the records of older files do not say so."""
    for name in ("pos", "atomic_numbers"):
        if not isinstance(fields.get(name), np.ndarray):
            raise CovariumError(f"it has no {name}, only {', '.join(sorted(fields))}")
    numbers = fields["atomic_numbers"].reshape(-1)
    given = {name: np.asarray(fields[name]) for name in ("cell", "pbc", "fixed") if fields.get(name) is not None}
    cell = given.get("cell", np.zeros((3, 3))).reshape(3, 3)
    pbc = given.get("pbc", np.full(3, cell.any())).reshape(3)
    fixed = given.get("fixed", np.zeros(len(numbers))).astype(bool).reshape(-1)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name in STRUCTURE or name in oc20.DERIVED or value is None:
            continue
        values[OC20_NAMES.get(name, name)] = (
            value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
        )
    return from_values(numbers, fields["pos"], cell, pbc, values, source, index, fixed)

"""Files to records: what each structure of a file says, under the file's own keys and in its own units.

Everything ASE reads, ASE data bases with their key-value pairs and data, LMDB, HDF5, npz and our own sets; plain or
compressed (xz, gz, bz2).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.jsonio import decode

from covarium.data.hdf5_files import hdf5_records
from covarium.data.lmdb_files import lmdb_records
from covarium.data.names import NPZ_STRUCTURE, REST, STATED_UNITS, plain
from covarium.data.processes import ProcessLost, apart
from covarium.data.record import Record, from_atoms, from_row
from covarium.data.store import Store, is_store, stored_records
from covarium.errors import CovariumError, nearest

OPENERS: Mapping[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
SHARDED = (".aselmdb", ".lmdb", ".h5", ".hdf5")  # kinds of files that make up one set in a folder


def load(path: Path, keys: Mapping[str, str], limit: int | None) -> list[Record]:
    """The records of one file or set, the first ``limit`` of them; arguments and errors as of ``records``."""
    return list(islice(records(path, keys), limit))


def records(path: Path, keys: Mapping[str, str], after: tuple[str, int] | None = None) -> Generator[Record, None, None]:
    """The records of one file or set, one after another.

    Args:
        path: the file, a second suffix .xz, .gz or .bz2 is decompressed first; or a folder: a set of ``covarium data
            convert``, or the LMDB or HDF5 files that make up one set.
        keys: for npz only, the arrays that hold ``positions``, ``numbers``, ``cell`` and ``pbc``.
        after: source and index of the record after which to begin.

    Raises:
        CovariumError: the file is missing, damaged, empty, or of a kind that cannot be read.
    """
    files = parts(path)
    found = after is not None
    if after is not None:
        if after[0] not in map(str, files):
            raise CovariumError(f"{path} has no file {after[0]} any more; the set has changed since it was begun")
        files = files[[str(file) for file in files].index(after[0]) :]
    for file in files:
        start = after[1] + 1 if after is not None and str(file) == after[0] else 0
        for record in _one(file, keys, start):
            found = True
            yield record
    if not found:
        raise CovariumError(f"{path} holds no structures")


def parts(path: Path) -> list[Path]:
    """The files of a set, in the order of the numbers in their names; the file itself for a single one.

    Raises:
        CovariumError: there is no such file, or the folder is no set.
    """
    if path.is_dir() and not is_store(path) and not (path / "data.mdb").is_file():
        shards = [file for file in path.iterdir() if file.suffix.lower() in SHARDED]
        if not shards:
            raise CovariumError(
                f"data file {path} is a folder without {', '.join(SHARDED)} files; give the files in it"
            )
        return sorted(shards, key=lambda file: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", file.name)])
    if not path.exists():
        there = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CovariumError(f"data file {path} is not there{nearest(path.name, there)}")
    return [path]


def _one(path: Path, keys: Mapping[str, str], start: int) -> Iterator[Record]:
    opener = OPENERS.get(path.suffix.lower())
    try:
        if opener is None:
            yield from _plain_file(path, str(path), keys, start)
        else:
            # decompressed once, to disk: readers seek, which in a compressed stream costs quadratic time
            with tempfile.TemporaryDirectory(prefix="covarium-") as folder:
                unpacked = Path(folder) / path.stem
                with opener(path, "rb") as packed, unpacked.open("wb") as out:
                    shutil.copyfileobj(packed, out)
                for neighbour in ("CONTCAR", "POSCAR"):  # an OUTCAR keeps its fixed atoms there
                    if path.stem.startswith("OUTCAR") and (path.parent / neighbour).is_file():
                        shutil.copy(path.parent / neighbour, folder)
                yield from _plain_file(unpacked, str(path), keys, start)
    except ProcessLost as error:
        raise CovariumError(f"{path} is truncated or damaged: {error}. Copy it again") from error
    except CovariumError:
        raise
    except Exception as error:  # readers of foreign formats raise every kind of exception on damaged files
        reason = str(error) or type(error).__name__
        raise CovariumError(
            f"{path} cannot be read: {reason}; readable are the formats of ASE (extxyz, .traj, .db, vasprun.xml, "
            "OUTCAR, …), .npz, .aselmdb, .lmdb, .h5 and .frames, plain or compressed with xz, gz or bz2"
        ) from error


def _plain_file(path: Path, source: str, keys: Mapping[str, str], start: int) -> Iterator[Record]:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        yield from _load_npz(path, source, keys, start)
        return
    for role in NPZ_STRUCTURE:
        if role in keys:
            raise CovariumError(f"{source}: data.keys.{role} is for npz files only; the format says where they are")
    if is_store(path):
        yield from stored_records(Store(path), source, start)
    elif suffix in (".lmdb", ".aselmdb", ".mdb") or path.is_dir():
        yield from apart(lmdb_records, path, source, start)
    elif suffix in (".h5", ".hdf5"):
        yield from apart(hdf5_records, path, source, start)
    elif suffix in (".db", ".json"):
        yield from _load_db(path, source, start)
    else:
        seeks = suffix in (".xyz", ".extxyz", ".traj")
        images = ase.io.iread(path, index=f"{start}:") if seeks else islice(ase.io.iread(path, index=":"), start, None)
        for index, atoms in enumerate(images, start):
            yield from_atoms(atoms, atoms.info, source, index)


def _load_db(path: Path, source: str, start: int) -> Iterator[Record]:
    with ase.db.connect(path, serial=True) as rows:
        stated = _db_units(rows.metadata)
        for index, row in enumerate(rows.select(offset=start), start):
            yield from_row(row, stated, source, index)


def _db_units(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Units as schnetpack states them in the data base's metadata."""
    stated = {STATED_UNITS["length"][0]: metadata.get("_distance_unit")}
    for label, unit in metadata.get("_property_unit_dict", {}).items():
        if label in ("energy", "forces"):
            stated[STATED_UNITS[label][0]] = unit
    return {key: unit for key, unit in stated.items() if unit}


def _load_npz(path: Path, source: str, keys: Mapping[str, str], start: int) -> Iterator[Record]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise CovariumError(f"{source} is not a readable npz file of plain arrays: {error}") from error
    positions_key = _npz_key(arrays, "positions", keys, source)
    numbers_key = _npz_key(arrays, "numbers", keys, source)
    positions = arrays[positions_key]
    if positions.ndim != 3 or positions.shape[2] != 3 or positions.dtype.kind != "f":
        raise CovariumError(
            f"{source}: '{positions_key}' holds {positions.dtype} of shape {list(positions.shape)}, expected floats "
            "[frames, atoms, 3] (smaller molecules filled up with atomic number 0)"
        )
    frames, size = positions.shape[:2]
    numbers = _atomic_numbers(arrays[numbers_key], f"{source}: '{numbers_key}'")
    if numbers.shape not in ((size,), (frames, size)):
        raise CovariumError(
            f"{source}: '{numbers_key}' has shape {numbers.shape}, expected [{size}] or [{frames}, {size}] as "
            f"'{positions_key}' has {frames} frames of {size} atoms"
        )
    numbers = np.broadcast_to(numbers, (frames, size))
    cell_key = _npz_key(arrays, "cell", keys, source, optional=True)
    cells = np.zeros((3, 3)) if cell_key is None else arrays[cell_key]
    cells = np.broadcast_to(cells.reshape(-1, 3, 3), (frames, 3, 3))
    pbc_key = _npz_key(arrays, "pbc", keys, source, optional=True)
    pbc = np.full(3, cell_key is not None) if pbc_key is None else arrays[pbc_key].astype(bool)
    pbc = np.broadcast_to(pbc, (frames, 3))
    structure = {positions_key, numbers_key, cell_key, pbc_key}
    others = {name: array for name, array in arrays.items() if name not in structure}
    for index in range(start, frames):
        real = numbers[index] > 0  # zeros fill up the shorter molecules
        values = {name: _npz_value(array, index, frames, real) for name, array in others.items()}
        rest = values.pop(REST, "")
        values |= decode(rest) if rest else {}
        atoms = Atoms(
            numbers[index][real].astype(np.int64), positions[index][real].astype(np.float64),
            cell=cells[index].astype(np.float64), pbc=pbc[index],
            info={name: value for name, value in values.items() if np.ndim(value) == 0},
        )  # fmt: skip
        yield Record(
            numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc,
            fixed=np.zeros(len(atoms), dtype=bool), values=values, atoms=atoms, source=source, index=index,
        )  # fmt: skip


def _npz_value(array: np.ndarray, index: int, frames: int, real: np.ndarray) -> Any:  # noqa: ANN401  (a foreign file's)
    """Frame ``index`` of an array that has one entry per frame, the whole array otherwise."""
    if array.ndim == 0 or array.shape[0] != frames:
        return array.item() if array.ndim == 0 else array
    value = array[index]
    if value.ndim and value.shape[0] == len(real):
        return value[real]
    return value.item() if value.size == 1 else value


def _npz_key(
    arrays: Mapping[str, np.ndarray], role: str, keys: Mapping[str, str], source: str, *, optional: bool = False
) -> Any:  # noqa: ANN401  (a str, or None where optional)
    """The array that plays a role: the given one, or the only one with a usual name."""
    given = keys.get(role)
    if given is not None:
        if given not in arrays:
            hint = nearest(given, arrays)
            raise CovariumError(f"{source} has no array '{given}' for {role}{hint}; it has {_listed(arrays)}")
        return given
    found = [name for name in arrays if plain(name) in NPZ_STRUCTURE[role]]
    if len(found) == 1:
        return found[0]
    if not found and optional:
        return None
    choice = found[0] if found else "NAME"
    remedy = f"--set data.keys.{role}={choice}"
    problem = f"has several arrays that may be the {role}: {', '.join(found)}"
    if not found:
        problem = f"has no array with a usual name for the {role}"
        prefixes = [name[: -len("R")] for name in arrays if name.endswith("_R")]  # train_R, test_R, …
        if prefixes:
            problem = f"holds several sets of structures, {', '.join(prefix + 'R' for prefix in prefixes)}"
            usual = {"positions": "R", "numbers": "species", "energy": "E", "forces": "F"}
            named = {label: prefixes[0] + name for label, name in usual.items() if prefixes[0] + name in arrays}
            remedy = " ".join(f"--set data.keys.{label}={name}" for label, name in named.items())
    raise CovariumError(f"{source} {problem}; it has {_listed(arrays)}. Choose, for example with {remedy}")


def _listed(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())


def _atomic_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Atomic numbers from numbers or chemical symbols."""
    if array.dtype.kind in "US":
        symbols: Iterable[str] = [str(symbol) for symbol in array.astype(str).ravel()]
        unknown = sorted({symbol for symbol in symbols if symbol and symbol not in atomic_numbers})
        if unknown:
            raise CovariumError(f"{name} has '{unknown[0]}', which is not a chemical symbol")
        return np.array([atomic_numbers[symbol] if symbol else 0 for symbol in symbols]).reshape(array.shape)
    if array.dtype.kind not in "iuf" or (array != np.round(array)).any():
        raise CovariumError(f"{name} holds {array.dtype} values, expected atomic numbers or chemical symbols")
    return array.astype(np.int64)

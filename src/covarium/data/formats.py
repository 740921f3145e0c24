"""Files to records: what each structure of a file says, under the file's own keys and in its own units.

Everything ASE reads, ASE data bases with their key-value pairs and data, and npz; plain or compressed (xz, gz, bz2).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.data import atomic_numbers

from covarium.data.names import NPZ_STRUCTURE, STATED_UNITS, plain
from covarium.data.xyz import SUFFIXES, Damaged, refuse
from covarium.data.xyz import images as xyz_images
from covarium.errors import CovariumError, nearest

OPENERS: Mapping[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
GROWTH = (2**30, 1000)  # bytes, times the size on disk: text of structures shrinks to a third or, repeated, to 1 %
PART = 2**20  # bytes that are decompressed at a time


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


def load(path: Path, keys: Mapping[str, str], limit: int | None) -> list[Record]:
    """The records of one file, the first ``limit`` of them; see ``stream``.

    Raises:
        CovariumError: the file is missing, damaged, empty, or of a kind that cannot be read.
    """
    records = list(stream(path, keys, limit))
    if not records:
        raise CovariumError(f"{path} holds no structures")
    return records


def stream(
    path: Path, keys: Mapping[str, str], limit: int | None = None, damaged: Damaged = refuse
) -> Iterator[Record]:
    """The records of one file one after another.

    Args:
        path: the file; a second suffix .xz, .gz or .bz2 is decompressed first.
        keys: for npz only, the arrays that hold ``positions``, ``numbers``, ``cell`` and ``pbc``.
        limit: None for all.
        damaged: told the place of a frame that cannot be read, and why, where the others still can be.

    Raises:
        CovariumError: the file is missing, of a kind that cannot be read, or damaged beyond single frames.
    """
    if not path.is_file():
        there = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        kind = "is a folder; give the files in it" if path.is_dir() else f"is not there{nearest(path.name, there)}"
        raise CovariumError(f"data file {path} {kind}")
    try:
        with _unpacked(path) as plain_path:
            yield from islice(_plain(plain_path, str(path), keys, limit, damaged), limit)
    except CovariumError as error:
        named = str(error) if str(path) in str(error) else f"{path}, {error}"
        raise CovariumError(named) from error
    except Exception as error:  # readers of foreign formats raise every kind of exception on damaged files
        reason = str(error) or type(error).__name__
        raise CovariumError(
            f"{path} cannot be read: {reason}; readable are the formats of ASE (extxyz, .traj, .db, vasprun.xml, "
            "OUTCAR, …) and .npz, plain or compressed with xz, gz or bz2"
        ) from error


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or what is compressed in it as a file.

    Raises:
        CovariumError: it grows beyond all measure.
    """
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        yield path
        return
    # decompressed once, to disk: readers seek, which in a compressed stream costs quadratic time
    with tempfile.TemporaryDirectory(prefix="covarium-") as folder:
        place = Path(folder) / path.stem
        room = GROWTH[0] + GROWTH[1] * path.stat().st_size
        with opener(path, "rb") as packed, place.open("wb") as out:
            while part := packed.read(PART):
                room -= out.write(part)
                if room < 0:
                    raise CovariumError(
                        f"{path} grows to more than {GROWTH[1]} times its size; decompress it yourself if that is right"
                    )
        for neighbour in ("CONTCAR", "POSCAR"):  # an OUTCAR keeps its fixed atoms there
            if path.stem.startswith("OUTCAR") and (path.parent / neighbour).is_file():
                shutil.copy(path.parent / neighbour, folder)
        yield place


def _plain(path: Path, source: str, keys: Mapping[str, str], limit: int | None, damaged: Damaged) -> Iterator[Record]:
    if path.suffix == ".npz":
        yield from _load_npz(path, source, keys, limit)
        return
    for role in NPZ_STRUCTURE:
        if role in keys:
            raise CovariumError(f"{source}: data.keys.{role} is for npz files only; the format says where they are")
    if path.suffix in (".db", ".json"):
        yield from _load_db(path, source, limit)
        return
    if path.suffix.lower() in SUFFIXES:
        images = xyz_images(path, damaged)
    else:
        # an "@" in a name is no index
        images = enumerate(ase.io.iread(path, index=":", do_not_split_by_at_sign=True))
    for index, atoms in images:
        yield _from_atoms(atoms, atoms.info, source, index)


def _from_atoms(atoms: Atoms, info: Mapping[str, Any], source: str, index: int) -> Record:
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


def _load_db(path: Path, source: str, limit: int | None) -> Iterator[Record]:
    with ase.db.connect(path, serial=True) as rows:
        stated = _db_units(rows.metadata)
        for index, row in enumerate(rows.select(limit=limit)):
            # schnetpack keeps an energy as an array of one number
            data = {key: value[0] if np.shape(value) == (1,) else value for key, value in row.data.items()}
            yield _from_atoms(row.toatoms(), {**stated, **data, **row.key_value_pairs}, source, index)


def _db_units(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Units as schnetpack states them in the data base's metadata."""
    stated = {STATED_UNITS["length"][0]: metadata.get("_distance_unit")}
    for label, unit in metadata.get("_property_unit_dict", {}).items():
        stated[STATED_UNITS[label][0] if label in ("energy", "forces") else f"{label}_unit"] = unit
    return {key: unit for key, unit in stated.items() if unit}


def _load_npz(path: Path, source: str, keys: Mapping[str, str], limit: int | None) -> Iterator[Record]:
    try:
        _refuse_growth(path, source)
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
    for index in range(frames if limit is None else min(limit, frames)):
        real = numbers[index] > 0  # zeros fill up the shorter molecules
        fixed = np.zeros(int(real.sum()), dtype=bool)
        values = {name: _npz_value(array, index, frames, real) for name, array in others.items()}
        atoms = Atoms(
            numbers[index][real].astype(np.int64), positions[index][real].astype(np.float64),
            cell=cells[index].astype(np.float64), pbc=pbc[index],
            info={name: value for name, value in values.items() if np.ndim(value) == 0},
        )  # fmt: skip
        yield Record(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            fixed=fixed,
            values=values,
            atoms=atoms,
            source=source,
            index=index,
        )


def _refuse_growth(path: Path, source: str) -> None:
    """Before an archive is unpacked into memory.

    Raises:
        CovariumError: it grows beyond all measure.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > GROWTH[0] + GROWTH[1] * path.stat().st_size:
        raise CovariumError(f"{source} grows to {size / 2**30:.0f} GiB, more than {GROWTH[1]} times its size")


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

"""NumPy archives of arrays [frames, atoms, …], as rMD17 and many others are kept, and our own; or of all atoms one
after another, [atoms of all frames, …], with their numbers in ``n_atoms``."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from ase.io.jsonio import decode

from covarium.data.names import LABELS, NPZ_SIZES, NPZ_STRUCTURE, REST, REST_ARRAYS, plain
from covarium.data.record import GROWTH, Record, from_values
from covarium.errors import CovariumError, nearest

# 3 rows of a stress are not those of 3 atoms
MATRICES, NONE = {*LABELS["stress"], *LABELS["virial"]}, np.zeros(0, dtype=bool)


def npz_records(path: Path, source: str, keys: Mapping[str, str], start: int) -> Iterator[Record]:
    """The records from ``start`` on.

    Raises:
        CovariumError: it is no archive of plain arrays, grows beyond all measure, or lacks positions or numbers.
    """
    _, arrays = npz_arrays(path, source)
    positions_key = _npz_key(arrays, "positions", keys, source)
    numbers_key = _npz_key(arrays, "numbers", keys, source)
    positions = arrays[positions_key]
    if positions.ndim == 2:
        yield from _joined(arrays, (positions_key, numbers_key), source, start)
        return
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
        values = {
            name: _npz_value(array, index, frames, NONE if plain(name) in MATRICES else real)
            for name, array in others.items()
        }
        rest, per_atom = (decode(text) if (text := values.pop(name, "")) else {} for name in (REST, REST_ARRAYS))
        yield from_values(
            numbers[index][real], positions[index][real], cells[index], pbc[index], values | rest, source, index,
            arrays=per_atom,
        )  # fmt: skip


def npz_arrays(
    path: Path, source: str, wanted: Collection[str] | None = None
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The names of all arrays of an archive, and the arrays of the ``wanted`` names, None for all.

    Raises:
        CovariumError: it is no archive of plain arrays, or grows beyond all measure.
    """
    try:
        _refuse_growth(path, source)
        with np.load(path, allow_pickle=False) as archive:
            return archive.files, {name: archive[name] for name in archive.files if wanted is None or name in wanted}
    except (ValueError, zipfile.BadZipFile) as error:
        raise CovariumError(f"{source} is not a readable npz file of plain arrays: {error}") from error


def _joined(arrays: Mapping[str, np.ndarray], structure: tuple[str, str], source: str, start: int) -> Iterator[Record]:
    """Structures of different sizes one after another; whole numbers for positions are in the unit of length too.

    Raises:
        CovariumError: the numbers of atoms are missing, ambiguous, or do not add up.
    """
    positions, numbers = arrays[structure[0]], _atomic_numbers(arrays[structure[1]], f"{source}: '{structure[1]}'")
    found = [name for name in arrays if plain(name) in NPZ_SIZES]
    if len(found) != 1 or positions.shape[1:] != (3,) or positions.dtype.kind not in "fiu":
        raise CovariumError(
            f"{source}: '{structure[0]}' holds {positions.dtype} of shape {list(positions.shape)}, expected floats "
            "[frames, atoms, 3], or [atoms of all frames, 3] beside one array of their numbers "
            f"({', '.join(NPZ_SIZES)}); it has {_listed(arrays)}"
        )
    sizes = arrays[found[0]].astype(np.int64)
    if sizes.ndim != 1 or (sizes < 1).any() or not sizes.sum() == len(positions) == len(numbers):
        raise CovariumError(
            f"{source}: '{found[0]}' counts {int(sizes.sum())} atoms in {sizes.size} frames, '{structure[0]}' has "
            f"{len(positions)} and '{structure[1]}' {len(numbers)}"
        )
    ends = np.cumsum(sizes)
    others = {name: array for name, array in arrays.items() if name not in (*structure, *found)}
    for index in range(start, len(sizes)):
        rows = slice(ends[index] - sizes[index], ends[index])
        values = {}
        for name, array in others.items():
            per_atom = array.ndim > 0 and len(array) == len(positions)
            values[name] = array[rows] if per_atom else _npz_value(array, index, len(sizes), np.zeros(0))
        yield from_values(numbers[rows], positions[rows], np.zeros((3, 3)), np.zeros(3, bool), values, source, index)


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

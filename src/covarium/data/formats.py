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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import ase.db
import ase.io
from ase import Atoms

from covarium.data.hdf5_files import hdf5_records
from covarium.data.lmdb_files import lmdb_records
from covarium.data.names import NPZ_STRUCTURE
from covarium.data.npz_files import npz_records
from covarium.data.processes import ProcessLost, ProcessStalled, apart
from covarium.data.record import GROWTH, Damage, Record, from_atoms, from_row
from covarium.data.store import Store, is_store, stored_records
from covarium.data.xyz import SUFFIXES, Damaged, refuse
from covarium.data.xyz import images as xyz_images
from covarium.errors import CovariumError, nearest

OPENERS: Mapping[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
PART = 2**20  # bytes that are decompressed at a time
SHARDED = (".aselmdb", ".lmdb", ".h5", ".hdf5")  # kinds of files that make up one set in a folder


def load(path: Path, keys: Mapping[str, str], limit: int | None) -> list[Record]:
    """The records of one file or set, the first ``limit`` of them; see ``stream``.

    Raises:
        CovariumError: the file is missing, damaged, empty, or of a kind that cannot be read.
    """
    records = list(stream(path, keys, limit))
    if not records:
        raise CovariumError(f"{path} holds no structures")
    return records


def stream(
    path: Path,
    keys: Mapping[str, str],
    limit: int | None = None,
    damaged: Damaged = refuse,
    after: tuple[str, int] | None = None,
) -> Generator[Record, None, None]:
    """The records of one file or set, one after another.

    Args:
        path: the file, a second suffix .xz, .gz or .bz2 is decompressed first; or a folder: a set of ``covarium data
            convert``, or the LMDB or HDF5 files that make up one set.
        keys: for npz only, the arrays that hold ``positions``, ``numbers``, ``cell`` and ``pbc``.
        limit: None for all.
        damaged: told the place of a frame that cannot be read, and why, where the others still can be.
        after: source and index of the record after which to begin.

    Raises:
        CovariumError: the file is missing, of a kind that cannot be read, or damaged beyond single frames.
    """
    files = parts(path)
    names = [str(file) for file in files]
    start = 0
    if after is not None:
        if after[0] not in names:
            raise CovariumError(f"{path} has no file {after[0]} any more; the set has changed since it was begun")
        files, start = files[names.index(after[0]) :], after[1] + 1
    left = limit
    for file in files:
        for record in islice(_one(file, keys, start, left, damaged), left):
            left = None if left is None else left - 1
            yield record
        if left == 0:
            return
        start = 0


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


def _one(path: Path, keys: Mapping[str, str], start: int, limit: int | None, damaged: Damaged) -> Iterator[Record]:
    try:
        with _unpacked(path) as plain_path:
            yield from _plain(plain_path, str(path), keys, start, limit, damaged)
    except ProcessStalled as error:
        raise CovariumError(f"{path} is damaged, or its disk does not answer: {error}. Else copy it again") from error
    except ProcessLost as error:
        raise CovariumError(f"{path} is truncated or damaged: {error}. Copy it again") from error
    except CovariumError as error:
        named = str(error) if str(path) in str(error) else f"{path}, {error}"
        raise CovariumError(named) from error
    except Exception as error:  # readers of foreign formats raise every kind of exception on damaged files
        reason = str(error) or type(error).__name__
        raise CovariumError(
            f"{path} cannot be read: {reason}; readable are the formats of ASE (extxyz, .traj, .db, vasprun.xml, "
            "OUTCAR, …), .npz, .aselmdb, .lmdb, .h5 and .frames, plain or compressed with xz, gz or bz2"
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
    with _temporary_folder() as folder:
        place = Path(folder) / path.stem
        room = GROWTH[0] + GROWTH[1] * path.stat().st_size
        with opener(path, "rb") as packed, place.open("wb", buffering=0) as out:
            while part := packed.read(PART):
                try:
                    room -= out.write(part)
                except OSError as error:
                    raise _no_place(error) from error
                if room < 0:
                    raise CovariumError(
                        f"{path} grows to more than {GROWTH[1]} times its size; decompress it yourself if that is right"
                    )
        for neighbour in ("CONTCAR", "POSCAR"):  # an OUTCAR keeps its fixed atoms there
            if path.stem.startswith("OUTCAR") and (path.parent / neighbour).is_file():
                shutil.copy(path.parent / neighbour, folder)
        yield place


@contextmanager
def _temporary_folder() -> Iterator[str]:
    try:
        made = tempfile.TemporaryDirectory(prefix="covarium-")
    except OSError as error:
        raise _no_place(error) from error
    with made as folder:
        yield folder


def _no_place(error: OSError) -> CovariumError:
    return CovariumError(
        f"it cannot be decompressed to the temporary folder {tempfile.gettempdir()}: {error.strerror}; free some space "
        "there, or name another folder by the environment variable TMPDIR"
    )


def _plain(
    path: Path, source: str, keys: Mapping[str, str], start: int, limit: int | None, damaged: Damaged
) -> Iterator[Record]:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        yield from npz_records(path, source, keys, start)
        return
    for role in NPZ_STRUCTURE:
        if role in keys:
            raise CovariumError(f"{source}: data.keys.{role} is for npz files only; the format says where they are")
    if is_store(path):
        yield from stored_records(Store(path), source, start)
    elif suffix in (".lmdb", ".aselmdb", ".mdb") or path.is_dir():
        yield from _sound(apart(lmdb_records, path, source, start), damaged)
    elif suffix in (".h5", ".hdf5"):
        yield from _sound(apart(hdf5_records, path, source, start), damaged)
    elif suffix in (".db", ".json"):
        yield from _load_db(path, source, start, limit)
    else:
        for index, atoms in _images(path, start, damaged):
            yield from_atoms(atoms, atoms.info, source, index)


def _sound(found: Iterable[Record | Damage], damaged: Damaged) -> Iterator[Record]:
    """The records, and the damage told."""
    for one in found:
        if isinstance(one, Damage):
            damaged(one.index, one.what)
        else:
            yield one


def _images(path: Path, start: int, damaged: Damaged) -> Iterator[tuple[int, Atoms]]:
    """What ASE reads from ``start`` on, with the places in the file."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return xyz_images(path, damaged, start)
    # an "@" in a name is no index
    if suffix == ".traj":
        return enumerate(ase.io.iread(path, index=f"{start}:", do_not_split_by_at_sign=True), start)
    return islice(enumerate(ase.io.iread(path, index=":", do_not_split_by_at_sign=True)), start, None)


def _load_db(path: Path, source: str, start: int, limit: int | None) -> Iterator[Record]:
    with ase.db.connect(path, serial=True) as rows:
        metadata = rows.metadata
        for index, row in enumerate(rows.select(offset=start, limit=limit), start):
            yield from_row(row, metadata, source, index)

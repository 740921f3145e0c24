"""Single members out of tar and zip archives. Nothing is ever written where an archive says."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO

from covarium.data.record import GROWTH
from covarium.errors import CovariumError

PIECE = 2**20
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, RuntimeError)


def contents(path: Path, *patterns: str) -> Iterator[tuple[str, bytes]]:
    """Path in the archive and content of each file that fits one of the patterns, for many small ones.

    Args:
        path: tar (plain, gz, bz2, xz) or zip.
        patterns: as of ``fnmatch``, against the whole path.

    Raises:
        CovariumError: the archive is damaged, one of the paths leads out of it, it grows beyond all measure, or no file
            fits.
    """
    found = False
    files = _members(path, patterns)
    while True:
        with _told(path):
            name, file = next(files, ("", None))
            if file is None:
                break
            content = file.read()
        found = True
        yield name, content
    _refuse_none(found, path, patterns)


def unpack(path: Path, folder: Path, *patterns: str) -> list[Path]:
    """Write the files that fit into one folder, made if missing, under their last names.

    Raises:
        CovariumError: as ``contents``; or two have the same last name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with _told(path):
        for name, file in _members(path, patterns):
            place = folder / PurePosixPath(name).name
            if place in written:
                raise CovariumError(f"{path} holds two files called {place.name}")
            with place.open("wb") as out:
                while piece := file.read(PIECE):
                    out.write(piece)
            written.append(place)
    _refuse_none(bool(written), path, patterns)
    return written


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise CovariumError(f"{path} is damaged: {error}; remove it, and it is downloaded again") from error


def _members(path: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, IO[bytes]]]:
    """Each to be read before the next one is asked for."""
    room = GROWTH[0] + GROWTH[1] * path.stat().st_size
    for name, size, file in _zip(path) if zipfile.is_zipfile(path) else _tar(path):
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if "__MACOSX" in parts or not any(fnmatch(name, pattern) for pattern in patterns):
            continue
        if ".." in parts or parts[0] == "/" or ":" in parts[0]:
            raise CovariumError(f"{path} holds '{name}', a path that leads out of the archive; it is not read")
        room -= size
        if room < 0:
            raise CovariumError(f"{path} grows to more than {GROWTH[1]} times its size; it is not read")
        yield name, file


def _tar(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                yield member.name, member.size, file


def _zip(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                with archive.open(member) as file:
                    yield member.filename, member.file_size, file


def _refuse_none(found: bool, path: Path, patterns: tuple[str, ...]) -> None:
    if not found:
        raise CovariumError(f"{path} holds no {' or '.join(patterns)}; it is not the official archive")

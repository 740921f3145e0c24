"""Files that are complete or absent, and places that belong to one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from covarium.errors import CovariumError


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on the place of ``workplace``, then move that file onto ``path``.

    Raises:
        CovariumError: see ``workplace``.
    """
    with workplace(path) as place:
        write(place)
        move(place, path)


def replace_text(path: Path, text: str) -> None:
    """``replace_file`` with this text in UTF-8."""
    replace_file(path, lambda place: place.write_text(text, encoding="utf-8"))


@contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """A place of the same name in a hidden folder beside ``path``, for this process alone, to be ``move``d onto it.

    Killed at any moment, the old file or the new one is there, complete; whatever ends this, nothing else is left. What
    a killed process has left is removed by the next one, which is why the folder's name is fixed.

    Raises:
        CovariumError: writing failed, and whatever was at ``path`` is still there; or another process is writing it.
    """
    folder = path.with_name(f".{path.name}.tmp")
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _hold(folder)
        try:
            _clear(folder)
            yield folder / path.name
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)
            with suppress(OSError):  # what was made here and holds something by now stays
                for parent in made:
                    parent.rmdir()
    except BlockingIOError as error:
        raise CovariumError(f"another process is writing {path}; wait for it, or choose another name") from error
    except OSError as error:
        kept = "; the file that was there is unchanged" if path.exists() else ""
        raise CovariumError(f"cannot write {path}: {error.strerror or error}{kept}") from error


def move(place: Path, path: Path) -> None:
    """A finished file or folder onto ``path``, on disk before and after."""
    _to_disk(place)
    os.replace(place, path)
    _to_disk(path.parent)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if missing, for this process alone; the system lets go of it however the process ends.

    A folder that was made here and got nothing is removed again.

    Raises:
        CovariumError: another process holds it, or it cannot be made.
    """
    made = not folder.exists()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = _hold(folder)
    except BlockingIOError as error:
        raise CovariumError(
            f"another process is writing to '{folder}'; wait for it, or choose another place"
        ) from error
    except OSError as error:
        raise CovariumError(f"cannot write to '{folder}': {error.strerror}; choose another --out") from error
    try:
        yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        os.close(handle)


def _hold(folder: Path) -> int:
    """A handle on the folder, made if missing, that no other process has."""
    while True:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the one who held it has removed it meanwhile


def _clear(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Files that are complete or absent, and folders that belong to one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from covarium.errors import CovariumError


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary name in the same folder, then move that file onto ``path``.

    Killed at any moment, the old file or the new one is there, complete; when ``write`` raises, nothing else is.

    Raises:
        CovariumError: writing failed; whatever was at ``path`` is still there.
    """
    # a fixed name: what a killed process left behind is overwritten by the next attempt
    place = path.with_name(f".{path.name}.tmp")
    try:
        write(place)
        _to_disk(place)
        os.replace(place, path)
        _to_disk(path.parent)
    except OSError as error:
        place.unlink(missing_ok=True)
        kept = "; the file that was there is unchanged" if path.exists() else ""
        raise CovariumError(f"cannot write {path}: {error.strerror or error}{kept}") from error
    except BaseException:
        place.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """``replace_file`` with this text in UTF-8."""
    replace_file(path, lambda place: place.write_text(text, encoding="utf-8"))


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if missing, for this process alone; the system lets go of it however the process ends.

    A folder that was made here and got nothing is removed again.

    Raises:
        CovariumError: another process holds it, or it cannot be made.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CovariumError(f"cannot write to '{folder}': {error.strerror}; choose another --out") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CovariumError(
                f"another process is writing to '{folder}'; wait for it, or choose another place"
            ) from error
        yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        os.close(handle)

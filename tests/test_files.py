"""Files that are complete or absent, whatever ends their writer, and one writer at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from covarium.errors import CovariumError
from covarium.files import held, replace_file, replace_text, workplace


def _slowly(path: Path) -> None:
    def write(place: Path) -> None:
        place.write_text("half of it")
        time.sleep(100)

    replace_file(path, write)


def begun(path: Path) -> multiprocessing.Process:
    """A process that has written half of a file and goes on for long."""
    process = multiprocessing.get_context("fork").Process(target=_slowly, args=(path,))
    process.start()
    half = path.with_name(f".{path.name}.tmp") / path.name
    while not (half.exists() and half.stat().st_size):
        time.sleep(0.001)
    return process


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    process = begun(path)
    with pytest.raises(CovariumError, match=r"another process is writing .*a\.txt; wait for it"):
        replace_text(path, "mine")
    assert path.read_text() == "old"
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    replace_text(path, "mine")
    assert path.read_text() == "mine" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, CovariumError, KeyboardInterrupt, OSError(28, "No space left")])
def test_nothing_is_left_of_what_fails(tmp_path: Path, error: type[BaseException] | OSError) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"

    def write(place: Path) -> None:
        place.write_text("half of it")
        raise error

    with pytest.raises((ValueError, CovariumError, KeyboardInterrupt)):
        replace_file(path, write)
    assert not list(tmp_path.iterdir())


def test_a_workplace_that_was_removed_meanwhile_is_not_taken_for_held(tmp_path: Path) -> None:
    for _ in range(3):
        with workplace(tmp_path / "a") as place:
            assert place.parent.is_dir()
    with held(tmp_path / "folder"):
        assert (tmp_path / "folder").is_dir()
    assert not list(tmp_path.iterdir())

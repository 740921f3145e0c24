"""The log of a run: ``log.csv``, one flushed line at a time, and TensorBoard's files when it is installed."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from covarium.errors import CovariumError
from covarium.files import replace_file

FILE = "log.csv"


class Log:
    """Rows with fixed columns; a cell is empty where a row has no value for it."""

    def __init__(self, folder: Path, columns: Sequence[str], *, last_step: int) -> None:
        """Open the log; rows of an earlier part of the run stay if their step is at most ``last_step``.

        Args:
            folder: of the run.
            columns: ``step`` among them.
            last_step: of the last row that the run knows of, -1 if none; rows beyond were written by a part whose
                state was lost.
        """
        self.columns = list(columns)
        path = folder / FILE
        kept = _rows(path, last_step) if path.exists() else []

        def write(place: Path) -> None:
            with place.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(kept)

        replace_file(path, write)
        self._path = path
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self.columns)
        self._board = _tensorboard(folder, last_step)

    def row(self, values: Mapping[str, float | int]) -> None:
        """Write one row; it is in the file when this returns.

        Raises:
            CovariumError: the disk is full.
        """
        try:
            self._writer.writerow(values)
            self._file.flush()
        except OSError as error:
            raise CovariumError(
                f"cannot write {self._path}: {error.strerror}; the last saved state is complete: free some space, "
                "then resume"
            ) from error
        for name, value in values.items() if self._board is not None else ():
            self._board.add_scalar(name, value, values["step"])

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def reached(folder: Path) -> int:
    """The last step in the log of ``folder``; 0 without a log."""
    path = folder / FILE
    return max((int(row["step"]) for row in _rows(path, sys.maxsize)), default=0) if path.exists() else 0


def _rows(path: Path, last_step: int) -> list[dict[str, str]]:
    """The whole rows up to ``last_step``; a line that a kill cut short is beyond the last saved state and not kept."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row.get("step") or "").isdigit() and int(row["step"]) <= last_step]


def _tensorboard(folder: Path, last_step: int) -> Any:  # noqa: ANN401 - None where TensorBoard is not installed
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)

"""Files of a simulation that survive a kill at any moment.

Frames and rows are appended, each by a single unbuffered write, and the state is replaced atomically afterwards. The
state knows how long the files were when it was written, so that whatever a killed run left behind it is cut on resume.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_xyz

from covarium.data.names import LABELS, plain
from covarium.errors import CovariumError
from covarium.files import replace_file

STATE_FORMAT = 2  # from 2 on with a hash
REMEDY = "restore it from a copy, or start again in another folder from the last frame of trajectory.extxyz"


class Progress(Protocol):
    """Called after every step with the number of steps done, how many there will be, and the values of the moment."""

    def __call__(self, step: int, steps: int, values: dict[str, float]) -> None: ...


class Record:
    """A file that only grows.

    Args:
        path: must not exist; created by the first record, so that a run refused at its start leaves nothing behind.
        length: instead, go on with an existing file after its first ``length`` bytes; the rest is cut.
        resumes: whether the run can be resumed, for what a refusal advises.

    Raises:
        CovariumError: the file exists already, is missing or is too short, or the disk is full.
    """

    def __init__(self, path: Path, length: int | None = None, *, resumes: bool = True) -> None:
        self.path = path
        self._again = "resume" if resumes else "start again in another folder"
        if length is None:
            if path.exists():
                remedy = "resume that run or give another folder" if resumes else "give another folder"
                raise CovariumError(f"{path} exists already; {remedy}")
        elif length and (not path.exists() or path.stat().st_size < length):
            raise CovariumError(f"{path} has lost some of its {length} bytes at the last state; it cannot be resumed")
        elif path.exists():
            os.truncate(path, length)
        self.length = length or 0
        self._file: io.FileIO | None = None

    def append(self, text: str) -> None:
        """
        Raises:
            CovariumError: the disk is full or the folder cannot be written.
        """
        data = text.encode()
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "ab", buffering=0)
            written = self._file.write(data)
        except OSError as error:
            raise CovariumError(
                f"cannot write {self.path}: {error.strerror}; free some space, then {self._again}"
            ) from None
        if written != len(data):
            raise CovariumError(f"cannot write {self.path}: the disk is full; free some space, then {self._again}")
        self.length += written

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def frame(atoms: Atoms, *, labels: bool = True, **info: float) -> str:
    """One extxyz frame: positions, momenta if any, and the last energy, forces and stress of the calculator.

    Args:
        atoms: its calculator is read, never run.
        labels: False leaves energy, forces and stress out.
        info: more key=value pairs of the comment line, such as the time.
    """
    plain = atoms.copy()
    plain.info.update(info)
    if labels and atoms.calc is not None:
        names = ("energy", "forces", "stress")
        known = {name: atoms.calc.results[name] for name in names if name in atoms.calc.results}
        plain.calc = SinglePointCalculator(plain, **known)
    text = io.StringIO()
    write_xyz(text, [plain])
    return text.getvalue()


def unlabelled(atoms: Atoms) -> Atoms:
    """A copy for moving: info and arrays stay, but not the labels, which belong to the structure before it moved."""
    labels = {name for label in ("energy", "forces", "stress", "virial") for name in LABELS[label]}
    copy = atoms.copy()
    copy.info = {key: value for key, value in copy.info.items() if plain(str(key)) not in labels}
    for key in [key for key in copy.arrays if plain(key) in labels]:
        del copy.arrays[key]
    return copy


def save_state(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Arrays in full precision and JSON, with a hash over both, replaced atomically.

    Raises:
        CovariumError: the disk is full or the folder cannot be written.
    """
    buffer, text = io.BytesIO(), json.dumps({"format": STATE_FORMAT, **meta})
    parts = {"meta": np.array(text), "sha256": np.array(_digest(text, arrays))}
    np.savez(buffer, allow_pickle=False, **parts, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda place: place.write_bytes(buffer.getvalue()))


def load_state(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """
    Raises:
        CovariumError: there is no state, or it is damaged or not one of ours.
    """
    if not path.is_file():
        raise CovariumError(f"{path} is missing: there is no run to resume here; start one in an empty folder")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        text = str(arrays.pop("meta"))
        intact = str(arrays.pop("sha256", "")) == _digest(text, arrays)
        meta = json.loads(text)
        found = meta.get("format")
    except Exception as error:  # damage may look like anything to zip, numpy and JSON
        raise CovariumError(
            f"{path} is damaged or not the state of a simulation ({type(error).__name__}: {error}); {REMEDY}"
        ) from error
    if found != STATE_FORMAT:
        raise CovariumError(f"{path} has format {found}, this version reads {STATE_FORMAT}; {REMEDY}")
    if not intact:
        raise CovariumError(f"{path} is damaged: its content does not match its sha256; {REMEDY}")
    return arrays, meta


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 over the JSON and, by name, every array's name, dtype, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"\n{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()

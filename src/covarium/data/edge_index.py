"""How many neighbours every frame of a set has, counted once per cutoff and kept beside it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from covarium.data.batch import FrameDataset, neighbours_of
from covarium.data.columns import StoredFrames
from covarium.data.frame import Frame
from covarium.data.processes import ahead
from covarium.data.store import Store
from covarium.errors import CovariumError
from covarium.files import replace_file
from covarium.systems import GraphSpec
from covarium.systems.neighbours import DENSE, within

AT_ONCE = 1000  # frames
STREAM_CACHE = 256 * 1024**2  # bytes of neighbours, where frames stay in files and one process does all
Progress = Callable[[int, int], object]


def edge_counts(
    frames: StoredFrames, spec: GraphSpec, *, workers: int = 0, progress: Progress | None = None
) -> tuple[np.ndarray, list[str]]:
    """Directed edges of each frame, from the files beside its sets where they were counted before.

    Args:
        frames: of finished sets.
        spec: the neighbourhood.
        workers: processes that count.
        progress: called with frames done and all frames.

    Returns:
        [frames] int64, and notes: sets beside which the counts could not be kept.

    Raises:
        CovariumError: neighbours of a frame cannot be found.
    """
    counts, notes = [], []
    for store in frames.stores:
        known = _read(store, spec)
        if known is None:
            known = _count(store, spec, workers, progress)
            try:
                _write(store, spec, known)
            except CovariumError as error:
                notes.append(f"the numbers of neighbours cannot be kept ({error}): the next run counts them again")
        counts.append(known)
    return np.concatenate(counts).astype(np.int64)[frames.chosen], notes


def data_set(
    frames: Sequence[Frame], spec: GraphSpec, dtype: torch.dtype, workers: int, progress: Progress | None = None
) -> tuple[FrameDataset, list[str]]:
    """A data set for training: frames in files are streamed by ``workers`` processes, those in memory by none.

    Returns:
        It, and notes.
    """
    if not isinstance(frames, StoredFrames):
        return FrameDataset(frames, spec, dtype), []
    counts, notes = edge_counts(frames, spec, workers=workers, progress=progress)
    kept = 0 if workers else STREAM_CACHE  # what a process of its own found ends with it
    return FrameDataset(frames, spec, dtype, cache_bytes=kept, edge_counts=counts, workers=workers), notes


def _place(store: Store, spec: GraphSpec) -> Path:
    text = json.dumps(asdict(spec), sort_keys=True)
    return store.path / f"edges-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"


def _read(store: Store, spec: GraphSpec) -> np.ndarray | None:
    """Counts that were kept, None where there are none for these frames and this neighbourhood, or damaged ones."""
    try:
        with np.load(_place(store, spec), allow_pickle=False) as kept:
            counts, about = kept["counts"], kept["about"].item()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return counts if about == _about(store, spec, counts) else None


def _write(store: Store, spec: GraphSpec, counts: np.ndarray) -> None:
    def write(place: Path) -> None:
        with place.open("wb") as file:
            np.savez(file, counts=counts, about=np.array(_about(store, spec, counts)))

    replace_file(_place(store, spec), write)


def _about(store: Store, spec: GraphSpec, counts: np.ndarray) -> str:
    """What the counts are of, with a checksum."""
    facts = {"set": store.header["sha256"], **asdict(spec), "sha256": hashlib.sha256(counts.tobytes()).hexdigest()}
    return json.dumps(facts, sort_keys=True)


def _count(store: Store, spec: GraphSpec, workers: int, progress: Progress | None) -> np.ndarray:
    def edges(first: int) -> np.ndarray:
        return _edges(store, spec, np.arange(first, min(first + AT_ONCE, len(store))))

    found: list[np.ndarray] = []
    for part in ahead(edges, range(0, len(store), AT_ONCE), workers):
        found.append(part)
        if progress is not None:
            progress(min(len(found) * AT_ONCE, len(store)), len(store))
    return np.concatenate(found)


def _edges(store: Store, spec: GraphSpec, frames: np.ndarray) -> np.ndarray:
    """Small molecules of one size are counted together, which is exact and many times faster than one by one."""
    counts = np.zeros(len(frames), dtype=np.int32)
    starts, atoms = store.starts[frames], store.column("atoms")[frames]
    molecule = (atoms <= DENSE) & ~store.column("pbc")[frames].any(axis=1) & (spec.rule == "all")
    for size in np.unique(atoms[molecule]):
        same = np.flatnonzero(molecule & (atoms == size))
        positions = store.column("positions")[starts[same][:, None] + np.arange(size)]
        counts[same] = within(positions, spec.cutoff).sum(axis=(1, 2))
    for k in np.flatnonzero(~molecule):
        counts[k] = neighbours_of(store.frame(int(frames[k]), ()), spec).pairs.shape[1]
    store.release()
    return counts

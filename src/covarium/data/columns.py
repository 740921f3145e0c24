"""Frames in bulk: a sequence of frames that stay in their files, and flat arrays for passes over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, overload

import numpy as np

from covarium.data.frame import Frame
from covarium.data.store import Store
from covarium.errors import CovariumError


class Columns(Protocol):
    """Some consecutive frames of a sequence as arrays, B frames with N atoms together.

    index: [B] places in the sequence. atoms: [B] sizes. numbers, fixed: [N]. positions: [N, 3]. charge, spin: [B].
    isolated: [B] bool.
    """

    @property
    def index(self) -> np.ndarray: ...
    @property
    def atoms(self) -> np.ndarray: ...
    @property
    def numbers(self) -> np.ndarray: ...
    @property
    def positions(self) -> np.ndarray: ...
    @property
    def fixed(self) -> np.ndarray: ...
    @property
    def charge(self) -> np.ndarray: ...
    @property
    def spin(self) -> np.ndarray: ...
    @property
    def isolated(self) -> np.ndarray: ...

    def label(self, name: str) -> np.ndarray:
        """[B] energies, [N, 3] forces, [B] or [B, 3] properties."""

    def groups(self) -> list[str]:
        """The group of each frame, empty where it has none."""


def columns(frames: Sequence[Frame]) -> Iterator[Columns]:
    """All frames, in parts that fit into memory: everything at once where it is there already."""
    if isinstance(frames, StoredFrames):
        return frames.blocks()
    return iter([_InMemory(frames)])


def pick(frames: Sequence[Frame], indices: Sequence[int]) -> Sequence[Frame]:
    """The frames with these indices, without reading any."""
    if isinstance(frames, StoredFrames):
        return frames.take(np.asarray(indices, dtype=np.int64))
    return [frames[k] for k in indices]


def composition(part: Columns, elements: np.ndarray) -> np.ndarray:
    """[B, K] how many atoms of each of the ``elements`` (ascending, all that occur) each frame has."""
    place = np.searchsorted(elements, part.numbers)
    frame = np.repeat(np.arange(len(part.atoms)), part.atoms)
    return np.bincount(frame * len(elements) + place, minlength=len(part.atoms) * len(elements)).reshape(
        -1, len(elements)
    )


def elements_of(frames: Sequence[Frame]) -> np.ndarray:
    """Atomic numbers that occur, ascending."""
    found = np.zeros(119, dtype=bool)
    for part in columns(frames):
        found[np.unique(part.numbers)] = True
    return np.flatnonzero(found)


def label_of(frames: Sequence[Frame], name: str) -> np.ndarray:
    """The labels of all frames together, as of ``Columns.label``."""
    return np.concatenate([part.label(name) for part in columns(frames)])


def compositions_of(frames: Sequence[Frame]) -> np.ndarray:
    """[frames, K] how many atoms each has of every element that occurs, ascending."""
    elements = elements_of(frames)
    return np.concatenate([composition(part, elements) for part in columns(frames)])


def bonded(frames: Sequence[Frame]) -> Sequence[Frame]:
    """All but the isolated atoms, or all if there is nothing else."""
    places = np.concatenate([part.index[~part.isolated] for part in columns(frames)])
    return pick(frames, places.tolist()) if 0 < len(places) < len(frames) else frames


def marks(part: Columns) -> np.ndarray:
    """[B] uint64, the same for frames whose positions are the same to the last bit, and for hardly any others."""
    bits = part.positions.astype(np.float64).view(np.uint64).reshape(-1, 3)
    bits = bits * np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
    # the upper half of a product depends on all bits; sums are modulo 2⁶⁴
    bits ^= bits >> np.uint64(32)
    return np.add.reduceat(bits.sum(axis=1), np.cumsum(part.atoms) - part.atoms)


def sizes_of(frames: Sequence[Frame]) -> np.ndarray:
    """[frames] atoms of each."""
    return np.concatenate([part.atoms for part in columns(frames)])


class _InMemory:
    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames

    @property
    def index(self) -> np.ndarray:
        return np.arange(len(self.frames))

    @cached_property
    def atoms(self) -> np.ndarray:
        return np.array([len(frame.numbers) for frame in self.frames])

    @cached_property
    def numbers(self) -> np.ndarray:
        return np.concatenate([frame.numbers for frame in self.frames])

    @property
    def positions(self) -> np.ndarray:
        return np.concatenate([frame.positions for frame in self.frames])

    @property
    def fixed(self) -> np.ndarray:
        return np.concatenate([frame.fixed for frame in self.frames])

    @property
    def charge(self) -> np.ndarray:
        return np.array([frame.charge for frame in self.frames])

    @property
    def spin(self) -> np.ndarray:
        return np.array([frame.spin for frame in self.frames])

    @cached_property
    def isolated(self) -> np.ndarray:
        return np.array([frame.isolated for frame in self.frames])

    def label(self, name: str) -> np.ndarray:
        join = np.concatenate if name == "forces" else np.stack
        return join([frame.labels[name] for frame in self.frames])

    def groups(self) -> list[str]:
        return [frame.group for frame in self.frames]


class StoredFrames(Sequence[Frame]):
    """Frames of finished sets, read when they are asked for; all have the same ``labels``.

    Args:
        stores: in order; frames are numbered through.
        labels: what each frame gets; every frame must have them.
        chosen: ascending numbers of the frames that belong to it; None for all.
        limit: only the first frames of each store, this many.
        key: under which the label ``property`` is found.

    Raises:
        CovariumError: a frame lacks a label.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        labels: tuple[str, ...],
        chosen: np.ndarray | None = None,
        *,
        limit: int | None = None,
        key: str | None = None,
    ) -> None:
        self.stores, self.labels, self.key = list(stores), labels, key
        self.starts = np.concatenate([[0], np.cumsum([len(store) for store in stores])]).astype(np.int64)
        if chosen is None:
            ranges = zip(self.starts[:-1], self.starts[1:], strict=True)
            chosen = np.concatenate([np.arange(a, b if limit is None else min(b, a + limit)) for a, b in ranges])
        self.chosen = chosen

    @classmethod
    def open(cls, paths: Sequence[Path], labels: tuple[str, ...], *, limit: int | None = None) -> StoredFrames:
        return cls([Store(path) for path in paths], labels, limit=limit)

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, k: int) -> Frame: ...
    @overload
    def __getitem__(self, k: slice) -> StoredFrames: ...
    def __getitem__(self, k: int | slice) -> Frame | StoredFrames:
        if isinstance(k, slice):
            return self.take(np.arange(len(self))[k])
        place = int(self.chosen[k])
        s = int(np.searchsorted(self.starts, place, side="right")) - 1
        return self.stores[s].frame(place - int(self.starts[s]), self.labels, self.key)

    def places(self) -> Iterator[tuple[Store, int]]:
        """The set that each frame is in, and its number there."""
        for store, start in zip(self.stores, self.starts, strict=False):
            for k in self.chosen[(self.chosen >= start) & (self.chosen < start + len(store))] - start:
                yield store, int(k)

    def verify(self) -> None:
        """Compare the blocks that its frames are in with their checksums.

        Raises:
            CovariumError: they differ.
        """
        for s, block, _ in self._parts():
            self.stores[s].verify(block)
            self.stores[s].release()

    def take(self, indices: np.ndarray) -> StoredFrames:
        """Those of its frames."""
        return StoredFrames(self.stores, self.labels, self.chosen[indices], key=self.key)

    def blocks(self) -> Iterator[Columns]:
        """Its frames in the blocks of their files, and with the memory of one block."""
        for s, _, index in self._parts():
            yield _Block(self, self.stores[s], int(self.starts[s]), index)
            self.stores[s].release()

    def _parts(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """The sets and their blocks that hold some of the frames, by their places, and the places of these frames."""
        for s, (store, start) in enumerate(zip(self.stores, self.starts, strict=False)):
            for block, line in enumerate(store.blocks):
                first = store.blocks[block - 1]["totals"]["frame"] if block else 0
                ends = np.searchsorted(self.chosen, [start + first, start + line["totals"]["frame"]])
                if ends[0] < ends[1]:
                    yield s, block, np.arange(*ends)


class _Block:
    def __init__(self, frames: StoredFrames, store: Store, start: int, index: np.ndarray) -> None:
        self.frames, self.store, self.index = frames, store, index
        self.rows = frames.chosen[index] - start
        starts = store.starts
        self._atom_rows: slice | np.ndarray
        if self.rows[-1] - self.rows[0] == len(self.rows) - 1:
            self._atom_rows = slice(int(starts[self.rows[0]]), int(starts[self.rows[-1] + 1]))
        else:
            self._atom_rows = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in self.rows])

    def _per_frame(self, name: str) -> np.ndarray:
        return self.store.column(name)[self.rows]

    def _per_atom(self, name: str) -> np.ndarray:
        return np.array(self.store.column(name)[self._atom_rows])

    @property
    def atoms(self) -> np.ndarray:
        return self._per_frame("atoms").astype(np.int64)

    @cached_property
    def numbers(self) -> np.ndarray:
        return self._per_atom("numbers").astype(np.int64)

    @property
    def positions(self) -> np.ndarray:
        return self._per_atom("positions")

    @property
    def fixed(self) -> np.ndarray:
        return self._per_atom("fixed")

    @property
    def charge(self) -> np.ndarray:
        return self._per_frame("charge")

    @property
    def spin(self) -> np.ndarray:
        return self._per_frame("spin")

    @cached_property
    def isolated(self) -> np.ndarray:
        alone = self.atoms == 1
        for k in np.flatnonzero(alone):
            alone[k] = self.frames[int(self.index[k])].isolated
        return alone

    def label(self, name: str) -> np.ndarray:
        if name not in self.frames.labels:
            raise CovariumError(f"{self.store.path} was opened without {name}")
        if name == "property" and self.frames.key is not None:
            return np.stack([self.store.property(int(k), self.frames.key, self.store.rest(int(k))) for k in self.rows])
        return self._per_atom(name) if name == "forces" else self._per_frame(name)

    def groups(self) -> list[str]:
        group = self.store.header.get("group")
        if not group:
            return [""] * len(self.rows)
        return [str(self.store.rest(int(k)).info.get(group, "")) for k in self.rows]

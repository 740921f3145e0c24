"""Frames to tensors: neighbours found once per frame, kept small, joined fast.

Letters: N atoms, E edges, B structures in the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from covarium.data.columns import StoredFrames, sizes_of
from covarium.data.frame import Frame
from covarium.data.processes import ahead
from covarium.errors import CovariumError
from covarium.systems import AtomGraph, GraphSpec, near_origin
from covarium.systems.neighbours import neighbour_pairs

NUMPY: Mapping[torch.dtype, type[np.floating]] = MappingProxyType(
    {torch.float16: np.float16, torch.float32: np.float32, torch.float64: np.float64}
)


@dataclass(frozen=True)
class Batch:
    """Several structures with their labels.

    Attributes:
        system: the structures as one graph.
        labels: ``energy`` [B] eV, ``forces`` [N, 3] eV/Å, ``stress`` [B, 3, 3] eV/Å³; float64 always, as totals are
            1e4 eV.
        free: [N] bool, False on frozen atoms.
        sources: (file, index in it) of each structure, for messages.
    """

    system: AtomGraph
    labels: dict[str, Tensor]
    free: Tensor
    sources: list[tuple[str, int]]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """A copy on another device; ``dtype`` applies to the system only, labels stay float64."""
        labels = {name: label.to(device) for name, label in self.labels.items()}
        return Batch(self.system.to(device, dtype), labels, self.free.to(device), self.sources)


class _Arrays(NamedTuple):
    """A ``Batch`` in numpy."""

    system: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    free: np.ndarray
    sources: list[tuple[str, int]]


class Edges(NamedTuple):
    """The neighbours of one frame, small enough to keep for all frames: 11 bytes per edge.

    pairs: [2, E] int32, source and target. shifts: [E, 3] int8 (int64 where a cell is so small that int8 overflows).
    """

    pairs: np.ndarray
    shifts: np.ndarray

    @property
    def nbytes(self) -> int:
        return int(self.pairs.nbytes + self.shifts.nbytes)


class FrameDataset:
    """Frames as a data set for one model: what it needs to know of each frame is computed once and kept.

    Args:
        frames: structures that all have the same labels, in memory or in files.
        spec: the neighbourhood of the model.
        dtype: of positions, cell, charge and spin in the batches.
        cache_bytes: neighbours beyond this much memory are found again each time they are needed.
        edge_counts: [frames] where they are known.
        workers: processes that make the batches of ``stream`` ahead of the one that needs them.

    Raises:
        CovariumError: there are no frames, or their labels differ.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        spec: GraphSpec,
        dtype: torch.dtype,
        *,
        cache_bytes: int = 4 * 1024**3,
        edge_counts: np.ndarray | None = None,
        workers: int = 0,
    ) -> None:
        if not len(frames):
            raise CovariumError("a data set needs at least one frame, got none")
        self.frames = frames
        self.labels = frames.labels if isinstance(frames, StoredFrames) else _same_labels(frames)
        self.spec = spec
        self.dtype = dtype
        self.workers = workers
        self._edges: dict[int, Edges] = {}
        self._edge_counts = np.full(len(frames), -1, dtype=np.int64) if edge_counts is None else edge_counts
        self._free_bytes = cache_bytes

    def __len__(self) -> int:
        return len(self.frames)

    def edge_counts(self) -> np.ndarray:
        """[len] int64, directed edges of each frame."""
        for index in np.flatnonzero(self._edge_counts < 0):
            self._neighbours(int(index), self.frames[int(index)])
        return self._edge_counts

    def costs(self) -> np.ndarray:
        """[len] int64, the relative cost of each frame, ``AtomGraph.cost()``."""
        return self.edge_counts() + 4 * sizes_of(self.frames)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The frames with these indices as one batch; edges never cross structures."""
        return _as_batch(self._arrays(indices))

    def stream(self, batches: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """``batch`` of each item, made ahead by the workers if there are any; the same to the bit without."""
        with closing(ahead(self._arrays, batches, self.workers)) as made:
            yield from map(_as_batch, made)

    def _arrays(self, indices: Sequence[int]) -> _Arrays:
        """A batch as numpy arrays, which cost little to send from process to process."""
        if len(indices) == 0:
            raise CovariumError("a batch needs at least one structure, got none")
        frames = [self.frames[index] for index in indices]
        edges = [self._neighbours(index, frame) for index, frame in zip(indices, frames, strict=True)]
        atoms = np.array([len(frame.numbers) for frame in frames])
        starts = np.repeat(np.cumsum(atoms) - atoms, [edge.pairs.shape[1] for edge in edges])
        real = NUMPY[self.dtype]
        placed = [
            near_origin(frame.positions, frame.cell, frame.pbc, edge.pairs, edge.shifts, self.dtype)
            for frame, edge in zip(frames, edges, strict=True)
        ]
        system = {
            "positions": np.concatenate([positions for positions, _ in placed]).astype(real),
            "numbers": np.concatenate([frame.numbers for frame in frames]),
            "cell": np.stack([frame.cell for frame in frames]).astype(real),
            "pbc": np.stack([frame.pbc for frame in frames]),
            "batch": np.repeat(np.arange(len(frames)), atoms),
            "edge_index": np.concatenate([edge.pairs for edge in edges], axis=1) + starts,
            "shifts": np.concatenate([shifts for _, shifts in placed]).astype(np.int64),
            "charge": np.array([frame.charge for frame in frames], dtype=real),
            "spin": np.array([frame.spin for frame in frames], dtype=real),
            "tags": np.concatenate([frame.tags for frame in frames]),
        }
        labels = {}
        for name in self.labels:
            join = np.concatenate if name == "forces" else np.stack
            labels[name] = join([frame.labels[name] for frame in frames])
        free = ~np.concatenate([frame.fixed for frame in frames])
        return _Arrays(system, labels, free, [(frame.source, frame.index) for frame in frames])

    def _neighbours(self, index: int, frame: Frame) -> Edges:
        known = self._edges.get(index)
        if known is not None:
            return known
        edges = neighbours_of(frame, self.spec)
        if self._edge_counts[index] < 0:
            self._edge_counts[index] = edges.pairs.shape[1]
        if edges.nbytes <= self._free_bytes:
            self._free_bytes -= edges.nbytes
            self._edges[index] = edges
        return edges


def neighbours_of(frame: Frame, spec: GraphSpec) -> Edges:
    """
    Raises:
        CovariumError: they cannot be found; the frame is named.
    """
    try:
        pairs, shifts = neighbour_pairs(frame.positions, frame.cell, frame.pbc, spec)
    except CovariumError as error:
        raise CovariumError(f"{frame.where}: {error}") from error
    small = shifts.size == 0 or np.abs(shifts).max() <= 127
    return Edges(pairs.astype(np.int32), shifts.astype(np.int8) if small else shifts)


def _same_labels(frames: Sequence[Frame]) -> tuple[str, ...]:
    first = frames[0]
    for frame in frames:
        if frame.labels.keys() != first.labels.keys():
            raise CovariumError(
                f"{frame.where} has labels {sorted(frame.labels)}, but {first.where} has {sorted(first.labels)}; "
                "all frames of a data set need the same labels"
            )
    return tuple(first.labels)


def _as_batch(arrays: _Arrays) -> Batch:
    system, labels = (
        {name: torch.from_numpy(np.asarray(array)) for name, array in part.items()}
        for part in (arrays.system, arrays.labels)
    )
    return Batch(AtomGraph(**system), labels, torch.from_numpy(arrays.free), arrays.sources)


def collate(frames: Sequence[Frame], spec: GraphSpec, dtype: torch.dtype) -> Batch:
    """All frames as one batch, neighbours found here.

    Raises:
        CovariumError: there are no frames, or their labels differ.
    """
    return FrameDataset(frames, spec, dtype).batch(range(len(frames)))

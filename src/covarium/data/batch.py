"""Frames to tensors: neighbours found once per frame, kept small, joined fast.

Letters: N atoms, E edges, B structures in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from covarium.data.frame import Frame
from covarium.errors import CovariumError
from covarium.systems import AtomGraph, GraphSpec, atom_graph


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
        frames: structures that all have the same labels.
        spec: the neighbourhood of the model.
        dtype: of positions, cell, charge and spin in the batches.
        cache_bytes: neighbours beyond this much memory are found again each time they are needed.

    Raises:
        CovariumError: there are no frames, or their labels differ.
    """

    def __init__(
        self, frames: Sequence[Frame], spec: GraphSpec, dtype: torch.dtype, *, cache_bytes: int = 4 * 1024**3
    ) -> None:
        if not frames:
            raise CovariumError("a data set needs at least one frame, got none")
        first = frames[0]
        for frame in frames:
            if frame.labels.keys() != first.labels.keys():
                raise CovariumError(
                    f"{frame.where} has labels {sorted(frame.labels)}, but {first.where} has {sorted(first.labels)}; "
                    "all frames of a data set need the same labels"
                )
        self.frames = list(frames)
        self.spec = spec
        self.dtype = dtype
        self._edges: dict[int, Edges] = {}
        self._edge_counts = np.full(len(frames), -1, dtype=np.int64)
        self._free_bytes = cache_bytes

    def __len__(self) -> int:
        return len(self.frames)

    def edge_counts(self) -> np.ndarray:
        """[len] int64, directed edges of each frame."""
        for index in np.flatnonzero(self._edge_counts < 0):
            self._neighbours(int(index))
        return self._edge_counts

    def costs(self) -> list[int]:
        """The relative cost of each frame, ``AtomGraph.cost()``."""
        atoms = np.array([len(frame.numbers) for frame in self.frames])
        return [int(cost) for cost in self.edge_counts() + 4 * atoms]

    def batch(self, indices: Sequence[int]) -> Batch:
        """The frames with these indices as one batch; edges never cross structures."""
        if len(indices) == 0:
            raise CovariumError("a batch needs at least one structure, got none")
        frames = [self.frames[index] for index in indices]
        edges = [self._neighbours(index) for index in indices]
        atoms = np.array([len(frame.numbers) for frame in frames])
        starts = np.repeat(np.cumsum(atoms) - atoms, [edge.pairs.shape[1] for edge in edges])
        system = AtomGraph(
            positions=self._real([frame.positions for frame in frames]),
            numbers=torch.from_numpy(np.concatenate([frame.numbers for frame in frames])),
            cell=self._real([frame.cell[None] for frame in frames]),
            pbc=torch.from_numpy(np.stack([frame.pbc for frame in frames])),
            batch=torch.from_numpy(np.repeat(np.arange(len(frames)), atoms)),
            edge_index=torch.from_numpy(np.concatenate([edge.pairs for edge in edges], axis=1) + starts),
            shifts=torch.from_numpy(np.concatenate([edge.shifts for edge in edges])).to(torch.int64),
            charge=torch.tensor([frame.charge for frame in frames], dtype=self.dtype),
            spin=torch.tensor([frame.spin for frame in frames], dtype=self.dtype),
            tags=torch.from_numpy(np.concatenate([frame.tags for frame in frames])),
        )
        labels = {}
        for name in frames[0].labels:
            join = np.concatenate if name == "forces" else np.stack
            labels[name] = torch.from_numpy(join([frame.labels[name] for frame in frames]))
        free = torch.from_numpy(~np.concatenate([frame.fixed for frame in frames]))
        return Batch(system, labels, free, [(frame.source, frame.index) for frame in frames])

    def _real(self, parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(self.dtype)

    def _neighbours(self, index: int) -> Edges:
        known = self._edges.get(index)
        if known is not None:
            return known
        frame = self.frames[index]
        try:
            graph = atom_graph(frame.numbers, frame.positions, self.spec, cell=frame.cell, pbc=frame.pbc)
        except CovariumError as error:
            raise CovariumError(f"{frame.where}: {error}") from error
        shifts = graph.shifts.numpy()
        small = shifts.size == 0 or np.abs(shifts).max() <= 127
        edges = Edges(graph.edge_index.numpy().astype(np.int32), shifts.astype(np.int8) if small else shifts)
        self._edge_counts[index] = edges.pairs.shape[1]
        if edges.nbytes <= self._free_bytes:
            self._free_bytes -= edges.nbytes
            self._edges[index] = edges
        return edges


def collate(frames: Sequence[Frame], spec: GraphSpec, dtype: torch.dtype) -> Batch:
    """All frames as one batch, neighbours found here.

    Raises:
        CovariumError: there are no frames, or their labels differ.
    """
    return FrameDataset(frames, spec, dtype).batch(range(len(frames)))

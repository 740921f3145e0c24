"""A batch is what joining the frames' own graphs gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from spring_waters import frame

from covarium.data import Frame, FrameDataset, collate
from covarium.errors import CovariumError
from covarium.systems import AtomGraph, GraphSpec, atom_graph

SPEC = GraphSpec(2.5)


def frames() -> list[Frame]:
    rng = np.random.default_rng(0)
    cell = np.diag([3.0, 4.0, 0.9])
    slab: dict[str, Any] = {"cell": cell, "pbc": np.array([True, False, True]), "charge": 1.0, "spin": 2.0}
    made = [frame("OHH", -1e4 - 1e-7), frame("H"), frame("CO", **slab, fixed=np.array([True, False])), frame("HeXe")]
    far = made[3].positions * 100
    made[3] = frame("HeXe", positions=far, source="far.xyz", index=9)
    for one in made:
        one.labels["forces"][:] = rng.normal(size=(len(one.numbers), 3))
    return made


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 2], [1], [3]])
@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_batch_equals_collated_graphs(order: list[int], cache_bytes: int) -> None:
    data = FrameDataset(frames(), SPEC, torch.float32, cache_bytes=cache_bytes)
    singles = []
    for f in frames():
        state: dict[str, Any] = {"cell": f.cell, "pbc": f.pbc, "charge": f.charge, "spin": f.spin}
        singles.append(atom_graph(f.numbers, f.positions, SPEC, dtype=torch.float32, **state))
    expected = AtomGraph.collate([singles[k] for k in order])
    for _ in range(2):  # the second time from the cache
        batch = data.batch(order)
        for name, value in vars(expected).items():
            found = getattr(batch.system, name)
            assert found.dtype == value.dtype, name
            torch.testing.assert_close(found, value, rtol=0, atol=0)
    assert data.costs().tolist() == [graph.cost() for graph in singles]


def test_labels_are_float64_and_frozen_atoms_marked() -> None:
    batch = collate(frames(), SPEC, torch.float32)
    assert batch.labels["energy"].tolist() == [-1e4 - 1e-7, 0.0, 0.0, 0.0]
    np.testing.assert_array_equal(batch.labels["forces"], np.concatenate([f.labels["forces"] for f in frames()]))
    assert batch.free.tolist() == [True] * 4 + [False, True] + [True] * 2
    assert batch.sources[3] == ("far.xyz", 9)
    moved = batch.to("cpu", torch.float64)
    assert moved.system.positions.dtype == torch.float64 and moved.labels["energy"].dtype == torch.float64
    assert batch.to("cpu", torch.float16).labels["forces"].dtype == torch.float64


def test_batches_do_not_share_memory_with_the_frames() -> None:
    data = FrameDataset(frames(), SPEC, torch.float64)
    batch = data.batch([2])
    for tensor in (batch.system.positions, batch.system.cell, batch.labels["forces"], batch.labels["energy"]):
        tensor.add_(1.0)
    batch.system.edge_index.add_(1)
    batch.system.shifts.add_(1)
    again, fresh = data.batch([2]), FrameDataset(frames(), SPEC, torch.float64).batch([2])
    torch.testing.assert_close(again.system.positions, fresh.system.positions)
    torch.testing.assert_close(again.system.edge_index, fresh.system.edge_index)
    torch.testing.assert_close(again.system.shifts, fresh.system.shifts)
    torch.testing.assert_close(again.labels, fresh.labels)


def test_refusals_name_the_frame() -> None:
    mixed = [frame("OHH", index=4), frame("H", index=5, labels={"energy": np.array(0.0)})]
    with pytest.raises(CovariumError, match=r"frame 5 has labels \['energy'\], but frame 4 has"):
        FrameDataset(mixed, SPEC, torch.float64)
    with pytest.raises(CovariumError, match="at least one frame"):
        FrameDataset([], SPEC, torch.float64)
    with pytest.raises(CovariumError, match="at least one structure"):
        FrameDataset(frames(), SPEC, torch.float64).batch([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((2, 3))}, r"positions has shape \(2, 3\), expected \(3, 3\)"),
        ({"labels": {"energy": np.zeros(1)}}, r"energy has shape \(1,\), expected \(\)"),
        ({"labels": {"dipole": np.zeros(3)}}, "label 'dipole' is unknown; allowed: energy, forces, stress"),
        ({"numbers": np.array([8, 0, 1])}, "atom 1 has atomic number 0"),
    ],
)
def test_frames_are_checked(change: dict, message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        frame("OHH", **change)

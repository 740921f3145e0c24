"""AtomGraph: batching, group action, moves between dtypes."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from covarium.algebra.rotations import random_rotations
from covarium.errors import CovariumError
from covarium.systems import AtomGraph, GraphSpec, atom_graph

SPEC = GraphSpec(4.0)


def crystal(seed: int, count: int = 3, pbc: bool | list[bool] = True) -> AtomGraph:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(3, 5, 3)) + rng.uniform(-0.5, 0.5, (3, 3))
    return atom_graph(rng.integers(1, 9, count), rng.uniform(0, 4, (count, 3)), SPEC, cell=cell, pbc=np.array(pbc))


def molecule(seed: int, count: int = 4) -> AtomGraph:
    rng = np.random.default_rng(seed)
    return atom_graph(rng.integers(1, 9, count), rng.uniform(0, 3, (count, 3)), SPEC, charge=1.0, spin=2.0)


def single() -> AtomGraph:
    return atom_graph(np.array([1]), np.zeros((1, 3)), SPEC)


def same(a: AtomGraph, b: AtomGraph) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(AtomGraph))


def test_collate_keeps_vectors_and_structures() -> None:
    parts = [crystal(0), single(), molecule(1), crystal(2, pbc=[True, False, True])]
    joined = AtomGraph.collate(parts)
    assert joined.num_graphs == 4 and joined.num_atoms == 11
    assert joined.atoms_per_graph().tolist() == [3, 1, 4, 3]
    assert torch.equal(joined.batch[joined.edge_index[0]], joined.batch[joined.edge_index[1]])
    assert (joined.vectors() - torch.cat([p.vectors() for p in parts])).abs().max() < 1e-15
    assert (joined.edge_index[1].diff() >= 0).all()
    assert joined.charge.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert joined.cost() == sum(p.cost() for p in parts)


def test_collate_of_batches_is_collate_of_all() -> None:
    parts = [crystal(0), molecule(1), single(), molecule(3)]
    nested = AtomGraph.collate([AtomGraph.collate(parts[:2]), AtomGraph.collate(parts[2:])])
    assert same(nested, AtomGraph.collate(parts))
    assert same(AtomGraph.collate(parts[:1]), parts[0])


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(CovariumError, match="at least one structure"):
        AtomGraph.collate([])


def test_no_edges_and_no_atoms() -> None:
    far = atom_graph(np.array([1, 1]), np.array([[0.0, 0, 0], [9.0, 0, 0]]), SPEC)
    empty = atom_graph(np.zeros(0, int), np.zeros((0, 3)), SPEC)
    for graph in (single(), far, empty):
        assert graph.vectors().shape == (0, 3)
    joined = AtomGraph.collate([empty, far, empty, molecule(0)])
    assert joined.atoms_per_graph().tolist() == [0, 2, 0, 4]
    assert joined.num_graphs == 4


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_transform_is_the_group_action(mirror: float) -> None:
    g, h = mirror * random_rotations(2, torch.Generator().manual_seed(0))
    graph = AtomGraph.collate([crystal(0), molecule(1)])
    moved = graph.transform(g)
    assert (moved.vectors() - graph.vectors() @ g.T).abs().max() < 1e-14
    assert torch.equal(moved.edge_index, graph.edge_index)
    twice, once = moved.transform(h), graph.transform(h @ g)
    assert (twice.positions - once.positions).abs().max() < 1e-14
    assert (twice.cell - once.cell).abs().max() < 1e-14
    assert same(graph.transform(torch.eye(3)), graph)


def test_transform_finds_the_same_neighbours_again() -> None:
    g = random_rotations(1, torch.Generator().manual_seed(1))[0]
    graph = crystal(4)
    moved = graph.transform(g)
    again = atom_graph(moved.numbers, moved.positions, SPEC, cell=moved.cell[0], pbc=moved.pbc[0])
    assert torch.equal(again.edge_index, graph.edge_index) and torch.equal(again.shifts, graph.shifts)


def test_to_moves_floats_only() -> None:
    graph = AtomGraph.collate([crystal(0), molecule(1)])
    single_precision = graph.to(dtype=torch.float32)
    for field in fields(AtomGraph):
        before, after = getattr(graph, field.name), getattr(single_precision, field.name)
        assert after.dtype == (torch.float32 if before.is_floating_point() else before.dtype)
    assert single_precision.vectors().dtype == torch.float32
    assert same(graph.to("cpu"), graph)


def test_neighbours_are_found_in_float64_whatever_the_dtype() -> None:
    positions = np.array([[0.0, 0, 0], [3.99999999, 0, 0]])  # rounds to 4.0, the cutoff, in float32
    assert atom_graph(np.array([1, 1]), positions, SPEC, dtype=torch.float32).edge_index.shape[1] == 2


def test_vectors_are_differentiable_in_positions_and_cell() -> None:
    graph = crystal(5)
    positions, cell = graph.positions.clone().requires_grad_(), graph.cell.clone().requires_grad_()

    def vectors(r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        values = {f.name: getattr(graph, f.name) for f in fields(AtomGraph)} | {"positions": r, "cell": c}
        return AtomGraph(**values).vectors()

    assert torch.autograd.gradcheck(vectors, (positions, cell))


def test_mixed_periodicity_of_a_batch() -> None:
    joined = AtomGraph.collate([crystal(0, pbc=[True, True, False]), molecule(1)])
    assert joined.pbc.tolist() == [[True, True, False], [False, False, False]]
    edges_of_molecule = joined.batch[joined.edge_index[1]] == 1
    assert (joined.shifts[edges_of_molecule] == 0).all() and (joined.shifts[:, 2] == 0).all()

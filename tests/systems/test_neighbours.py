"""Neighbour lists against ASE for any cell, and the truncation rules with their ties."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from covarium.errors import CovariumError
from covarium.systems import GraphSpec, atom_graph
from covarium.systems.neighbours import DENSE, TIE, neighbour_pairs


def rows(source: np.ndarray, target: np.ndarray, shifts: np.ndarray) -> set[tuple[int, ...]]:
    return {(int(j), int(i), *map(int, s)) for j, i, s in zip(source, target, shifts, strict=True)}


@st.composite
def structures(draw: st.DrawFn) -> tuple[Atoms, float]:
    """Skewed cells of any periodicity, one atom upwards, atoms in and out of the cell."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = np.array([draw(st.floats(1.8, 8.0)) for _ in range(3)])
    skew = draw(st.floats(0.0, 0.8))
    cell = lengths[:, None] * (np.eye(3) + skew * rng.uniform(-0.5, 0.5, (3, 3)))
    count = draw(st.integers(1, 6))
    spread = draw(st.sampled_from([1.0, 3.0]))
    fractions = rng.uniform(0, 1, (count, 3)) * spread - (spread - 1) / 2
    pbc = [draw(st.booleans()) for _ in range(3)]
    if abs(np.linalg.det(cell)) < 1.0:
        cell = np.diag(lengths)
    return Atoms("H" * count, positions=fractions @ cell, cell=cell, pbc=pbc), draw(st.floats(1.0, 5.0))


@settings(max_examples=150, deadline=None)
@given(structures())
def test_equals_ase(case: tuple[Atoms, float]) -> None:
    atoms, cutoff = case
    i, j, shifts, vectors, _distances = neighbor_list("ijSDd", atoms, cutoff)
    pairs, ours = neighbour_pairs(atoms.positions, atoms.cell.array, atoms.pbc, GraphSpec(cutoff))
    # pairs on the very edge of the cutoff are a matter of rounding
    edge = rows(j, i, shifts) ^ rows(*pairs, ours)
    wrong = [r for r in edge if abs(_distance(atoms, r) - cutoff) > 1e-9]
    assert not wrong, (wrong, atoms.cell.array, atoms.pbc, atoms.positions, cutoff)
    assert len(rows(*pairs, ours)) == pairs.shape[1], "no pair twice"
    graph = atom_graph(atoms.numbers, atoms.positions, GraphSpec(cutoff), cell=atoms.cell.array, pbc=atoms.pbc)
    expected = dict(zip(zip(j, i, map(tuple, shifts), strict=True), vectors, strict=True))
    for (s, t), shift, vector in zip(pairs.T, ours, graph.vectors().numpy(), strict=True):
        reference = expected.get((s, t, tuple(shift)))
        assert reference is None or np.abs(vector - reference).max() < 1e-10


def _distance(atoms: Atoms, row: tuple[int, ...]) -> float:
    j, i, *shift = row
    return float(np.linalg.norm(atoms.positions[j] - atoms.positions[i] + np.array(shift) @ atoms.cell.array))


def test_edges_are_sorted_by_target_and_come_in_both_directions() -> None:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    (source, target), shifts = neighbour_pairs(atoms.positions, atoms.cell.array, atoms.pbc, GraphSpec(4.0))
    assert (np.diff(target) >= 0).all()
    assert rows(source, target, shifts) == rows(target, source, -shifts)


@pytest.mark.parametrize("kind", ["fcc", "bcc", "sc"])
def test_shells_of_crystals(kind: str) -> None:
    # one atom per cell: all its neighbours are its own images
    nearest, second = {"fcc": (12, 6), "bcc": (8, 6), "sc": (6, 12)}[kind]
    atoms = bulk("Cu", kind, a=3.0)
    distance = {"fcc": 3 / 2**0.5, "bcc": 3 * 3**0.5 / 2, "sc": 3.0}[kind]
    beyond = {"fcc": 3.0, "bcc": 3.0, "sc": 3 * 2**0.5}[kind]
    for cutoff, count in ((distance - 0.01, 0), (distance + 0.01, nearest), (beyond + 0.01, nearest + second)):
        pairs, _ = neighbour_pairs(atoms.positions, atoms.cell.array, atoms.pbc, GraphSpec(cutoff))
        assert pairs.shape[1] == count


def test_nearest_keeps_the_nearest() -> None:
    positions = np.random.default_rng(0).uniform(0, 6, (20, 3))
    spec = GraphSpec(5.0, "nearest", 5)
    (source, target), _ = neighbour_pairs(positions, np.zeros((3, 3)), np.zeros(3, bool), spec)
    for i in range(20):
        distance = np.linalg.norm(positions - positions[i], axis=1)
        within = [j for j in np.argsort(distance)[1:] if distance[j] < 5.0]
        assert set(source[target == i]) == set(within[:5])


def test_nearest_cuts_a_tie_and_the_other_rule_does_not() -> None:
    # 12 neighbours at the same distance, room for 5
    atoms = bulk("Cu", "fcc", a=3.6)
    arguments = atoms.positions, atoms.cell.array, atoms.pbc
    assert neighbour_pairs(*arguments, GraphSpec(5.2, "nearest", 5))[0].shape[1] == 5
    pairs, shifts = neighbour_pairs(*arguments, GraphSpec(5.2, "nearest_with_ties", 5))
    assert pairs.shape[1] == 12
    assert rows(*pairs, shifts) == rows(*pairs[::-1], -shifts)
    # shells of 12, 6, 24 and 12: the shell of the first one cut stays whole
    assert neighbour_pairs(*arguments, GraphSpec(5.2, "nearest_with_ties", 12))[0].shape[1] == 18
    assert neighbour_pairs(*arguments, GraphSpec(5.2, "nearest_with_ties", 18))[0].shape[1] == 42
    assert neighbour_pairs(*arguments, GraphSpec(5.2))[0].shape[1] == 54
    assert neighbour_pairs(*arguments, GraphSpec(5.2, "nearest_with_ties", 54))[0].shape[1] == 54


def test_ties_reach_a_hundredth_of_an_angstrom() -> None:
    x = np.array([0.0, 1.0, 2.0, 2.0 + 0.9 * TIE, 2.0 + 1.1 * TIE])
    positions = np.stack([x, 0 * x, 0 * x], axis=1)
    (source, target), _ = neighbour_pairs(
        positions, np.zeros((3, 3)), np.zeros(3, bool), GraphSpec(5.0, "nearest_with_ties", 1)
    )
    assert set(source[target == 0]) == {1, 2, 3}


def test_rows_of_directions_that_are_not_periodic_are_ignored() -> None:
    rng = np.random.default_rng(1)
    positions = rng.uniform(0, 3, (4, 3))
    pbc = np.array([True, False, True])
    cell = np.array([[4.0, 0.5, 0.0], [9.0, 9.0, 9.0], [0.0, 0.3, 5.0]])
    zeros = cell.copy()
    zeros[1] = 0.0
    one, other = (neighbour_pairs(positions, c, pbc, GraphSpec(4.5)) for c in (cell, zeros))
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    assert (one[1][:, 1] == 0).all() and (one[1] != 0).any()


def test_single_atom_and_nothing() -> None:
    free = np.zeros((3, 3)), np.zeros(3, bool)
    for count in (0, 1):
        pairs, shifts = neighbour_pairs(np.zeros((count, 3)), *free, GraphSpec(5.0))
        assert pairs.shape == (2, 0) and shifts.shape == (0, 3)
        assert pairs.dtype == np.int64 and shifts.dtype == np.int64


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_must_be_finite(value: float) -> None:
    positions = np.zeros((3, 3))
    positions[1, 2] = value
    with pytest.raises(CovariumError, match=r"position of atom 1 is .*must be finite"):
        neighbour_pairs(positions, np.zeros((3, 3)), np.zeros(3, bool), GraphSpec(5.0))


@pytest.mark.parametrize("third", [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
def test_a_cell_without_volume_is_refused(third: list[float]) -> None:
    cell = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], third])
    with pytest.raises(CovariumError, match=r"directions \[0, 1, 2\] span no volume.*set pbc to False or give a cell"):
        neighbour_pairs(np.zeros((1, 3)), cell, np.ones(3, bool), GraphSpec(5.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "cutoff must be a positive length"),
        ((float("nan"),), "cutoff must be a positive length"),
        ((5.0, "closest"), "'closest' is unknown; allowed: all, nearest, nearest_with_ties"),
        ((5.0, "nearest"), "needs max_neighbours > 0, got None"),
        ((5.0, "nearest_with_ties", 0), "needs max_neighbours > 0, got 0"),
        ((5.0, "all", 20), "max_neighbours 20 means nothing where all neighbours count"),
    ],
)
def test_wrong_specs_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        GraphSpec(*arguments)


@settings(deadline=None, max_examples=40)
@given(n=st.sampled_from([1, 2, 9, DENSE, DENSE + 1]), seed=st.integers(0, 2**32), cutoff=st.floats(0.5, 6.0))
def test_small_molecules_have_the_edges_of_the_search(n: int, seed: int, cutoff: float) -> None:
    """In a box so large that no image is near, the search gives the same edges in the same order."""
    positions = np.random.default_rng(seed).normal(scale=2.0, size=(n, 3))
    none, box = np.zeros(3, bool), np.ones(3, bool)
    pairs, shifts = neighbour_pairs(positions, np.zeros((3, 3)), none, GraphSpec(cutoff))
    expected, _ = neighbour_pairs(positions, 100 * np.eye(3), box, GraphSpec(cutoff))
    np.testing.assert_array_equal(pairs, expected)
    assert shifts.shape == (pairs.shape[1], 3) and not shifts.any() and shifts.dtype == np.int64

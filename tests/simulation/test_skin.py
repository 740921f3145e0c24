"""The filtered neighbour list is the fresh one, edge for edge."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from covarium.errors import CovariumError
from covarium.simulation.skin import SkinList
from covarium.systems import GraphSpec
from covarium.systems.neighbours import neighbour_pairs


def assert_fresh(skin, positions, cell, pbc):
    edge_index, shifts = neighbour_pairs(positions, cell, pbc, skin.spec)
    pairs = skin.pairs(positions, cell, pbc)
    np.testing.assert_array_equal(pairs.edge_index, edge_index)
    np.testing.assert_array_equal(pairs.shifts, shifts)
    vectors = positions[edge_index[0]] - positions[edge_index[1]] + shifts @ cell
    np.testing.assert_allclose(pairs.squares, (vectors**2).sum(1), atol=1e-10)


@given(
    seed=st.integers(0, 2**32 - 1),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    skin=st.sampled_from([0.0, 0.1, 0.4, 1.5]),
    noise=st.sampled_from([0.005, 0.03, 0.2]),
    strain=st.sampled_from([0.0, 0.0005, 0.01]),
    rule=st.sampled_from(["all", "all", "all", "nearest", "nearest_with_ties"]),
)
@settings(max_examples=60, deadline=None)
def test_identical_to_a_fresh_list(seed, pbc, skin, noise, strain, rule):
    """A noisy walk with wraps, unwraps, strains, new cells, changed periodicity and atoms added."""
    rng = np.random.default_rng(seed)
    pbc = np.array(pbc)
    cell = np.diag(rng.uniform(3.5, 7.0, 3)) + rng.normal(size=(3, 3)) * 0.6
    positions = rng.uniform(-1, 2, (int(rng.integers(1, 14)), 3)) @ cell
    lists = SkinList(GraphSpec(3.0, rule=rule, max_neighbours=None if rule == "all" else 5), skin)
    for _ in range(40):
        positions = positions + rng.normal(size=positions.shape) * noise
        deformation = np.eye(3) + rng.normal(size=(3, 3)) * strain
        cell, positions = cell @ deformation, positions @ deformation
        event = rng.integers(0, 25)
        if event == 0:  # wrap into the cell
            fractional = positions @ np.linalg.inv(cell)
            positions = (fractional - np.where(pbc, np.floor(fractional), 0.0)) @ cell
        elif event == 1:  # one atom jumps by a lattice vector
            positions[0] += cell[rng.integers(3)] * pbc[0]
        elif event == 2:  # another cell, the atoms stay
            cell = cell + rng.normal(size=(3, 3)) * 0.05
        elif event == 3:
            pbc = ~pbc
        elif event == 4:
            positions = np.concatenate([positions, positions[:1] + 1.0])
        assert_fresh(lists, positions, cell, pbc)


def test_long_run_searches_rarely():
    atoms = bulk("Cu", cubic=True) * 2
    rng = np.random.default_rng(0)
    lists = SkinList(GraphSpec(4.0), 0.5)
    for step in range(300):
        thermal = atoms.positions + 0.05 * np.sin(0.3 * step + rng.uniform(0, 6, atoms.positions.shape))
        assert_fresh(lists, thermal, atoms.cell.array, atoms.pbc)
    assert lists.searches == 1


def test_strained_cell():
    """A barostat moves every atom far, but pairs only a little: reused, until new pairs may have come near."""
    atoms = bulk("Cu", cubic=True) * 4
    lists = SkinList(GraphSpec(4.0), 0.5)
    for step in range(20):
        stretched = atoms.copy()
        stretched.set_cell(atoms.cell * (1 - 1e-3 * step), scale_atoms=True)
        assert_fresh(lists, stretched.positions, stretched.cell.array, stretched.pbc)
    assert lists.searches == 1
    assert np.linalg.norm(stretched.positions - atoms.positions, axis=1).max() > 0.25
    for step in range(20, 200, 15):
        stretched.set_cell(atoms.cell * (1 - 1e-3 * step), scale_atoms=True)
        assert_fresh(lists, stretched.positions, stretched.cell.array, stretched.pbc)
    assert lists.searches > 1


def test_perfect_lattice_on_the_cutoff():
    """Shells that lie exactly on the cutoff fall on the same side as in a fresh list."""
    for name in ("Cu", "Si", "Fe"):
        atoms = bulk(name, cubic=True) * 2
        spacing = atoms.get_distance(0, 1)
        for shell in (1.0, np.sqrt(2.0), 2.0, np.sqrt(8 / 3)):
            for cutoff in (spacing * shell, np.nextafter(spacing * shell, 9.0)):
                lists = SkinList(GraphSpec(cutoff), 0.5)
                assert_fresh(lists, atoms.positions, atoms.cell.array, atoms.pbc)


def test_positions_not_finite_are_named():
    lists = SkinList(GraphSpec(3.0))
    positions = np.array([[0.0, 0, 0], [1.0, 0, 0]])
    lists.pairs(positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))
    positions = positions * [[1], [np.nan]]
    with pytest.raises(CovariumError, match="atom 1"):
        lists.pairs(positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))


@pytest.mark.parametrize("extent", [(3e3, 3e3, 0.0), (1e5, 1e3, 3.0), (1e7, 0.0, 0.0), (1e10, 1e9, 3.0)])
def test_structure_flown_apart(extent):
    """Wide and thin structures are searched like any other (vesin 0.6.2 by itself dies of a division by zero)."""
    positions = np.array([[0.0, 0, 0], [1.0, 0, 0], list(extent)])
    assert_fresh(SkinList(GraphSpec(5.0)), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))


def test_wide_sheet_periodic():
    atoms = Atoms("C2", [[0, 0, 0], [1.4, 0, 0]], cell=[2000.0, 2000.0, 4.0], pbc=True)
    assert_fresh(SkinList(GraphSpec(5.0)), atoms.positions, atoms.cell.array, atoms.pbc)


def test_refuses_a_negative_skin():
    with pytest.raises(CovariumError, match="skin"):
        SkinList(GraphSpec(3.0), -0.1)

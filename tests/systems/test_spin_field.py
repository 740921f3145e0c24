"""Spin fields and the symmetries of their lattice."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covarium.errors import CovariumError
from covarium.systems.spin_field import LatticeElement, SpinField, lattice_elements
from covarium.systems.square_lattice import POINT_GROUP, coordinates, permutation, shells, square_distances

SIZES = st.integers(2, 7)


@given(SIZES, st.integers(-9, 9), st.integers(-9, 9), st.integers(0, POINT_GROUP - 1))
def test_symmetries_permute_sites_and_keep_distances(size: int, x: int, y: int, point: int) -> None:
    moved = permutation(size, (x, y), point)
    assert sorted(moved) == list(range(size**2))
    distances = square_distances(size)
    np.testing.assert_array_equal(distances[np.ix_(moved, moved)], distances)


def test_the_point_group_has_eight_different_elements() -> None:
    assert len({tuple(permutation(5, (0, 0), p)) for p in range(POINT_GROUP)}) == POINT_GROUP
    assert coordinates(5)[permutation(5, (0, 0), 1)[1]].tolist() == [0, 1]  # a quarter turn: x becomes y


@given(SIZES)
def test_every_pair_is_in_one_shell(size: int) -> None:
    index, distances = shells(size)
    np.testing.assert_array_equal(distances[index], square_distances(size))
    assert (np.diag(index) == 0).all() and (np.diff(distances) > 0).all()
    np.testing.assert_array_equal(index, index.T)


def test_group_action() -> None:
    rng = torch.Generator().manual_seed(0)
    field = SpinField.random(2, 4, rng)
    assert (field.spins.norm(dim=-1) - 1).abs().max() < 1e-14
    shifted = field.transform(LatticeElement(torch.eye(3), (1, 0), 0))
    assert torch.equal(shifted.spins[:, 1], field.spins[:, 0])
    for g in lattice_elements(4)(10, rng):
        gram = field.spins @ field.spins.mT
        at = torch.from_numpy(permutation(4, g.shift, g.point))
        moved = field.transform(g).spins
        assert ((moved @ moved.mT)[:, at][:, :, at] - gram).abs().max() < 1e-13
        # first one element, then another, is an element: spins by the product, sites by the composition
        h = LatticeElement(g.spin.T, (0, 0), 0)
        assert torch.allclose(
            field.transform(g).transform(h).spins, field.transform(g._replace(spin=torch.eye(3))).spins
        )


def test_both_signs_of_the_determinant_occur() -> None:
    signs = {float(torch.linalg.det(g.spin).round()) for g in lattice_elements(3)(40, torch.Generator().manual_seed(0))}
    assert signs == {-1.0, 1.0}


def test_batches() -> None:
    rng = torch.Generator().manual_seed(0)
    one, two = SpinField.random(2, 3, rng), SpinField.random(1, 3, rng)
    both = SpinField.collate([one, two])
    assert both.num_fields == 3 and both.cost() == one.cost() + two.cost()
    assert torch.equal(both.spins[2:], two.spins)
    assert both.to(dtype=torch.float32).spins.dtype == torch.float32
    with pytest.raises(CovariumError, match=r"\[3, 4\]"):
        SpinField.collate([one, SpinField.random(1, 4, rng)])
    with pytest.raises(CovariumError, match="size 3"):
        SpinField(torch.zeros(2, 16, 3), 3)

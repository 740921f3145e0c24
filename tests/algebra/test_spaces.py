"""Equivariant maps by null space, their structured basis, and how far products of them reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from covarium.algebra.clifford import Clifford
from covarium.algebra.spaces import CONFORMAL, EUCLIDEAN, LORENTZ, PROJECTIVE, Space, equivariant_maps, stored_terms
from covarium.errors import CovariumError

STORED = Path(__file__).parents[1] / "parity" / "gatr_operations"
# Euclidean and conformal geometry of the plane, Euclidean of four dimensions
PLANES = [
    Space("E(2)", Clifford(2, 0, 1), (1, 2), (1.0, 0.0, 0.0)),
    Space("E(2)", Clifford(3, 1), (0, 1), (0.0, 0.0, 1.0, 1.0)),
]
OTHERS = [
    (PLANES[0], 7),
    (PLANES[1], 16),
    (Space("E(4)", Clifford(4, 0, 1), (1, 2, 3, 4), (1.0, 0.0, 0.0, 0.0, 0.0)), 11),
]
SPACES = {"ega_3_0_0": EUCLIDEAN, "pga_3_0_1": PROJECTIVE, "cga_4_1_0": CONFORMAL}


def outside(span: np.ndarray, maps: np.ndarray) -> float:
    """Largest part of ``maps`` that is no combination of ``span``."""
    q, _ = np.linalg.qr(span.reshape(len(span), -1).T)
    flat = maps.reshape(len(maps), -1).T
    return float(np.abs(flat - q @ (q.T @ flat)).max())


@pytest.mark.parametrize(("name", "counts"), [("ega_3_0_0", (4, 8)), ("pga_3_0_1", (9, 16)), ("cga_4_1_0", (20, 40))])
def test_counts_and_spans(name: str, counts: tuple[int, int]) -> None:
    space = SPACES[name]
    stored = np.load(STORED / "algebras" / f"{name}_tables.npz")
    group = "O3" if space is EUCLIDEAN else "E3"
    found, proper = equivariant_maps(space), equivariant_maps(space, mirrors=False)
    assert (len(found), len(proper)) == counts
    assert equivariant_maps(space) is found, "cached"
    assert len(space.linear_maps) == counts[0] and outside(found, space.linear_maps) < 1e-13
    assert outside(found, stored[f"linear_basis_{group}_orthonormal"]) < 1e-13
    assert outside(proper, stored[f"linear_basis_S{group}_orthonormal"]) < 1e-13
    # the stored generators are not halved, and translations and mirror have the other sign
    np.testing.assert_array_equal(np.abs(2 * space.generators()), np.abs(stored["lie_generators_adjoint"]))
    np.testing.assert_array_equal(-space.mirror(), stored["mirror_e1_twisted_adjoint"])


def test_structured_bases_in_their_published_order() -> None:
    tables = np.load(STORED / "primitives" / "tables.npz")
    np.testing.assert_allclose(PROJECTIVE.linear_maps, tables["linear_basis_normalised"], atol=1e-15)
    conformal = np.load(STORED / "algebras" / "cga_4_1_0_tables.npz")["linear_basis_E3_structured"]
    norms = np.linalg.norm(conformal, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(CONFORMAL.linear_maps, conformal / norms, atol=1e-15)


def test_other_groups() -> None:
    assert len(equivariant_maps(LORENTZ)) == len(LORENTZ.linear_maps) == 5
    assert len(equivariant_maps(LORENTZ, mirrors=False)) == 10
    everything = Space("Pin(4,1)", Clifford(4, 1), (0, 1, 2, 3, 4))
    assert len(equivariant_maps(everything)) == 6
    rotations = [
        len(equivariant_maps(s, mirrors=m, translations=False)) for s in (PROJECTIVE, CONFORMAL) for m in (1, 0)
    ]
    assert rotations == [16, 32, 64, 128]


def test_groups_with_few_or_null_generators() -> None:
    line = Space("O(1)", Clifford(1), (0,))
    assert len(equivariant_maps(line)) == len(line.linear_maps) == 2, "even and odd"
    assert len(equivariant_maps(line, mirrors=False)) == 4, "the group is 1, and every map commutes with it"
    # the whole group of versors of the projective algebra, e0 among its generators, is E(3) itself
    whole = Space("Pin(3,0,1)", Clifford(3, 0, 1), (0, 1, 2, 3))
    assert len(equivariant_maps(whole)) == 9 and outside(equivariant_maps(PROJECTIVE), equivariant_maps(whole)) < 1e-13
    with pytest.raises(CovariumError, match="e0 of the rotating generators squares to 0.*give it as 'ideal'"):
        _ = whole.linear_maps
    with pytest.raises(CovariumError, match="group null has no mirrors"):
        equivariant_maps(Space("null", Clifford(0, 0, 2), (0, 1)))


@pytest.mark.parametrize(("space", "count"), OTHERS)
def test_spaces_of_other_dimensions(space: Space, count: int) -> None:
    assert len(equivariant_maps(space)) == len(space.linear_maps) == count
    assert outside(equivariant_maps(space), space.linear_maps) < 1e-13


@pytest.mark.parametrize("space", [EUCLIDEAN, PROJECTIVE, CONFORMAL, LORENTZ, *PLANES], ids=str)
def test_storage_holds_all_of_every_map(space: Space) -> None:
    maps = np.zeros_like(space.linear_maps)
    row = 0
    for block, size in enumerate(space.blocks):
        for _ in range(size):
            places = space.order[row]
            maps[:, places[:, None], places[None, :]] = np.moveaxis(space.mixing[block], -1, 0)
            row += 1
    np.testing.assert_array_equal(maps, space.linear_maps)
    assert sorted(space.order.ravel().tolist()) == list(range(space.algebra.size))
    moved = stored_terms(space, space.algebra.product).dense(space.algebra.size)
    order = space.order.ravel()
    np.testing.assert_array_equal(moved, space.algebra.product.dense(space.algebra.size)[np.ix_(order, order, order)])


def reach(space: Space, products: list[np.ndarray], maps: np.ndarray, samples: int = 200) -> int:
    """Dimension of the span of x, y → C · product(A x, B y) over equivariant A, B, C: the rank of random ones."""
    rng = np.random.default_rng(0)
    found = []
    for table in products:
        for _ in range(samples):
            a, b, c = (np.tensordot(rng.normal(size=len(maps)), maps, 1) for _ in range(3))
            t = np.einsum("lk,kij->lij", c, np.einsum("kij,ia->kaj", table, a) @ b)
            found.append((t / np.linalg.norm(t)).ravel())
    return int(np.linalg.matrix_rank(np.stack(found), tol=1e-9))


def test_expressivity_of_the_projective_space() -> None:
    """Brehmer's projective products reach 54 of 59 bilinear maps; with the join all 117 of SE(3)."""
    algebra = PROJECTIVE.algebra
    product, join = algebra.product.dense(16), algebra.join_terms.dense(16)
    mirrored, proper = equivariant_maps(PROJECTIVE), equivariant_maps(PROJECTIVE, mirrors=False)
    assert reach(PROJECTIVE, [product], mirrored) == 54
    assert reach(PROJECTIVE, [product, join], mirrored) == 103
    assert reach(PROJECTIVE, [product], proper) == 111
    assert reach(PROJECTIVE, [product, join], proper) == 117


def test_expressivity_of_the_euclidean_space() -> None:
    product = EUCLIDEAN.algebra.product.dense(8)
    assert reach(EUCLIDEAN, [product], equivariant_maps(EUCLIDEAN)) == 20
    assert reach(EUCLIDEAN, [product], equivariant_maps(EUCLIDEAN, mirrors=False)) == 40


@pytest.mark.slow
def test_no_equivariant_bilinear_map_of_projective_space_is_missing() -> None:
    """117 = 59 + 58 are all there are: the kernel of the action on maps V ⊗ V → V."""
    counts = {}
    for mirrors in (True, False):
        actions = [*PROJECTIVE.generators()]
        eye = np.eye(16)
        total = np.zeros((4096, 4096))
        for g in actions:
            both = np.kron(g, eye) + np.kron(eye, g)
            constraint = np.kron(g, np.eye(256)) - np.kron(eye, both.T)
            total += constraint.T @ constraint
        if mirrors:
            m = PROJECTIVE.mirror()
            constraint = np.kron(m, np.eye(256)) - np.kron(eye, np.kron(m, m))
            total += constraint.T @ constraint
        values = np.linalg.eigvalsh(total)
        counts[mirrors] = int((values < 1e-10 * values[-1]).sum())
    assert counts == {True: 59, False: 117}

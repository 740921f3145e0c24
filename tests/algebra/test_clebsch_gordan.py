"""The invariant of three representations: invariance, norm, permutations, e3nn."""

import itertools

import numpy as np
import pytest
import torch
from e3nn import o3

from covarium.algebra.clebsch_gordan import wigner_3j
from covarium.algebra.rotations import random_rotations
from covarium.algebra.wigner import coupling, wigner_d

TRIPLES = [(a, b, c) for a, b, c in itertools.product(range(7), repeat=3) if abs(a - b) <= c <= a + b]


@pytest.mark.usefixtures("float64_oracle")
def test_equals_e3nn_in_sign_and_norm() -> None:
    for triple in TRIPLES:
        assert np.abs(wigner_3j(*triple) - o3.wigner_3j(*triple).numpy()).max() < 1e-14, triple


def test_invariant_under_rotations() -> None:
    blocks = wigner_d(random_rotations(3, torch.Generator().manual_seed(0)), 6)
    for a, b, c in TRIPLES:
        w = torch.from_numpy(wigner_3j(a, b, c).copy())
        turned = torch.einsum("ijk,eai,ebj,eck->eabc", w, blocks[a], blocks[b], blocks[c])
        assert (turned - w).abs().max() < 1e-13, (a, b, c)


def test_norm_and_permutations() -> None:
    for a, b, c in TRIPLES:
        w = wigner_3j(a, b, c)
        assert np.linalg.norm(w) == pytest.approx(1, abs=1e-14)
        sign = (-1) ** (a + b + c)
        assert np.abs(wigner_3j(b, a, c) - sign * w.transpose(1, 0, 2)).max() < 1e-14
        assert np.abs(wigner_3j(b, c, a) - w.transpose(1, 2, 0)).max() < 1e-14


def test_agrees_with_the_couplings_from_quadrature() -> None:
    for l in range(1, 6):
        ratio = wigner_3j(l, 1, l + 1) * np.sqrt(2 * l + 3)
        assert np.abs(ratio - coupling(l)).max() < 1e-13


def test_exact_at_a_high_degree() -> None:
    w = wigner_3j(12, 11, 10)
    assert np.linalg.norm(w.reshape(-1, 21), axis=0) == pytest.approx(np.full(21, 21**-0.5), abs=1e-12)


def test_degrees_that_do_not_couple_are_refused() -> None:
    with pytest.raises(ValueError, match="triangle"):
        wigner_3j(1, 1, 3)

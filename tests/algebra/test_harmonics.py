"""Real spherical harmonics against e3nn and scipy, and against their own definition."""

import math

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.special import lpmv
from torch.autograd import gradcheck, gradgradcheck

from covarium.algebra.harmonics import spherical_harmonics, spherical_harmonics_numpy
from covarium.algebra.sphere import quadrature

LMAX = 12


def unit_vectors() -> torch.Tensor:
    v = torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = torch.cat([v, torch.eye(3), -torch.eye(3), torch.eye(3) + 1e-8])
    return v / v.norm(dim=1, keepdim=True)


def degrees(lmax: int) -> np.ndarray:
    return np.concatenate([np.full(2 * l + 1, l) for l in range(lmax + 1)])


@pytest.mark.usefixtures("float64_oracle")
def test_equals_e3nn() -> None:
    v = unit_vectors()
    theirs = o3.spherical_harmonics(list(range(12)), v, normalize=False, normalization="norm")
    assert (spherical_harmonics(v, 11) - theirs).abs().max() < 1e-13


def test_equals_scipy() -> None:
    v = unit_vectors().numpy()
    v = v[np.abs(v[:, 1]) < 0.99999]  # sin β from cos β loses its digits at the poles
    ours = spherical_harmonics_numpy(v, LMAX)
    alpha = np.arctan2(v[:, 0], v[:, 2])
    for l in range(LMAX + 1):
        for m in range(-l, l + 1):
            k = abs(m)
            n = math.sqrt((2 if m else 1) * math.factorial(l - k) / math.factorial(l + k))
            angular = np.cos(k * alpha) if m >= 0 else np.sin(k * alpha)
            theirs = n * (-1) ** k * lpmv(k, l, v[:, 1]) * angular  # scipy has the Condon–Shortley phase
            assert np.abs(ours[:, l * l + l + m] - theirs).max() < 2e-13, (l, m)


def test_orthonormal() -> None:
    points, weights = quadrature(2 * LMAX)
    y = spherical_harmonics_numpy(points, LMAX)
    gram = np.einsum("p,pr,ps->rs", weights, y, y)
    assert np.abs(gram - np.diag(1 / (2 * degrees(LMAX) + 1))).max() < 1e-14


def test_sum_of_squares_is_one_for_every_degree() -> None:
    y = spherical_harmonics(unit_vectors(), LMAX)
    for l in range(LMAX + 1):
        assert (y[:, l * l : (l + 1) ** 2].square().sum(1) - 1).abs().max() < 1e-13


def test_degree_one_is_the_vector() -> None:
    v = unit_vectors()
    assert torch.equal(spherical_harmonics(v, 1)[:, 1:], v)


def test_numpy_and_torch_are_one_function() -> None:
    v = unit_vectors()
    assert np.array_equal(spherical_harmonics(v, LMAX).numpy(), spherical_harmonics_numpy(v.numpy(), LMAX))


def test_float32_stays_float32_and_close() -> None:
    v = unit_vectors()
    single = spherical_harmonics(v.float(), LMAX)
    assert single.dtype == torch.float32
    assert (single - spherical_harmonics(v, LMAX)).abs().max() < 1e-5


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_derivatives_on_the_axes(axis: int, sign: float) -> None:
    v = torch.zeros(1, 3, dtype=torch.float64)
    v[0, axis] = sign
    v.requires_grad_()
    assert gradcheck(lambda r: spherical_harmonics(r, 5), (v,))
    assert gradgradcheck(lambda r: spherical_harmonics(r, 4), (v,))

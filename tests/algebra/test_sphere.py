"""Grids on the sphere against e3nn, and the degrees to which they are exact."""

import numpy as np
import pytest
from e3nn.o3 import FromS2Grid, ToS2Grid

from covarium.algebra.harmonics import spherical_harmonics_numpy
from covarium.algebra.sphere import quadrature, s2_grid


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 8, 13, 24])
def test_quadrature_is_exact_to_its_degree(degree: int) -> None:
    points, weights = quadrature(degree)
    assert abs(weights.sum() - 1) < 1e-14
    assert np.abs(np.linalg.norm(points, axis=1) - 1).max() < 1e-14
    # the mean over the sphere of a harmonic is zero, but for degree 0
    mean = weights @ spherical_harmonics_numpy(points, degree)
    mean[0] -= 1
    assert np.abs(mean).max() < 1e-14


def test_quadrature_of_monomials() -> None:
    points, weights = quadrature(6)
    x, y, z = points.T
    assert weights @ x**2 == pytest.approx(1 / 3, abs=1e-15)
    assert weights @ (x**2 * y**2) == pytest.approx(1 / 15, abs=1e-15)
    assert weights @ (x**2 * y**2 * z**2) == pytest.approx(1 / 105, abs=1e-15)


SIZES = [(2, 6, 7), (4, 18, 18), (6, 18, 18), (3, 14, 14), (6, 14, 15)]


@pytest.mark.usefixtures("float64_oracle")
@pytest.mark.parametrize(("lmax", "latitudes", "longitudes"), SIZES)
def test_published_grid_equals_e3nn(lmax: int, latitudes: int, longitudes: int) -> None:
    ours = s2_grid(lmax, lmax, "equal_angle", latitudes, longitudes)
    keywords = {"normalization": "component"}
    to = ToS2Grid(lmax, (latitudes, longitudes), **keywords)
    back = FromS2Grid((latitudes, longitudes), lmax, **keywords)
    theirs_to = np.einsum("mbi,am->bai", to.shb.numpy(), to.sha.numpy())
    theirs_from = np.einsum("am,mbi->bai", back.sha.numpy(), back.shb.numpy())
    assert np.abs(ours.to_grid - theirs_to.reshape(ours.to_grid.shape)).max() < 1e-13
    assert np.abs(ours.from_grid - theirs_from.reshape(ours.from_grid.shape)).max() < 1e-13


KINDS = ["equal_angle", "gauss_legendre"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lmax", "mmax"), [(1, 1), (2, 2), (4, 2), (6, 3), (6, 6), (4, 0)])
def test_round_trip(kind: str, lmax: int, mmax: int) -> None:
    grid = s2_grid(lmax, mmax, kind)
    kept = [float(abs(m) <= mmax) for l in range(lmax + 1) for m in range(-l, l + 1)]
    assert np.abs(grid.from_grid.T @ grid.to_grid - np.diag(kept)).max() < 1e-13


@pytest.mark.parametrize("lmax", [1, 2, 3, 4, 6])
def test_gauss_legendre_is_exact_for_products(lmax: int) -> None:
    grid = s2_grid(lmax, lmax, "gauss_legendre")
    fine = s2_grid(lmax, lmax, "gauss_legendre", 3 * lmax + 4, 4 * lmax + 5)
    rng = np.random.default_rng(lmax)
    a, b = rng.normal(size=(2, (lmax + 1) ** 2))
    product, exact = (g.from_grid.T @ ((g.to_grid @ a) * (g.to_grid @ b)) for g in (grid, fine))
    assert np.abs(product - exact).max() < 1e-13
    coarser = s2_grid(lmax, lmax, "gauss_legendre", (3 * lmax + 2) // 2 - 1)
    worse = coarser.from_grid.T @ ((coarser.to_grid @ a) * (coarser.to_grid @ b))
    assert np.abs(worse - exact).max() > 1e-6, "no latitude is wasted"


def test_gauss_legendre_is_smaller_than_the_published_default() -> None:
    assert s2_grid(6, 2, "gauss_legendre").to_grid.shape[0] < s2_grid(6, 6, "equal_angle").to_grid.shape[0]


def test_default_sizes_of_the_published_grid() -> None:
    assert s2_grid(4, 4, "equal_angle").to_grid.shape == (10 * 11, 25)
    assert s2_grid(6, 2, "equal_angle").to_grid.shape == (14 * 5, 49)


def test_normalisation() -> None:
    grid = s2_grid(4, 4, "equal_angle")
    assert np.abs(grid.to_grid[:, 0] - 1 / np.sqrt(5)).max() < 1e-15


def test_an_odd_published_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="even number of latitudes, got 7"):
        s2_grid(2, 2, "equal_angle", 7, 7)

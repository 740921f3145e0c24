"""Quadrature on the sphere, and the grids on which point-wise non-linearities act.

A grid is a pair (to, from): values at point p = Σ_r to[p, r] x_r and coefficients x_r = Σ_p from[p, r] value_p.
Normalisation of e3nn's 'component' grids: to = Y / √(L+1), from = (2l+1) √(L+1) · weight · Y with weights of sum one.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from covarium.algebra.harmonics import spherical_harmonics_numpy

GridKind = Literal["equal_angle", "gauss_legendre"]


class Grid(NamedTuple):
    """to_grid and from_grid, both [points, S] float64 in l-primary order."""

    to_grid: np.ndarray
    from_grid: np.ndarray


@cache
def quadrature(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [P, 3] and weights [P] of sum one, exact for polynomials up to ``degree``: Gauss–Legendre × uniform."""
    cos_beta, w = np.polynomial.legendre.leggauss(degree // 2 + 1)
    longitudes = degree + 1
    points = _points(cos_beta, 2 * np.pi * np.arange(longitudes) / longitudes)
    return points.reshape(-1, 3), np.repeat(w / (2 * longitudes), longitudes)


def _points(cos_beta: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """[latitudes, longitudes, 3] unit vectors; β from +y, α = atan2(x, z)."""
    sin_beta = np.sqrt(1 - cos_beta**2)[:, None]
    y = np.broadcast_to(cos_beta[:, None], (len(cos_beta), len(alpha)))
    return np.stack([sin_beta * np.sin(alpha), y, sin_beta * np.cos(alpha)], axis=-1)


def s2_grid(lmax: int, mmax: int, kind: GridKind, latitudes: int | None = None, longitudes: int | None = None) -> Grid:
    """The grid of degree ``lmax`` for coefficients with |m| ≤ ``mmax``.

    Args:
        lmax: highest degree.
        mmax: highest order; columns with |m| > mmax are zero.
        kind: ``equal_angle``: the published grid of e3nn (β_b = (b+½)π/n); ``gauss_legendre``: half the latitudes
            at the same degree of exactness.
        latitudes: default 2(lmax+1) (equal angle) or ⌈(3 lmax+1)/2⌉, exact for products of two signals.
        longitudes: default 2 mmax+1 (2(mmax+1)+1 if lmax = mmax) for equal angle, 3 mmax+1 for Gauss–Legendre.

    Raises:
        ValueError: the published grid needs an even number of latitudes.
    """
    if kind == "equal_angle":
        n_beta = latitudes or 2 * (lmax + 1)
        n_alpha = longitudes or (2 * (mmax + 1) + 1 if lmax == mmax else 2 * mmax + 1)
        if n_beta % 2:
            raise ValueError(f"the equal-angle grid needs an even number of latitudes, got {n_beta}")
        beta = (np.arange(n_beta) + 0.5) * math.pi / n_beta
        k = 2 * np.arange(n_beta // 2) + 1
        cos_beta = np.cos(beta)
        # weights of J. Driscoll and D. Healy, Adv. Appl. Math. 15, 202 (1994), here of sum two
        weights = 4 / n_beta * np.sin(beta) * (np.sin(np.outer(beta, k)) / k).sum(1)
    else:
        n_beta = latitudes or (3 * lmax + 2) // 2
        n_alpha = longitudes or 3 * mmax + 1
        cos_beta, weights = np.polynomial.legendre.leggauss(n_beta)
    y = spherical_harmonics_numpy(_points(cos_beta, 2 * math.pi * np.arange(n_alpha) / n_alpha), lmax)
    degree = np.concatenate([np.full(2 * l + 1, l) for l in range(lmax + 1)])
    order = np.concatenate([np.arange(-l, l + 1) for l in range(lmax + 1)])
    y = np.where(np.abs(order) <= mmax, y, 0.0)
    from_grid = (2 * degree + 1) * math.sqrt(lmax + 1) * weights[:, None, None] * y / (2 * n_alpha)
    shape = (n_beta * n_alpha, -1)
    return Grid((y / math.sqrt(lmax + 1)).reshape(shape), from_grid.reshape(shape))

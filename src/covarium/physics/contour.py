"""A contour around a spectrum that leaves out the poles of the Fermi function: quadrature for ratios of weights.

L. Lin, J. Lu, L. Ying, W. E, Chin. Ann. Math. B 30, 729 (2009), arXiv 0812.0174, Sec. 2: with ξ = (z − μ)² + m and
m = (π/β)², energies fill [m, M] and poles of f fill (−∞, 0]. An elliptic function maps the ring between them on a
rectangle, where the midpoint rule converges exponentially, with about log(M/m) nodes per digit.
"""

from __future__ import annotations

import math

import numpy as np

from covarium.errors import CovariumError


def contour(
    beta: float, mu: float, bound: float, *, tolerance: float = 1e-9, symmetric: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z and weights w in the upper half plane with Σ_n [F(E'_n) − F(E_n)] = Im Σ_k w_k log D(z_k).

    F(E) = log(1 + exp(−β(E − μ))), D(z) = det(z − H')/det(z − H) for Hermitian H and H' whose log D has no jump off the
    real axis: |arg D| < π holds when H' − H has at most one positive and one negative eigenvalue.

    Args:
        beta: inverse temperature.
        mu: chemical potential.
        bound: no eigenvalue of either matrix is farther from ``mu``.
        tolerance: error relative to the largest |log D|.
        symmetric: both spectra are symmetric about ``mu``; the other quadrant then says nothing new and is left out.

    Returns:
        z and w, complex128 [K].

    Raises:
        CovariumError: a number that must be positive is not.
    """
    for name, value in (("inverse temperature", beta), ("bound of the spectrum", bound), ("tolerance", tolerance)):
        if not value > 0:
            raise CovariumError(f"{name} of a contour must be positive, got {value}")
    m = (math.pi / beta) ** 2
    big = bound**2 + m
    ratio = math.sqrt(big / m)
    k = (ratio - 1) / (ratio + 1)
    quarter = complete_elliptic(k)
    # half of the rectangle's decay per node: the integrand's own singularities, at the two intervals, are that far away
    decay = math.pi * complete_elliptic(math.sqrt(1 - k * k)) / (2 * quarter)
    points = math.ceil(math.log(1 / tolerance) / decay) + 1
    x = -quarter + (np.arange(points) + 0.5) * 2 * quarter / points
    # u = sn(x + iK'/2) by the addition theorem, with sn, cn, dn(iK'/2) = i/√k, √((1+k)/k), √(1+k)
    s, c, d = jacobi(x, k)
    top, bottom = (1 + k) * s + 1j * c * d, math.sqrt(k) * (1 + k * s * s)
    u = top / bottom
    du = ((1 + k) * c * d - 1j * s * (d * d + k * k * c * c) - u * math.sqrt(k) * 2 * k * s * c * d) / bottom
    xi = math.sqrt(m * big) * (1 / k + u) / (1 / k - u)
    dxi = math.sqrt(m * big) * (2 / k) / (1 / k - u) ** 2 * du
    z = np.sqrt(xi - m)
    # from the far right of the real axis towards the imaginary axis
    dz = -dxi / (2 * z) * (2 * quarter / points)
    tanh = np.tanh(0.5 * beta * z)
    if symmetric:
        return mu + z, -beta / math.pi * tanh * dz
    weights = [0.5 * (1 - tanh) * dz, 0.5 * (1 + tanh.conj()) * dz.conj()]
    return mu + np.concatenate([z, -z.conj()]), beta / math.pi * np.concatenate(weights)


def complete_elliptic(k: float) -> float:
    """K(k), the quarter period, by the arithmetic-geometric mean (Abramowitz & Stegun 17.6.3)."""
    a, b = 1.0, math.sqrt(1 - k * k)
    while abs(a - b) > 1e-15 * a:
        a, b = (a + b) / 2, math.sqrt(a * b)
    return math.pi / (2 * a)


def jacobi(x: np.ndarray, k: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sn, cn, dn of real arguments, by the arithmetic-geometric mean (Abramowitz & Stegun 16.4)."""
    a, b, ratios = 1.0, math.sqrt(1 - k * k), []
    while abs(a - b) > 1e-15 * a:
        ratios.append((a - b) / (a + b))
        a, b = (a + b) / 2, math.sqrt(a * b)
    phase = 2 ** len(ratios) * a * x
    for ratio in reversed(ratios):
        phase = (phase + np.arcsin(ratio * np.sin(phase))) / 2
    sn = np.sin(phase)
    return sn, np.cos(phase), np.sqrt(1 - (k * sn) ** 2)

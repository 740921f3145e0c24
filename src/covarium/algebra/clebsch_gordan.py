"""The invariant of three real representations of SO(3), from factorials; the basis is that of ``harmonics``.

Two facts make it: the Clebsch–Gordan coefficients in closed form (G. Racah, Phys. Rev. 62, 438 (1942), Eq. 16, with
exact integers), and the unitary change to real harmonics. It equals e3nn's ``wigner_3j`` in sign and norm.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """[2l₁+1, 2l₂+1, 2l₃+1] float64 with Frobenius norm 1, invariant under D_{l1} ⊗ D_{l2} ⊗ D_{l3}.

    Raises:
        ValueError: the degrees violate the triangle inequality.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees {l1}, {l2}, {l3} violate the triangle inequality")
    complex_form = _condon_shortley(l1, l2, l3)
    u1, u2, u3 = (_real_basis(l) for l in (l1, l2, l3))
    real_form = np.einsum("ijk,ia,jb,kc->abc", complex_form, u1, u2, u3.conj()).real
    real_form[np.abs(real_form) < 1e-14] = 0.0
    result = real_form / np.linalg.norm(real_form)
    result.setflags(write=False)
    return result


def _condon_shortley(l1: int, l2: int, l3: int) -> np.ndarray:
    """⟨l₁ m₁ l₂ m₂ | l₃ m₃⟩ for m = −l..l."""
    result = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            result[l1 + m1, l2 + m2, l3 + m1 + m2] = _racah(l1, m1, l2, m2, l3)
    return result


def _racah(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    f, m3 = math.factorial, m1 + m2
    square = Fraction((2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3), f(l1 + l2 + l3 + 1))
    square *= f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    total = Fraction(0)
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        parts = (k, l1 + l2 - l3 - k, l1 - m1 - k, l2 + m2 - k, l3 - l2 + m1 + k, l3 - l1 - m2 + k)
        total += Fraction((-1) ** k, math.prod(f(part) for part in parts))
    # one root of an exact number: the sign belongs to the sum
    return math.copysign(math.sqrt(square * total * total), total)


def _real_basis(l: int) -> np.ndarray:
    """[complex m, real m] unitary; its phase (−i)^l makes the invariant real."""
    u = np.zeros((2 * l + 1, 2 * l + 1), dtype=np.complex128)
    u[l, l] = 1.0
    for m in range(1, l + 1):
        sign = (-1) ** m
        u[l - m, [l + m, l - m]] = np.array([1.0, -1j]) / math.sqrt(2)
        u[l + m, [l + m, l - m]] = np.array([sign, 1j * sign]) / math.sqrt(2)
    return (-1j) ** l * u

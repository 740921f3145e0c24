"""Real spherical harmonics with the polar axis y, as polynomials: no angles, smooth at the poles.

Y_{l,m}, m = −l..l, with cos β = y, α = atan2(x, z): n_{lm} P_l^{|m|}(cos β) · (cos mα for m ≥ 0, sin |m|α for m < 0),
no Condon–Shortley phase, n² = (2 if m ≠ 0 else 1)(l−|m|)!/(l+|m|)!, so that Σ_m Y² = 1. Degree 1 is (x, y, z).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def spherical_harmonics(unit: Float[Tensor, "*batch 3"], lmax: int) -> Float[Tensor, "*batch S"]:
    """All harmonics of degree 0..lmax of unit vectors, l-primary; S = (lmax + 1)². Differentiable to any order."""
    x, y, z = unit.unbind(-1)
    return torch.stack(_components(x, y, z, torch.ones_like(y), lmax), dim=-1)


def spherical_harmonics_numpy(unit: np.ndarray, lmax: int) -> np.ndarray:
    """The same for float64 arrays [..., 3], for the tables of other algebra modules."""
    x, y, z = np.moveaxis(np.asarray(unit, dtype=np.float64), -1, 0)
    return np.stack(_components(x, y, z, np.ones_like(y), lmax), axis=-1)


def _components(x: Any, y: Any, z: Any, one: Any, lmax: int) -> list[Any]:  # noqa: ANN401 - numpy or torch
    """The (lmax + 1)² components by recursion; works on anything with arithmetic."""
    # c_m + i s_m = (z + i x)^m = sin^m β (cos mα + i sin mα)
    c, s = [one], [0 * one]
    for m in range(1, lmax + 1):
        c.append(z * c[m - 1] - x * s[m - 1])
        s.append(z * s[m - 1] + x * c[m - 1])
    # q[l][m] = P_l^m(y) / sin^m β
    q: list[list[Any]] = [[one]]
    for l in range(1, lmax + 1):
        row = [((2 * l - 1) * y * q[l - 1][m] - (l + m - 1) * q[l - 2][m]) / (l - m) for m in range(l - 1)]
        row += [(2 * l - 1) * y * q[l - 1][l - 1], float(math.prod(range(1, 2 * l, 2))) * one]
        q.append(row)
    out = []
    for l in range(lmax + 1):
        for m in range(-l, l + 1):
            n = math.sqrt((2 if m else 1) * math.factorial(l - abs(m)) / math.factorial(l + abs(m)))
            out.append(n * q[l][abs(m)] * (c[m] if m >= 0 else s[-m]))
    return out

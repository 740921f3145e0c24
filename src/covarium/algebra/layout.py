"""Orders of the coefficients: l-primary (l, then m = −l..l) and m-primary (m = 0, +1, −1, +2, …; then l).

m-primary with |m| ≤ mmax, e.g. lmax 3, mmax 2: (0,0)(1,0)(2,0)(3,0) | (1,1)(2,1)(3,1) (1,−1)(2,−1)(3,−1) |
(2,2)(3,2) (2,−2)(3,−2). R is their number, S = (lmax + 1)².
"""

from __future__ import annotations

from functools import cache


@cache
def m_primary(lmax: int, mmax: int) -> tuple[tuple[int, int], ...]:
    """The pairs (l, m) in m-primary order."""
    pairs = [(l, 0) for l in range(lmax + 1)]
    for m in range(1, mmax + 1):
        for sign in (1, -1):
            pairs += [(l, sign * m) for l in range(m, lmax + 1)]
    return tuple(pairs)


@cache
def l_primary(lmax: int) -> tuple[tuple[int, int], ...]:
    """The pairs (l, m) in l-primary order."""
    return tuple((l, m) for l in range(lmax + 1) for m in range(-l, l + 1))

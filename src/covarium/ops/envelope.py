"""Functions that vanish smoothly at the cutoff."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def polynomial_envelope(u: Float[Tensor, " E"], p: int = 5) -> Float[Tensor, " E"]:
    """1 at u = 0, and 0 with zero first and second derivative at u = 1 and beyond.

    J. Gasteiger et al. 2020, arXiv 2003.03123, Eq. 8: 1 − (p+1)(p+2)/2 u^p + p(p+2) u^(p+1) − p(p+1)/2 u^(p+2), here in
    the factored form (1−u)³ Σ_{k<p} (k+1)(k+2)/2 u^k, which loses no digits at the cutoff and is never negative.
    """
    series = torch.zeros_like(u)
    for k in reversed(range(p)):
        series = series * u + (k + 1) * (k + 2) / 2
    return (1 - u).clamp(min=0) ** 3 * series

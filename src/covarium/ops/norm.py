"""The length of a vector, with derivatives where the length is zero."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def norm(x: Float[Tensor, "*rest"], dim: int = -1, epsilon: float = 0.0) -> Float[Tensor, "*less"]:
    """√(Σ x² + ε²) over one axis.

    With ε = 0 the length itself: its derivative at x = 0 is zero instead of undefined, and jumps there. With ε > 0 it
    is smooth everywhere, with second derivatives up to 1/ε.
    """
    square = x.square().sum(dim)
    if epsilon:
        return (square + epsilon**2).sqrt()
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())

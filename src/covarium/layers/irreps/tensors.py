"""Vectors and symmetric matrices as features of degrees 0, 1, 2. Letters: N atoms, B structures, S = (lmax + 1)²."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from covarium.algebra.harmonics import spherical_harmonics
from covarium.algebra.layout import l_primary


def vector_harmonics(vectors: Float[Tensor, "N 3"], lmax: int) -> Float[Tensor, "N S"]:
    """|v|/√3 times the harmonics of the direction, Σ_m Y² = 2l + 1; zero for v = 0.

    The force encoding of Liao 2024, arXiv 2403.09549. Not differentiable at v = 0: vectors are data here.
    """
    size = vectors.norm(dim=1, keepdim=True)
    y = spherical_harmonics(vectors / size.clamp(min=torch.finfo(vectors.dtype).tiny), lmax)
    scale = [math.sqrt((2 * l + 1) / 3) for l, _ in l_primary(lmax)]
    return y * size * y.new_tensor(scale)


def symmetric_matrices(rows: Float[Tensor, "B 9"]) -> Float[Tensor, "B 3 3"]:
    """Degrees 0 and 2 (degree 1 is not read) in an orthonormal basis of the symmetric 3 × 3 matrices."""
    a, b, c = 1 / math.sqrt(3), 1 / math.sqrt(2), 1 / math.sqrt(6)
    basis = [
        [a, 0, 0, 0, a, 0, 0, 0, a],
        *[[0.0] * 9] * 3,
        [0, 0, b, 0, 0, 0, b, 0, 0],
        [0, b, 0, b, 0, 0, 0, 0, 0],
        [-c, 0, 0, 0, 2 * c, 0, 0, 0, -c],
        [0, 0, 0, 0, 0, b, 0, b, 0],
        [-b, 0, 0, 0, 0, 0, 0, 0, b],
    ]
    return (rows @ rows.new_tensor(basis)).unflatten(1, (3, 3))

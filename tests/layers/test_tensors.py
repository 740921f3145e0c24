"""Vectors and symmetric matrices as features."""

import numpy as np
import torch

from covarium.algebra.rotations import random_rotations
from covarium.algebra.wigner import wigner_d
from covarium.layers.irreps.tensors import symmetric_matrices, vector_harmonics

ROTATIONS = random_rotations(5, torch.Generator().manual_seed(0))


def turned(rows: torch.Tensor, rotation: torch.Tensor, lmax: int) -> torch.Tensor:
    return rows @ torch.block_diag(*[d[0] for d in wigner_d(rotation[None], lmax)]).T


def test_vector_harmonics() -> None:
    v = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = vector_harmonics(v, 3)
    for r in ROTATIONS:
        assert (vector_harmonics(v @ r.T, 3) - turned(y, r, 3)).abs().max() < 1e-14
    assert (y[:, 1:4] - v).abs().max() < 1e-15, "degree 1 is the vector itself"
    for l in range(4):
        size = y[:, l * l : (l + 1) ** 2].square().sum(1)
        assert (size - (2 * l + 1) / 3 * v.square().sum(1)).abs().max() < 1e-14
    assert vector_harmonics(torch.zeros(2, 3), 3).abs().max() == 0


def test_symmetric_matrices() -> None:
    rows = torch.randn(5, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrices = symmetric_matrices(rows)
    assert torch.equal(matrices, matrices.transpose(1, 2))
    for r in ROTATIONS:
        assert (symmetric_matrices(turned(rows, r, 2)) - r @ matrices @ r.T).abs().max() < 1e-14
    rows[:, 1:4] = 0
    size = symmetric_matrices(rows).square().sum((1, 2))
    assert (size - rows.square().sum(1)).abs().max() < 1e-14, "orthonormal"
    trace = symmetric_matrices(torch.eye(9, dtype=torch.float64)).diagonal(dim1=1, dim2=2).sum(1).numpy()
    assert np.allclose(trace, [np.sqrt(3), *[0] * 8], atol=1e-15)

"""Wigner D matrices in the real basis, by recursion in the degree: no Euler angles, no acos, no stored tables.

D_{l+1} = C_lᵀ (D_l ⊗ R) C_l, where C_l embeds degree l + 1 isometrically into l ⊗ 1. Every entry of D is a polynomial
in the entries of R, so all derivatives exist and are exact everywhere. D is defined by Y(R v) = D(R) Y(v); D_1 = R.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from covarium.algebra.harmonics import spherical_harmonics_numpy
from covarium.algebra.layout import m_primary
from covarium.algebra.rounding import unrounded
from covarium.algebra.sphere import quadrature


@cache
def coupling(l: int) -> np.ndarray:
    """[2l+1, 3, 2l+3] float64: the isometry C_l from degree l + 1 into l ⊗ 1.

    Up to normalisation C_l is the Gaunt coefficient ∫ Y_l Y_1 Y_{l+1} (l + 1 + (l+1) is even, so it does not vanish),
    here by a quadrature that is exact for it.
    """
    points, weights = quadrature(2 * l + 2)
    y = spherical_harmonics_numpy(points, l + 1)
    a, b, c = y[:, l * l : (l + 1) ** 2], y[:, 1:4], y[:, (l + 1) ** 2 :]
    gaunt = np.einsum("p,pi,pj,pk->ijk", weights, a, b, c)
    gaunt[np.abs(gaunt) < 1e-14] = 0.0
    return gaunt / np.linalg.norm(gaunt[:, :, 0])


def wigner_d(rotations: Float[Tensor, "E 3 3"], lmax: int) -> list[Float[Tensor, "E _ _"]]:
    """D_0 .. D_lmax of proper rotations, each [E, 2l+1, 2l+1], in their dtype; differentiable to any order."""
    dtype, rotations = rotations.dtype, unrounded(rotations)
    blocks = [rotations.new_ones(rotations.shape[0], 1, 1), rotations]
    for l in range(1, lmax):
        c = torch.from_numpy(coupling(l)).to(rotations)
        n = 2 * l + 1
        # [E, p, b, M] = Σ_q D[p, q] C[q, b, M]
        x = (blocks[l] @ c.reshape(n, -1)).unflatten(-1, (3, n + 2))
        x = torch.einsum("eab,epbm->epam", rotations, x)
        blocks.append(c.reshape(-1, n + 2).T @ x.flatten(1, 2))
    return [block.to(dtype) for block in blocks[: lmax + 1]]


@cache
def _positions(lmax: int, mmax: int) -> np.ndarray:
    """For each entry of the m-primary [R, S] matrix its place in the concatenated blocks; the last place is a zero."""
    starts = np.cumsum([0] + [(2 * l + 1) ** 2 for l in range(lmax + 1)])
    pairs = m_primary(lmax, mmax)
    place = np.full((len(pairs), (lmax + 1) ** 2), starts[-1], dtype=np.int64)
    for row, (l, m) in enumerate(pairs):
        place[row, l * l : (l + 1) ** 2] = starts[l] + (l + m) * (2 * l + 1) + np.arange(2 * l + 1)
    return place


def edge_wigner(rotations: Float[Tensor, "E 3 3"], lmax: int, mmax: int) -> Float[Tensor, "E R S"]:
    """Rotation from the l-primary global basis into the m-primary edge frame, rows |m| ≤ mmax only.

    Block-diagonal D with the permutation folded in, stored densely because one batched product is the fastest
    rotation up to lmax 6 on the shapes of these models.
    """
    blocks = wigner_d(rotations, lmax)
    flat = torch.cat([block.flatten(1) for block in blocks] + [rotations.new_zeros(rotations.shape[0], 1)], dim=1)
    place = _positions(lmax, mmax)
    index = torch.from_numpy(place.ravel()).to(rotations.device)
    return flat.index_select(1, index).unflatten(1, place.shape)

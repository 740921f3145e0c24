"""Wigner D against e3nn and against its definition, in both precisions, in every direction, with derivatives."""

import numpy as np
import pytest
import torch
from e3nn import o3
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from covarium.algebra.harmonics import spherical_harmonics
from covarium.algebra.layout import m_primary
from covarium.algebra.rotations import edge_frames, random_rotations
from covarium.algebra.wigner import coupling, edge_wigner, wigner_d

LMAX = 12


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def edges() -> Tensor:
    """Directions where Euler angles fail, and random ones."""
    g = torch.Generator().manual_seed(0)
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    near = [axes + size * torch.randn(6, 3, generator=g, dtype=torch.float64) for size in (1e-8, 1e-6, 1e-4, 1e-2)]
    border = torch.randn(20, 3, generator=g, dtype=torch.float64) * torch.tensor([1.0, 1e-8, 1.0])
    return unit(torch.cat([axes, *near, border, torch.randn(150, 3, generator=g, dtype=torch.float64)]))


def definition_error(rotations: Tensor, blocks: list[Tensor]) -> float:
    """max |Y(R v) − D(R) Y(v)| over random v and all degrees, in float64."""
    v = unit(torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    before = spherical_harmonics(v, LMAX)
    after = spherical_harmonics(v @ rotations.mT, LMAX)
    worst = 0.0
    for l, block in enumerate(blocks):
        part = slice(l * l, (l + 1) ** 2)
        found = torch.einsum("eab,vb->eva", block.double(), before[:, part])
        worst = max(worst, float((found - after[..., part]).abs().max()))
    return worst


def test_definition_in_float64() -> None:
    for rotations in (edge_frames(edges()), random_rotations(50, torch.Generator().manual_seed(2))):
        assert definition_error(rotations, wigner_d(rotations, LMAX)) <= 1e-12


def test_float32_error_in_every_direction() -> None:
    exact = wigner_d(edge_frames(edges()), LMAX)
    single = wigner_d(edge_frames(edges().float()), LMAX)
    assert all(block.dtype == torch.float32 for block in single)
    # the direction itself is rounded: compare with the exact D of the rounded direction as well
    rounded = wigner_d(edge_frames(unit(edges().float().double())), LMAX)
    assert max(float((a - b).abs().max()) for a, b in zip(single, rounded, strict=True)) <= 1e-5
    assert max(float((a - b).abs().max()) for a, b in zip(single, exact, strict=True)) <= 1e-5


@pytest.mark.usefixtures("float64_oracle")
def test_equals_e3nn() -> None:
    # from angles: e3nn's own way from a matrix to angles goes through acos
    angles = 6.0 * torch.rand(3, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    alpha, beta, gamma = angles.unbind()
    blocks = wigner_d(o3.angles_to_matrix(alpha, beta, gamma), LMAX)
    for l in range(LMAX + 1):
        assert (blocks[l] - o3.wigner_D(l, alpha, beta, gamma)).abs().max() <= 1e-12, l


def test_blocks_are_orthogonal_and_homomorphic() -> None:
    a, b = random_rotations(40, torch.Generator().manual_seed(4)).chunk(2)
    for l, (x, y, xy) in enumerate(zip(*(wigner_d(r, LMAX) for r in (a, b, a @ b)), strict=True)):
        assert (x @ y - xy).abs().max() <= 1e-12, l
        assert (x @ x.mT - torch.eye(2 * l + 1, dtype=torch.float64)).abs().max() <= 1e-12, l


def test_identity_inverse_and_low_degrees() -> None:
    r = random_rotations(10, torch.Generator().manual_seed(5))
    blocks = wigner_d(r, 4)
    assert torch.equal(blocks[1], r)
    assert all((x - y.mT).abs().max() < 1e-14 for x, y in zip(wigner_d(r.mT, 4), blocks, strict=True))
    eye = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    assert all((block[0] - torch.eye(len(block[0]))).abs().max() < 1e-13 for block in wigner_d(eye, LMAX))
    assert [b.shape[1] for b in wigner_d(r, 0)] == [1]
    assert [b.shape[1] for b in wigner_d(r, 1)] == [1, 3]
    assert all(b.shape[0] == 0 for b in wigner_d(r[:0], 3))


@pytest.mark.parametrize("l", range(1, LMAX))
def test_coupling_is_an_isometry(l: int) -> None:
    c = coupling(l).reshape(-1, 2 * l + 3)
    assert np.abs(c.T @ c - np.eye(2 * l + 3)).max() < 1e-13


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("offset", [0.0, 1e-8])
def test_first_and_second_derivatives_at_the_poles(sign: float, offset: float) -> None:
    v = torch.tensor([[offset, sign, -offset]], dtype=torch.float64, requires_grad=True)

    def rotation(r: Tensor) -> Tensor:
        return edge_wigner(edge_frames(unit(r)), 3, 3)

    assert gradcheck(rotation, (v,))
    assert gradgradcheck(rotation, (v,))


@pytest.mark.parametrize("axis", [0, 2])
def test_derivatives_on_the_other_axes(axis: int) -> None:
    # y = 0 belongs to the upper chart; a step of the finite difference must not leave it
    v = torch.full((1, 3), 0.0, dtype=torch.float64)
    v[0, axis] = 1.0
    v[0, 1] = 1e-3
    v.requires_grad_()
    assert gradcheck(lambda r: edge_wigner(edge_frames(unit(r)), 3, 2), (v,))
    assert gradgradcheck(lambda r: edge_wigner(edge_frames(unit(r)), 2, 2), (v,))


@pytest.mark.parametrize(("lmax", "mmax"), [(1, 0), (2, 2), (4, 2), (6, 3), (6, 0)])
def test_edge_wigner_is_the_cut_and_permuted_block_diagonal(lmax: int, mmax: int) -> None:
    r = edge_frames(edges())
    dense = torch.stack([torch.block_diag(*[b[e] for b in wigner_d(r, lmax)]) for e in range(len(r))])
    rows = [l * l + l + m for l, m in m_primary(lmax, mmax)]
    assert torch.equal(edge_wigner(r, lmax, mmax), dense[:, rows])


def test_the_rotated_edge_has_only_m_zero() -> None:
    v = edges()
    y = spherical_harmonics(v, 6)
    rotated = (edge_wigner(edge_frames(v), 6, 6) @ y.unsqueeze(2)).squeeze(2)
    expected = torch.tensor([1.0 if m == 0 else 0.0 for _, m in m_primary(6, 6)], dtype=torch.float64)
    assert (rotated - expected).abs().max() < 1e-13


def test_constants_are_no_torch_tensors() -> None:
    assert isinstance(coupling(3), np.ndarray) and coupling(3).dtype == np.float64

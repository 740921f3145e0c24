"""Edge frames: rotations that carry an edge to +y, exact and differentiable in every direction, the poles included."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from covarium.algebra.rotations import edge_frames, quaternion_to_matrix, random_rotations

AXES = torch.cat([torch.eye(3), -torch.eye(3)]).double()


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def directions(dtype: torch.dtype = torch.float64) -> Tensor:
    """Random, on the axes, and within 1e-8, 1e-4 and 1e-2 of them."""
    g = torch.Generator().manual_seed(0)
    random = torch.randn(300, 3, generator=g, dtype=torch.float64)
    near = [AXES + size * torch.randn(6, 3, generator=g, dtype=torch.float64) for size in (1e-8, 1e-4, 1e-2)]
    border = torch.randn(50, 3, generator=g, dtype=torch.float64) * torch.tensor([1.0, 1e-9, 1.0])
    return unit(torch.cat([random, AXES, *near, border]).to(dtype))


@pytest.mark.parametrize(("dtype", "level"), [(torch.float64, 1e-15), (torch.float32, 5e-7)])
def test_frames_are_rotations_that_carry_the_edge_to_y(dtype: torch.dtype, level: float) -> None:
    r = directions(dtype)
    frames = edge_frames(r)
    assert frames.dtype == dtype
    carried = (frames @ r.unsqueeze(2)).squeeze(2)
    assert (carried - torch.tensor([0.0, 1.0, 0.0], dtype=dtype)).abs().max() <= 2 * level
    assert (frames @ frames.mT - torch.eye(3, dtype=dtype)).abs().max() <= 3 * level
    assert (torch.linalg.det(frames) - 1).abs().max() <= 5 * level


def test_frames_are_exact_on_the_axes() -> None:
    frames = edge_frames(AXES)
    carried = (frames @ AXES.unsqueeze(2)).squeeze(2)
    assert torch.equal(carried, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(6, 3))
    assert torch.equal(frames[1], torch.eye(3, dtype=torch.float64)), "the frame of +y is no rotation at all"
    assert torch.equal(frames[4], torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)))


def test_frames_are_deterministic() -> None:
    assert torch.equal(edge_frames(directions()), edge_frames(directions()))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("distance", [0.0, 1e-8, 1e-3, 0.5, 1.2])
def test_first_and_second_derivatives_at_the_poles(sign: float, distance: float) -> None:
    # the derivative along every direction of the ambient space: r is normalised inside
    r = torch.tensor([[math.sin(distance), sign * math.cos(distance), 0.0]], dtype=torch.float64)
    r.requires_grad_()
    assert gradcheck(lambda v: edge_frames(unit(v)), (r,))
    assert gradgradcheck(lambda v: edge_frames(unit(v)), (r,))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_chart_is_smooth_through_its_pole(sign: float) -> None:
    pole = torch.tensor([0.0, sign, 0.0], dtype=torch.float64)
    for along in torch.eye(3, dtype=torch.float64)[[0, 2]]:
        near = edge_frames(unit(torch.stack([pole - 1e-8 * along, pole, pole + 1e-8 * along])))
        assert (near[0] - near[1]).abs().max() <= 1.1e-8
        assert (near[0] + near[2] - 2 * near[1]).abs().max() <= 1e-15


def test_across_the_border_the_frame_only_turns_about_the_edge() -> None:
    g = torch.Generator().manual_seed(1)
    angle = 2 * math.pi * torch.rand(50, generator=g, dtype=torch.float64)
    x, z = angle.sin(), angle.cos()
    above, below = (edge_frames(unit(torch.stack([x, h * torch.ones_like(x), z], 1))) for h in (1e-12, -1e-12))
    turn = above @ below.mT
    assert (turn[:, 1] - torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)).abs().max() < 1e-11
    assert (turn - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2)).max() > 1, "there are two charts"


def test_random_rotations_are_rotations_and_uniform() -> None:
    r = random_rotations(20_000, torch.Generator().manual_seed(0))
    assert (r @ r.mT - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-14
    assert (torch.linalg.det(r) - 1).abs().max() < 1e-14
    # moments of the Haar measure: mean R = 0, mean R_ij R_kl = δ_ik δ_jl / 3, each within five standard errors
    assert r.mean(0).abs().max() < 5 / math.sqrt(3 * 20_000)
    flat = r.flatten(1)
    assert (flat.T @ flat / len(flat) - torch.eye(9, dtype=torch.float64) / 3).abs().max() < 5 * 0.3 / math.sqrt(20_000)
    assert torch.equal(r, random_rotations(20_000, torch.Generator().manual_seed(0)))


def test_quaternions() -> None:
    h = math.sqrt(0.5)
    quarter = quaternion_to_matrix(torch.tensor([h, 0.0, 0.0, h], dtype=torch.float64))
    expected = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert (quarter - expected).abs().max() < 1e-15

"""Objects to multivectors and back, moved by versors as the objects themselves move, and equal to the stored ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from covarium.algebra.objects import Conformal, Euclidean, Projective
from covarium.algebra.rotations import quaternion_to_matrix

STORED = Path(__file__).parents[1] / "parity" / "gatr_operations"
both = pytest.mark.parametrize("space", [Projective(), Conformal()], ids=["projective", "conformal"])
number = st.floats(-5, 5)
vector = st.tuples(number, number, number).map(lambda v: torch.tensor(v, dtype=torch.float64))
direction = vector.filter(lambda v: float(v.norm()) > 0.1).map(lambda v: v / v.norm())
positive = st.floats(0.1, 5).map(lambda x: torch.tensor(x, dtype=torch.float64))
quaternion = (
    st.tuples(number, number, number, number)
    .map(lambda q: torch.tensor(q, dtype=torch.float64))
    .filter(lambda q: float(q.norm()) > 0.1)
    .map(lambda q: q / q.norm())
)
quick = settings(max_examples=25, deadline=None)


def close(one: Tensor | tuple[Tensor, ...], other: Tensor | tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@both
@given(p=vector, n=direction, d=number, q=quaternion, size=positive)
@quick
def test_round_trips(space: Projective | Conformal, p: Tensor, n: Tensor, d: float, q: Tensor, size: Tensor) -> None:
    """Any positive multiple of an object reads alike."""
    offset = torch.tensor(d, dtype=torch.float64)
    close(space.read_point(size * space.point(p)), p)
    close(space.read_direction(space.direction(p)), p)
    close(space.read_plane(size * space.plane(n, offset)), (n, offset))
    moment = torch.linalg.cross(p, n)
    close(space.read_line(size * space.line(n, moment)), (n, moment))
    close(space.read_rotation(size * space.rotation(q)), q)
    close(space.read_translation(size * space.translation(p)), p)


@given(p=vector, n=direction, radius=positive, size=positive)
@quick
def test_spheres_and_circles(p: Tensor, n: Tensor, radius: Tensor, size: Tensor) -> None:
    space = Conformal()
    close(space.read_sphere(size * space.sphere(p, radius)), (p, radius))
    centre, normal, found = space.read_circle(size * space.circle(p, n, radius))
    torch.testing.assert_close(centre, p, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(normal, n, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found, radius, rtol=1e-6, atol=1e-6)
    # a point of the circle is orthogonal to it, and to the sphere
    across = torch.linalg.cross(n, torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64))
    if float(across.norm()) > 0.1:
        on = space.point(p + radius * across / across.norm())
        assert abs(float(space.algebra.inner(on, space.sphere(p, radius)))) < 1e-9
        # X ⌋ (S ∧ π) = (X·S) π − (X·π) S
        left = (
            space.algebra.multiply(on, space.circle(p, n, radius))
            - space.algebra.multiply(space.circle(p, n, radius), on)
        ) / 2
        assert float(space.algebra.grade(left, 1).abs().max()) < 1e-9


@given(n=direction, q=quaternion, size=positive)
@quick
def test_euclidean_round_trips(n: Tensor, q: Tensor, size: Tensor) -> None:
    space = Euclidean()
    close(space.read_direction(space.direction(n)), n)
    close(space.read_plane(size * space.plane(n)), n)
    close(space.read_rotation(size * space.rotation(q)), q)
    turned = quaternion_to_matrix(q) @ n
    close(space.algebra.act(space.rotation(q), space.direction(n)), space.direction(turned))
    close(space.algebra.act(space.rotation(q), space.plane(n)), space.plane(turned))


@both
@given(p=vector, n=direction, t=vector, q=quaternion)
@quick
def test_versors_move_objects(space: Projective | Conformal, p: Tensor, n: Tensor, t: Tensor, q: Tensor) -> None:
    act = space.algebra.act
    shift, turn = space.translation(t), space.rotation(q)
    close(space.read_point(act(shift, space.point(p))), p + t)
    close(act(shift, space.plane(n, (n * p).sum())), space.plane(n, (n * (p + t)).sum()))
    close(act(shift, space.line(n, torch.linalg.cross(p, n))), space.line(n, torch.linalg.cross(p + t, n)))
    close(act(shift, space.direction(n)), space.direction(n))
    m = quaternion_to_matrix(q)
    close(space.read_point(act(turn, space.point(p))), m @ p)
    close(act(turn, space.plane(n, (n * p).sum())), space.plane(m @ n, (n * p).sum()))
    close(act(turn, space.line(n, torch.linalg.cross(p, n))), space.line(m @ n, m @ torch.linalg.cross(p, n)))
    close(act(turn, space.direction(n)), space.direction(m @ n))


@given(p=vector, n=direction, radius=positive, t=vector, q=quaternion)
@quick
def test_versors_move_spheres_and_circles(p: Tensor, n: Tensor, radius: Tensor, t: Tensor, q: Tensor) -> None:
    space = Conformal()
    act, m = space.algebra.act, quaternion_to_matrix(q)
    close(act(space.translation(t), space.sphere(p, radius)), space.sphere(p + t, radius))
    close(act(space.rotation(q), space.circle(p, n, radius)), space.circle(m @ p, m @ n, radius))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [0.1, 1.0, 50.0])
def test_radii_within_rounding_are_zero(dtype: torch.dtype, size: float) -> None:
    space, g = Conformal(), torch.Generator().manual_seed(0)
    centre, normal = torch.randn(2, 5000, 3, generator=g, dtype=dtype)
    centre = size * centre
    radius = torch.zeros(5000, dtype=dtype, requires_grad=True)
    eps = torch.finfo(dtype).eps
    for read in (
        space.read_sphere(space.sphere(centre, radius)),
        space.read_circle(space.circle(centre, normal, radius)),
    ):
        assert torch.equal(read[-1], torch.zeros_like(radius))
        (slope,) = torch.autograd.grad(read[-1].sum(), radius, create_graph=True)
        assert torch.equal(slope, torch.zeros_like(radius))
        (bend,) = torch.autograd.grad(slope.sum(), radius, allow_unused=True)
        assert bend is None or bool(bend.isfinite().all())
        assert bool(((read[0] - centre).norm(dim=-1) < 4 * eps * (1 + centre.norm(dim=-1)) ** 3).all())
    # the smallest radii that are told are near those that went in; smaller ones are 0
    limit = (2 * eps) ** 0.5 * (centre.square().sum(-1) + 1)
    _, found = space.read_sphere(space.sphere(centre, 2 * limit))
    torch.testing.assert_close(found, 2 * limit, rtol=0.3, atol=0)
    assert float(space.read_sphere(space.sphere(centre, 0.5 * limit))[1].isnan().sum()) == 0


def test_what_has_no_place_is_not_finite() -> None:
    """An imaginary sphere, what parallel planes have in common, the plane and points at infinity."""
    conformal, projective = Conformal(), Projective()
    one, n = torch.ones(()).double(), torch.tensor([0.0, 0.6, 0.8]).double()
    imaginary = conformal.point(n) + conformal.infinity(one)
    assert bool(conformal.read_sphere(imaginary)[1].isnan())
    common = projective.algebra.wedge(projective.plane(n, one), projective.plane(n, 2 * one))
    assert not any(bool(part.isfinite().any()) for part in projective.read_line(common))
    assert not any(bool(part.isfinite().any()) for part in projective.read_plane(projective.plane(0 * n, one)))
    assert not bool(projective.read_point(projective.direction(n)).isfinite().any())


def test_distances_of_conformal_points() -> None:
    space = Conformal()
    x, y = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    close(space.algebra.inner(space.point(x), space.point(y)), -0.5 * (x - y).square().sum(-1))
    assert float(space.algebra.inner(space.point(x), space.point(x)).abs().max()) < 1e-12


def test_stored_projective_objects() -> None:
    inputs, outputs = (np.load(STORED / "primitives" / f"{name}.npz") for name in ("inputs", "outputs"))
    given_ = {name: torch.from_numpy(inputs[name]) for name in inputs}
    space = Projective()
    p, n = given_["point"], given_["normal"]
    quaternion = given_["quaternion_ijkw"][:, [3, 0, 1, 2]]
    line, mv = given_["pluecker"], given_["mv_for_extract"]
    ours = {
        "embed_point": space.point(p),
        "embed_plane": space.plane(n, (n * p).sum(-1)),
        "embed_pluecker_ray": space.line(line[:, :3], line[:, 3:]),
        "embed_rotation": space.rotation(quaternion),
        "embed_translation": space.translation(given_["translation"]),
        "extract_point": space.read_point(mv),
        "extract_rotation": space.read_rotation(mv)[:, [1, 2, 3, 0]],
    }
    for name, value in ours.items():
        np.testing.assert_allclose(value.numpy(), outputs[name], atol=1e-13, err_msg=name)


def test_stored_conformal_objects() -> None:
    stored = {k: torch.from_numpy(v) for k, v in np.load(STORED / "algebras" / "cga_4_1_0_examples.npz").items()}
    space, x, y = Conformal(), stored["x"], stored["y"]
    wedge = space.algebra.wedge
    ours = {
        "point_x": space.point(x),
        "sphere_ipns": space.sphere(x, stored["radius"]),
        "plane_ipns": space.plane(stored["normal"], stored["offset"]),
        "line_opns": space.line(y - x, torch.linalg.cross(x, y)),
        "circle_opns": wedge(wedge(space.point(x), space.point(y)), space.point(stored["z"])),
        "translator": space.translation(stored["translation"]),
        "rotor": space.rotation(stored["quaternion_wijk"]),
        "translated_point": space.algebra.act(space.translation(stored["translation"]), space.point(x)),
        "translated_a": space.algebra.act(stored["translator"], stored["a"]),
    }
    for name, value in ours.items():
        torch.testing.assert_close(value, stored[name], rtol=0, atol=1e-12, msg=name)

"""Shear stress on tube walls: Poiseuille's law, the force balance, and the equation of flow in a bend."""

import numpy as np
import pytest

from covarium.data.tokens import surface_distance, vertex_normals
from covarium.errors import CovariumError
from covarium.physics.tubes import Tube, draw_tube


def test_straight_tube_is_poiseuille() -> None:
    tube = Tube(length=5.0, radius=2.0, flow=3.0)
    wall = tube.wall(10, 16)
    expected = 4 * 3.0 / (np.pi * 8.0)
    np.testing.assert_allclose(wall.shear, np.tile([expected, 0, 0], (160, 1)), atol=1e-12)
    # the pressure drop 8 μ Q L / (π R⁴) over the cross-section carries the shear on the wall
    force = wall.shear[:, 0].mean() * 2 * np.pi * 2.0 * 5.0
    assert force == pytest.approx(8 * 3.0 * 5.0 / (np.pi * 16.0) * np.pi * 4.0)


def test_radius_enters_with_the_third_power() -> None:
    tube = Tube(waviness=0.1, phase=0.3)
    wall = tube.wall(40, 8)
    radius = np.linalg.norm(wall.positions[:, 1:], axis=1)
    size = np.linalg.norm(wall.shear, axis=1)
    np.testing.assert_allclose(size * radius**3, 4 / np.pi, rtol=1e-12)


def test_a_bend_solves_the_equation_of_flow() -> None:
    """∇²w + κ ∂w/∂x = −G (1 − κ x) to first order in κ, w = 0 on the wall, and τ = −∂w/∂r there."""
    kappa, g = 1e-4, 1.0

    def w(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return g / 4 * (1 - x**2 - y**2) * (1 - 0.75 * kappa * x)

    x, y = np.random.default_rng(0).uniform(-0.6, 0.6, (2, 50))
    h = 1e-3
    laplace = (w(x + h, y) + w(x - h, y) + w(x, y + h) + w(x, y - h) - 4 * w(x, y)) / h**2
    slope = (w(x + h, y) - w(x - h, y)) / (2 * h)
    residual = laplace + kappa * slope + g * (1 - kappa * x)
    assert np.abs(residual).max() < 1e-3 * kappa + 1e-8
    theta = np.linspace(0, 2 * np.pi, 20)
    shear = -(w(np.cos(theta), np.sin(theta)) - w((1 - 1e-6) * np.cos(theta), (1 - 1e-6) * np.sin(theta))) / 1e-6
    np.testing.assert_allclose(shear, g / 2 * (1 - 0.75 * kappa * np.cos(theta)), rtol=1e-5)


def test_inner_side_of_a_bend_has_more_shear() -> None:
    wall = Tube(curvature=0.15).wall(5, 4)
    outer, inner = wall.shear[0::4], wall.shear[2::4]
    ratio = np.linalg.norm(inner, axis=1) / np.linalg.norm(outer, axis=1)
    np.testing.assert_allclose(ratio, (1 + 0.75 * 0.15) / (1 - 0.75 * 0.15))


@pytest.mark.parametrize("seed", range(5))
def test_geometry_of_the_wall(seed: int) -> None:
    tube = draw_tube(np.random.default_rng(seed))
    assert tube.curvature * tube.radius <= 0.2 and abs(tube.waviness) <= 0.15
    wall = tube.wall(60, 40)
    np.testing.assert_allclose(np.linalg.norm(wall.normals, axis=1), 1)
    assert np.abs((wall.normals * wall.shear).sum(1)).max() < 1e-12
    inside = slice(40, -40)  # at the ends half of the faces are missing
    mesh = vertex_normals(wall.positions, wall.faces)
    assert (mesh * wall.normals).sum(1)[inside].min() > 0.999
    distance = surface_distance(wall.positions, wall.faces, wall.inlet)
    assert (distance[wall.inlet] == 0).all()
    assert distance.max() == pytest.approx(tube.length, rel=0.35)


def test_refusals() -> None:
    for fields, message in (
        ({"radius": 0.0}, "radius > 0"),
        ({"waviness": 1.0}, "waviness"),
        ({"curvature": 1.0}, "fold into itself"),
    ):
        with pytest.raises(CovariumError, match=message):
            Tube(**fields)
    with pytest.raises(CovariumError, match="2 rings of 3 vertices"):
        Tube().wall(1, 5)

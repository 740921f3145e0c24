"""Gravity against closed forms and conservation laws; the published settings."""

import numpy as np
import pytest

from covarium.errors import CovariumError
from covarium.physics.gravity import Bodies, NBody, accelerations, draw, energy, move


def circular() -> Bodies:
    """A light planet on a circle of radius 1 about a mass of 4: period π."""
    masses = np.array([[4.0, 1e-12]])
    x = np.array([[[0.0, 0, 0], [1.0, 0, 0]]])
    v = np.array([[[0.0, 0, 0], [0, 2.0, 0]]])
    return Bodies(masses, x, v)


def test_two_bodies() -> None:
    a = accelerations(np.array([[4.0, 2.0]]), np.array([[[0.0, 0, 0], [0, 2.0, 0]]]))
    np.testing.assert_allclose(a, [[[0, 0.5, 0], [0, -1.0, 0]]])
    one_place = accelerations(np.array([[4.0, 2.0]]), np.zeros((1, 2, 3)))
    assert not one_place.any()


def test_kepler_orbit_closes() -> None:
    ends = [move(circular(), np.pi, steps).positions[0, 1] for steps in (2000, 4000)]
    errors = [np.linalg.norm(end - [1.0, 0, 0]) for end in ends]
    # semi-implicit Euler is leapfrog seen half a step late: over a whole period its error is of second order
    assert errors[0] < 1e-4 and 3.9 < errors[0] / errors[1] < 4.1


def test_conservation() -> None:
    before, _ = draw(NBody(), 20, np.random.default_rng(0))
    fine = [move(before, 0.1, steps) for steps in (2000, 4000)]
    momentum = [(b.masses[..., None] * b.velocities).sum(1) for b in (before, *fine)]
    np.testing.assert_allclose(momentum[1], momentum[0], atol=1e-9)
    # close encounters aside
    drift = [np.median(np.abs(energy(b) / energy(before) - 1)) for b in fine]
    assert drift[1] < 1e-3 and drift[1] < 0.6 * drift[0]


def test_published_settings() -> None:
    settings = NBody()
    before, after = draw(settings, 300, np.random.default_rng(1))
    masses, x, v = before
    assert masses.shape == (300, 6) and x.shape == (300, 6, 3)
    star = masses.argmax(1)
    rows = np.arange(300)
    assert (masses.max(1) >= 1).all() and (masses.max(1) <= 10).all() and len(set(star.tolist())) == 6
    planets = np.sort(masses, axis=1)[:, :-1]
    assert (planets >= 0.01).all() and (planets <= 0.1).all()
    assert np.abs(np.log(planets).mean() - np.log(10**-1.5)) < 0.1
    distance = np.linalg.norm(x - x[rows, star][:, None], axis=-1)
    assert distance.max() <= 1 and np.sort(distance, axis=1)[:, 1].min() >= 0.1
    # uniform over the ring: mean of r² is that of its bounds
    assert np.abs(np.sort(distance, axis=1)[:, 1:] ** 2).mean() == pytest.approx(0.505, abs=0.02)
    assert 15 < x.std() < 25 and (v[rows, star] == 0).all()
    orbits = x - x[rows, star][:, None]
    speed = np.linalg.norm(v, axis=-1) * np.sqrt(np.where(distance > 0, distance, 1) / masses.max(1)[:, None])
    assert np.abs(speed[distance > 0] - 1).max() < 0.1
    # one plane: the positions of each system have rank two
    assert np.linalg.svd(orbits, compute_uv=False)[:, 2].max() < 1e-9
    moved = np.linalg.norm(after.positions - x, axis=-1)
    assert moved.max() <= 2
    shifted, _ = draw(settings, 50, np.random.default_rng(1), shifted=True)
    assert shifted.positions[..., 0].mean() == pytest.approx(200, abs=10)
    again, _ = draw(settings, 300, np.random.default_rng(1))
    assert np.array_equal(again.positions, x)


def test_refusals() -> None:
    with pytest.raises(CovariumError, match="planets ≥ 1"):
        NBody(planets=0)

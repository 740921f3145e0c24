"""Newtonian gravity of a star and its planets, and random systems as in the n-body experiment of GATr.

Units with G = 1. Letters: B systems, N bodies. Brehmer 2023, arXiv 2305.18415, Sec. 4.1 and its code for the numbers:
masses of the star log-uniform in 1…10, of planets in 0.01…0.1; planets at distances 0.1…1 from the star, uniform over
the area of that ring, in one plane, on circular orbits of random sense plus velocity noise 0.01; the whole system
turned at random, and shifted with standard deviation 20 (for the shifted domain by 200 along x besides); 100 steps of
semi-implicit Euler over 0.1 units of time; systems in which a body moves further than 2 are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from covarium.errors import CovariumError


class Bodies(NamedTuple):
    """Masses [B, N], positions and velocities [B, N, 3]."""

    masses: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray


@dataclass(frozen=True)
class NBody:
    """How systems are drawn and moved; defaults as published.

    Attributes:
        planets: of each star.
        time, steps: of the simulation.
        star_mass, planet_mass, radius: ranges.
        velocity_noise, shift: standard deviations.
        domain_shift: added to x of the shifted domain.
        furthest: systems in which a body moves further are dropped.
    """

    planets: int = 5
    time: float = 0.1
    steps: int = 100
    star_mass: tuple[float, float] = (1.0, 10.0)
    planet_mass: tuple[float, float] = (0.01, 0.1)
    radius: tuple[float, float] = (0.1, 1.0)
    velocity_noise: float = 0.01
    shift: float = 20.0
    domain_shift: float = 200.0
    furthest: float = 2.0

    def __post_init__(self) -> None:
        if self.planets < 1 or self.steps < 1 or not self.time > 0:
            raise CovariumError(
                f"n-body needs planets ≥ 1, steps ≥ 1 and time > 0, got {self.planets}, {self.steps} and {self.time}"
            )


def accelerations(masses: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[B, N, 3] Σ_j m_j (r_j − r_i) / |r_j − r_i|³ of masses [B, N] at positions [B, N, 3]; bodies in one place feel
    none of each other."""
    separation = positions[:, None] - positions[:, :, None]
    square = (separation**2).sum(-1)
    cube = np.where(square > 0, square, 1.0) ** 1.5
    return (masses[:, None, :, None] * separation / cube[..., None]).sum(2)


def energy(bodies: Bodies) -> np.ndarray:
    """[B] kinetic plus potential."""
    masses, positions, velocities = bodies
    kinetic = 0.5 * (masses * (velocities**2).sum(-1)).sum(-1)
    distance = np.linalg.norm(positions[:, None] - positions[:, :, None], axis=-1)
    i, j = np.triu_indices(masses.shape[1], k=1)
    return kinetic - (masses[:, i] * masses[:, j] / distance[:, i, j]).sum(-1)


def move(bodies: Bodies, time: float, steps: int) -> Bodies:
    """Semi-implicit Euler: velocities first, then positions with the new velocities; symplectic, of first order."""
    masses, x, v = bodies
    dt = time / steps
    for _ in range(steps):
        v = v + dt * accelerations(masses, x)
        x = x + dt * v
    return Bodies(masses, x, v)


def draw(settings: NBody, count: int, rng: np.random.Generator, *, shifted: bool = False) -> tuple[Bodies, Bodies]:
    """Systems before and after the simulation, as many as asked for.

    Args:
        settings: see there.
        count: number of systems.
        rng: of everything.
        shifted: from the shifted domain.
    """
    before: list[Bodies] = []
    after: list[Bodies] = []
    kept = 0
    while kept < count:
        start = _initial(settings, max(int(1.1 * (count - kept)), 16), rng, shifted)
        end = move(start, settings.time, settings.steps)
        near = np.linalg.norm(end.positions - start.positions, axis=-1).max(1) <= settings.furthest
        for parts, bodies in ((before, start), (after, end)):
            parts.append(Bodies(*[array[near] for array in bodies]))
        kept += int(near.sum())
    return _joined(before, count), _joined(after, count)


def _joined(parts: list[Bodies], count: int) -> Bodies:
    return Bodies(*[np.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True)])


def _initial(settings: NBody, count: int, rng: np.random.Generator, shifted: bool) -> Bodies:
    planets = settings.planets
    star = _log_uniform(settings.star_mass, (count, 1), rng)
    masses = np.concatenate([star, _log_uniform(settings.planet_mass, (count, planets), rng)], axis=1)
    radius = np.sqrt(rng.uniform(settings.radius[0] ** 2, settings.radius[1] ** 2, (count, planets)))
    angle = rng.uniform(0, 2 * np.pi, (count, planets))
    x = np.zeros((count, planets + 1, 3))
    x[:, 1:, 0], x[:, 1:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    v = np.zeros_like(x)
    speed = rng.choice([-1.0, 1.0], (count, planets)) * np.sqrt(star / radius)
    v[:, 1:, 0], v[:, 1:, 1] = -speed * np.sin(angle), speed * np.cos(angle)
    v[:, 1:] += rng.normal(0, settings.velocity_noise, (count, planets, 3))
    order = rng.permuted(np.tile(np.arange(planets + 1), (count, 1)), axis=1)
    masses = np.take_along_axis(masses, order, axis=1)
    x, v = (np.take_along_axis(array, order[..., None], axis=1) for array in (x, v))
    turn = _rotations(count, rng)
    x, v = x @ turn, v @ turn
    x = x + rng.normal(0, settings.shift, (count, 1, 3))
    if shifted:
        x[..., 0] += settings.domain_shift
    return Bodies(masses, x, v)


def _log_uniform(limits: tuple[float, float], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), shape))


def _rotations(count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 3, 3] uniform: the orthogonal part of Gaussian matrices, with positive determinant."""
    q, r = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    q[:, :, 0] *= np.linalg.det(q)[:, None]
    return q

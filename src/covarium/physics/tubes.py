"""Viscous flow through straight and curved tubes of varying radius: shear stress on the wall in closed form.

Letters: s arc length along the centre line, θ angle around it (0 on the outer side of a bend), R(s) radius, κ
curvature of the centre line, μ viscosity, Q volume flow.

Poiseuille's flow has τ = 4 μ Q / (π R³). Where R varies slowly the same holds locally (lubrication; exact to first
order in R'). In a bend, creeping flow has to first order in κ R the axial velocity w = w₀(1 − r²/R²)(1 − ¾ κ r cos θ):
the solution of ∇²w + κ ∂w/∂x − κ²w = −G/(1 + κx), x = r cos θ, with w = 0 on the wall. Its shear is τ = 4 μ Q / (π R³)
· (1 − ¾ κ R cos θ), larger on the inner side. Inertia (W. R. Dean, Phil. Mag. 4, 208 (1927)) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from covarium.errors import CovariumError


class Wall(NamedTuple):
    """A triangulated wall: positions, outward normals and shear stress [N, 3], faces [F, 3], inlet: indices of
    vertices."""

    positions: np.ndarray
    normals: np.ndarray
    shear: np.ndarray
    faces: np.ndarray
    inlet: np.ndarray


@dataclass(frozen=True)
class Tube:
    """A tube.

    Attributes:
        length: of the centre line.
        radius: mean radius R₀.
        waviness: a in R(s) = R₀ (1 + a sin(2π s/length + phase)).
        phase: of the waves.
        curvature: κ of the centre line, an arc in the x-y plane; 0 is straight.
        flow: μ Q, viscosity times volume flow, along increasing s.
    """

    length: float = 6.0
    radius: float = 1.0
    waviness: float = 0.0
    phase: float = 0.0
    curvature: float = 0.0
    flow: float = 1.0

    def __post_init__(self) -> None:
        if not (self.length > 0 and self.radius > 0):
            raise CovariumError(f"a tube needs length > 0 and radius > 0, got {self.length} and {self.radius}")
        if not abs(self.waviness) < 1:
            raise CovariumError(f"waviness must lie between −1 and 1, got {self.waviness}")
        if not 0 <= self.curvature * self.radius * (1 + abs(self.waviness)) < 1:
            raise CovariumError(f"curvature {self.curvature} must be 0 or more, and the tube not fold into itself")

    def profile(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """R and dR/ds."""
        k = 2 * np.pi / self.length
        wave = k * s + self.phase
        return self.radius * (1 + self.waviness * np.sin(wave)), self.radius * self.waviness * k * np.cos(wave)

    def wall(self, along: int, around: int) -> Wall:
        """``along`` rings of ``around`` vertices each.

        Raises:
            CovariumError: fewer than 2 rings or 3 vertices.
        """
        if along < 2 or around < 3:
            raise CovariumError(f"a tube needs at least 2 rings of 3 vertices, got {along} of {around}")
        s, theta = np.meshgrid(
            np.linspace(0, self.length, along), np.arange(around) * 2 * np.pi / around, indexing="ij"
        )
        R, slope = self.profile(s)
        centre, forward, outward = self._centre_line(s)
        up = np.array([0.0, 0.0, 1.0])
        radial = np.cos(theta)[..., None] * outward + np.sin(theta)[..., None] * up
        stretch = 1 + self.curvature * R * np.cos(theta)  # of the outer side
        tangent = _unit(stretch[..., None] * forward + slope[..., None] * radial)
        normal = _unit(stretch[..., None] * radial - slope[..., None] * forward)
        magnitude = 4 * self.flow / (np.pi * R**3) * (1 - 0.75 * self.curvature * R * np.cos(theta))
        positions = centre + R[..., None] * radial
        shear = magnitude[..., None] * tangent
        return Wall(
            positions.reshape(-1, 3),
            normal.reshape(-1, 3),
            shear.reshape(-1, 3),
            _faces(along, around),
            np.arange(around),
        )

    def _centre_line(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Place, direction, and the direction to the outer side of the bend."""
        zero = np.zeros_like(s)
        phi = self.curvature * s
        forward = np.stack([np.cos(phi), np.sin(phi), zero], axis=-1)
        outward = np.stack([np.sin(phi), -np.cos(phi), zero], axis=-1)
        # sin(φ)/κ and (1 − cos φ)/κ, also at κ = 0
        x = s * np.sinc(phi / np.pi)
        y = s * np.sin(phi / 2) * np.sinc(phi / 2 / np.pi)
        return np.stack([x, y, zero], axis=-1), forward, outward


def draw_tube(rng: np.random.Generator) -> Tube:
    """A random tube: every second one straight, radii varying by up to 15 %, bends of up to 0.2 / mean radius."""
    radius = rng.uniform(0.8, 1.2)
    return Tube(
        length=rng.uniform(5.0, 8.0),
        radius=radius,
        waviness=rng.uniform(0.0, 0.15),
        phase=rng.uniform(0, 2 * np.pi),
        curvature=rng.choice([0.0, rng.uniform(0.05, 0.2) / radius]),
        flow=rng.uniform(0.5, 2.0),
    )


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _faces(along: int, around: int) -> np.ndarray:
    ring, place = np.meshgrid(np.arange(along - 1), np.arange(around), indexing="ij")
    a, b = ring * around + place, ring * around + (place + 1) % around
    c, d = a + around, b + around
    return np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])

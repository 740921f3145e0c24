"""Points, directions, planes, lines, spheres, circles, rotations and translations as multivectors, and back.

One class per geometry, all alike: ``x()`` makes multivectors [*b, K], ``read_x`` takes them apart. Quantities are plain
arrays: positions, directions and normals [*b, 3], offsets and radii [*b], unit quaternions (w, x, y, z) [*b, 4], lines
(direction d, moment m = p × d) [*b, 3] each. What is read is normalised, so that any positive multiple of an object
reads alike.

Which object an algebra has: the Euclidean one knows what passes through the origin; the projective one adds points,
lines, planes anywhere and translations; the conformal one adds spheres and circles.

Signs of the projective objects are those of the code of Brehmer 2023, arXiv 2305.18415: a point has e123 = 1,
e023 = −x, e013 = +y, e012 = −z. Conformal ones: n_∞ = e4 + e5, n_o = (e5 − e4)/2, a point is n_o + x + x²/2 n_∞
(L. Dorst, D. Fontijne, S. Mann, Geometric Algebra for Computer Science, 2007, ch. 13).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from covarium.algebra.clifford import Clifford
from covarium.algebra.spaces import CONFORMAL, EUCLIDEAN, PROJECTIVE

Vector = Float[Tensor, "*b 3"]
Number = Float[Tensor, " *b"]
Quaternion = Float[Tensor, "*b 4"]
Multivector = Float[Tensor, "*b K"]
ROUNDINGS = 4  # that a squared radius goes through


def _place(algebra: Clifford, values: dict[tuple[int, ...], Tensor | float], like: Tensor) -> Tensor:
    """A multivector with the given components of blades; ``like`` [*b] gives shape, dtype and device."""
    parts = [torch.zeros_like(like)] * algebra.size
    for blade, value in values.items():
        parts[algebra.index[blade]] = value if isinstance(value, Tensor) else torch.full_like(like, value)
    return torch.stack(parts, dim=-1)


def _take(algebra: Clifford, mv: Tensor, *blades: tuple[int, ...]) -> Tensor:
    return torch.stack([mv[..., algebra.index[blade]] for blade in blades], dim=-1)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _root(square: Tensor, terms: Tensor) -> Tensor:
    """√square of a sum whose terms add up to ``terms`` without their signs: 0, and flat, where rounding hides it."""
    hidden = square.abs() <= ROUNDINGS * torch.finfo(square.dtype).eps * terms
    return torch.where(hidden, 0.0, torch.where(hidden, 1.0, square).sqrt())


def _rotor(algebra: Clifford, q: Tensor, e: tuple[int, int, int]) -> Tensor:
    """w − x e23 + y e13 − z e12: its action u v u⁻¹ is the rotation of the quaternion."""
    w, x, y, z = q.unbind(-1)
    i, j, k = e
    return _place(algebra, {(): w, (j, k): -x, (i, k): y, (i, j): -z}, w)


def _read_rotor(algebra: Clifford, mv: Tensor, e: tuple[int, int, int]) -> Tensor:
    i, j, k = e
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0]).to(mv)
    return _unit(_take(algebra, mv, (), (j, k), (i, k), (i, j)) * signs)


class Euclidean:
    """Cl(3, 0): directions, planes through the origin, rotations."""

    algebra = EUCLIDEAN.algebra

    def direction(self, v: Vector) -> Multivector:
        """v₁ e1 + v₂ e2 + v₃ e3."""
        x, y, z = v.unbind(-1)
        return _place(self.algebra, {(0,): x, (1,): y, (2,): z}, x)

    def read_direction(self, mv: Multivector) -> Vector:
        return _take(self.algebra, mv, (0,), (1,), (2,))

    def plane(self, normal: Vector) -> Multivector:
        """The bivector dual to the normal: what lies in the plane through the origin."""
        x, y, z = normal.unbind(-1)
        return _place(self.algebra, {(1, 2): x, (0, 2): -y, (0, 1): z}, x)

    def read_plane(self, mv: Multivector) -> Vector:
        """Unit normal."""
        return _unit(_take(self.algebra, mv, (1, 2), (0, 2), (0, 1)) * torch.tensor([1.0, -1.0, 1.0]).to(mv))

    def rotation(self, q: Quaternion) -> Multivector:
        return _rotor(self.algebra, q, (0, 1, 2))

    def read_rotation(self, mv: Multivector) -> Quaternion:
        return _read_rotor(self.algebra, mv, (0, 1, 2))


class Projective:
    """Cl(3, 0, 1): generators e0 (null), e1, e2, e3."""

    algebra = PROJECTIVE.algebra

    def point(self, p: Vector) -> Multivector:
        x, y, z = p.unbind(-1)
        return _place(self.algebra, {(1, 2, 3): 1.0, (0, 2, 3): -x, (0, 1, 3): y, (0, 1, 2): -z}, x)

    def read_point(self, mv: Multivector) -> Vector:
        """The position; not finite for a point at infinity."""
        return self.read_direction(mv) / mv[..., self.algebra.index[(1, 2, 3)], None]

    def direction(self, v: Vector) -> Multivector:
        """A point at infinity; translations leave it alone."""
        x, y, z = v.unbind(-1)
        return _place(self.algebra, {(0, 2, 3): -x, (0, 1, 3): y, (0, 1, 2): -z}, x)

    def read_direction(self, mv: Multivector) -> Vector:
        return _take(self.algebra, mv, (0, 2, 3), (0, 1, 3), (0, 1, 2)) * torch.tensor([-1.0, 1.0, -1.0]).to(mv)

    def plane(self, normal: Vector, offset: Number) -> Multivector:
        """{x : n·x = offset} as n − offset e0."""
        x, y, z = normal.unbind(-1)
        return _place(self.algebra, {(1,): x, (2,): y, (3,): z, (0,): -offset}, x)

    def read_plane(self, mv: Multivector) -> tuple[Vector, Number]:
        """Unit normal and offset; not finite for the plane at infinity."""
        n = _take(self.algebra, mv, (1,), (2,), (3,))
        return _unit(n), -mv[..., self.algebra.index[(0,)]] / n.norm(dim=-1)

    def line(self, direction: Vector, moment: Vector) -> Multivector:
        """Plücker coordinates, moment = p × direction for any point p of it."""
        (x, y, z), (mx, my, mz) = direction.unbind(-1), moment.unbind(-1)
        parts: dict[tuple[int, ...], Tensor | float] = {(2, 3): x, (1, 3): -y, (1, 2): z}
        return _place(self.algebra, parts | {(0, 1): mx, (0, 2): my, (0, 3): mz}, x)

    def read_line(self, mv: Multivector) -> tuple[Vector, Vector]:
        """Unit direction and the moment that belongs to it; not finite for a line at infinity, such as parallel planes
        have in common: it has no direction."""
        d = _take(self.algebra, mv, (2, 3), (1, 3), (1, 2)) * torch.tensor([1.0, -1.0, 1.0]).to(mv)
        length = d.norm(dim=-1, keepdim=True)
        return d / length, _take(self.algebra, mv, (0, 1), (0, 2), (0, 3)) / length

    def rotation(self, q: Quaternion) -> Multivector:
        """About the origin."""
        return _rotor(self.algebra, q, (1, 2, 3))

    def read_rotation(self, mv: Multivector) -> Quaternion:
        return _read_rotor(self.algebra, mv, (1, 2, 3))

    def translation(self, t: Vector) -> Multivector:
        """1 − e0 t/2."""
        x, y, z = (-0.5 * t).unbind(-1)
        return _place(self.algebra, {(): 1.0, (0, 1): x, (0, 2): y, (0, 3): z}, x)

    def read_translation(self, mv: Multivector) -> Vector:
        return -2 * _take(self.algebra, mv, (0, 1), (0, 2), (0, 3)) / mv[..., :1]


class Conformal:
    """Cl(4, 1): generators e1, e2, e3, e4 (square +1), e5 (square −1)."""

    algebra = CONFORMAL.algebra

    def _grade_one(self, v: Tensor, origin: Tensor, infinity: Tensor) -> Tensor:
        """v + origin n_o + infinity n_∞."""
        x, y, z = v.unbind(-1)
        plus, minus = infinity - origin / 2, infinity + origin / 2
        return _place(self.algebra, {(0,): x, (1,): y, (2,): z, (3,): plus, (4,): minus}, x)

    def parts(self, mv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of grade one: v, and the coefficients of n_o and n_∞."""
        v = _take(self.algebra, mv, (0,), (1,), (2,))
        plus, minus = mv[..., self.algebra.index[(3,)]], mv[..., self.algebra.index[(4,)]]
        return v, minus - plus, (plus + minus) / 2

    def infinity(self, like: Tensor) -> Tensor:
        """n_∞, once per element of ``like`` [*b]."""
        return _place(self.algebra, {(3,): 1.0, (4,): 1.0}, like)

    def point(self, p: Vector) -> Multivector:
        one = torch.ones_like(p[..., 0])
        return self._grade_one(p, one, p.square().sum(-1) / 2)

    def read_point(self, mv: Multivector) -> Vector:
        v, origin, _ = self.parts(mv)
        return v / origin.unsqueeze(-1)

    def direction(self, v: Vector) -> Multivector:
        """v ∧ n_∞; translations leave it alone."""
        zero = torch.zeros_like(v[..., 0])
        return self.algebra.wedge(self._grade_one(v, zero, zero), self.infinity(zero))

    def read_direction(self, mv: Multivector) -> Vector:
        """Of a pure direction; the components e_a ∧ n_∞."""
        return (_take(self.algebra, mv, (0, 3), (1, 3), (2, 3)) + _take(self.algebra, mv, (0, 4), (1, 4), (2, 4))) / 2

    def sphere(self, centre: Vector, radius: Number) -> Multivector:
        """Point − r²/2 n_∞: orthogonal to the points on it."""
        one = torch.ones_like(radius)
        return self._grade_one(centre, one, (centre.square().sum(-1) - radius.square()) / 2)

    def read_sphere(self, mv: Multivector) -> tuple[Vector, Number]:
        """Centre c and radius; not a number for an imaginary one.

        r² is what is left of terms as large as c⁴/4, so radii below √(2 ε) (c² + 1) read as 0, with gradient 0: in
        float64 those below 6e-7 at |c| = 5; in float32 below 0.01 there and below 1.2 at |c| = 50, and at |c| = 3,000
        no centre is left. Centre far objects first.
        """
        v, origin, _ = self.parts(mv)
        return v / origin.unsqueeze(-1), self._length(mv) / origin.abs()

    def plane(self, normal: Vector, offset: Number) -> Multivector:
        """{x : n·x = offset} as n + offset n_∞: orthogonal to the points on it."""
        return self._grade_one(normal, torch.zeros_like(offset), offset)

    def read_plane(self, mv: Multivector) -> tuple[Vector, Number]:
        """Unit normal and offset."""
        n, _, infinity = self.parts(mv)
        return _unit(n), infinity / n.norm(dim=-1)

    def line(self, direction: Vector, moment: Vector) -> Multivector:
        """p ∧ d ∧ n_∞ for any point p of it: contains the points X with X ∧ line = 0."""
        nearest = torch.linalg.cross(direction, moment) / direction.square().sum(-1, keepdim=True)
        return self.algebra.wedge(self.point(nearest), self.direction(direction))

    def read_line(self, mv: Multivector) -> tuple[Vector, Vector]:
        """Unit direction and the moment that belongs to it."""
        d = _take(self.algebra, mv, (0, 3, 4), (1, 3, 4), (2, 3, 4))
        m = sum(_take(self.algebra, mv, (1, 2, a), (0, 2, a), (0, 1, a)) for a in (3, 4))
        assert isinstance(m, Tensor)
        # d ∧ n_o ∧ n_∞ = −d ∧ e4 ∧ e5, and n_o ∧ d = −d ∧ n_o
        length = d.norm(dim=-1, keepdim=True)
        return d / length, m * torch.tensor([0.5, -0.5, 0.5]).to(m) / length

    def circle(self, centre: Vector, normal: Vector, radius: Number) -> Multivector:
        """Sphere ∧ plane, the intersection of the two: orthogonal to the points on it."""
        plane = self.plane(_unit(normal), (centre * _unit(normal)).sum(-1))
        return self.algebra.wedge(self.sphere(centre, radius), plane)

    def read_circle(self, mv: Multivector) -> tuple[Vector, Vector, Number]:
        """Centre, unit normal and radius; small radii as in ``read_sphere``."""
        algebra, n = self.algebra, self.infinity(mv[..., 0])
        # n_∞·(S ∧ π) = −π for a normalised sphere whose centre lies in the plane
        plane = -algebra.grade((algebra.multiply(n, mv) - algebra.multiply(mv, n)) / 2, 1)
        centre = self.read_point(algebra.multiply(mv, plane))
        normal = self.parts(plane)[0]
        return centre, _unit(normal), self._length(mv) / normal.norm(dim=-1)

    def _length(self, mv: Tensor) -> Tensor:
        """√⟨x̃ x⟩₀ of x = mv."""
        return _root(self.algebra.inner(mv, mv), mv.square().sum(-1))

    def rotation(self, q: Quaternion) -> Multivector:
        """About the origin."""
        return _rotor(self.algebra, q, (0, 1, 2))

    def read_rotation(self, mv: Multivector) -> Quaternion:
        return _read_rotor(self.algebra, mv, (0, 1, 2))

    def translation(self, t: Vector) -> Multivector:
        """1 − t n_∞/2."""
        return -0.5 * self.direction(t) + _place(self.algebra, {(): 1.0}, t[..., 0])

    def read_translation(self, mv: Multivector) -> Vector:
        return -2 * self.read_direction(mv) / mv[..., :1]

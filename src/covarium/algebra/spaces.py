"""Geometries in Clifford algebras: which vectors rotate, which one is at infinity, and what commutes with the group.

Letters: K blades; R rows, the blades of the generators that rotate; m fibre elements, the blades of the others, so that
K = R m; J row blocks, one per grade of the rotating part; A equivariant maps.

The group rotates (and mirrors) the rotating generators and leaves the others alone. By Schur's lemma every equivariant
map therefore acts on a row block as an m × m matrix, the same one on all rows of the block: that is the sparse
structure in which layers compute. Translations are versors 1 − t n/2 with the ideal vector n and tie these matrices
together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from math import comb

import numpy as np

from covarium.algebra.clifford import Clifford, Terms
from covarium.errors import CovariumError


@dataclass(frozen=True)
class Space:
    """A geometry.

    Attributes:
        group: its name, for people and for checks.
        algebra: of its multivectors.
        rotated: generators that the group rotates.
        ideal: components of the vector n of translations over all generators; empty without translations.
    """

    group: str
    algebra: Clifford
    rotated: tuple[int, ...]
    ideal: tuple[float, ...] = ()

    @cached_property
    def order(self) -> np.ndarray:
        """[R, m] places of the blades: row r, fibre element f."""
        others = [a for a in range(self.algebra.n) if a not in self.rotated]
        index = self.algebra.index
        fibre = [blade for k in range(len(others) + 1) for blade in combinations(others, k)]
        rows = [blade for k in range(len(self.rotated) + 1) for blade in combinations(self.rotated, k)]
        return np.array([[index[tuple(sorted(row + f))] for f in fibre] for row in rows])

    @property
    def rows(self) -> int:
        """R."""
        return int(2 ** len(self.rotated))

    @property
    def fibre(self) -> int:
        """m."""
        return self.algebra.size // self.rows

    @property
    def blocks(self) -> tuple[int, ...]:
        """Rows in each block, by grade of the rotating part; they add up to R."""
        return tuple(comb(len(self.rotated), j) for j in range(len(self.rotated) + 1))

    @cached_property
    def linear_maps(self) -> np.ndarray:
        """[A, K, K] a basis of the equivariant maps, mirrors included, each of Frobenius norm one.

        Grade projections; with an ideal vector n also ⟨n ⟨x⟩_k⟩_{k∓1} and ⟨n ⟨x⟩_k n⟩_k. That these are all is what
        ``equivariant_maps`` shows: 4, 9 and 20 of them for Euclidean, projective and conformal space.

        Raises:
            CovariumError: a null generator among those that rotate.
        """
        algebra = self.algebra
        null = [f"e{a}" for a in self.rotated if algebra.squares[a] == 0]
        if null:
            raise CovariumError(
                f"{', '.join(null)} of the rotating generators squares to 0 and mixes grades of the others; leave it "
                "out of 'rotated' and give it as 'ideal'"
            )
        project = [np.diag((algebra.grades == k).astype(np.float64)) for k in range(algebra.n + 1)]
        found = list(project)
        if self.ideal:
            left, right = self._times_ideal()
            one_sided = [
                project[to] @ left @ project[k]
                for k in range(algebra.n + 1)
                for to in (k - 1, k + 1)
                if 0 <= to <= algebra.n
            ]
            found += [*one_sided, *(p @ right @ left @ p for p in project)]
        return np.stack([each / np.linalg.norm(each) for each in _independent(found)])

    @cached_property
    def mixing(self) -> np.ndarray:
        """[J, m, m, A]: what each map of ``linear_maps`` does on the rows of a block, to, from."""
        starts = np.cumsum([0, *self.blocks[:-1]])
        stack = [self.linear_maps[:, self.order[r][:, None], self.order[r][None, :]] for r in starts]
        return np.moveaxis(np.stack(stack), 1, -1)

    def _times_ideal(self) -> tuple[np.ndarray, np.ndarray]:
        """[K, K] matrices of x → n x and x → x n."""
        table = self.algebra.product.dense(self.algebra.size)
        n = np.zeros(self.algebra.size)
        n[1 : 1 + self.algebra.n] = self.ideal
        return np.einsum("kij,i->kj", table, n), np.einsum("kij,j->ki", table, n)

    def generators(self) -> np.ndarray:
        """[G, K, K] x → (B x − x B)/2 for the bivectors of rotations (and boosts) and of translations."""
        algebra = self.algebra
        table = algebra.product.dense(algebra.size)
        planes = []
        for a, b in combinations(self.rotated, 2):
            planes.append(np.eye(algebra.size)[algebra.index[(a, b)]])
        for a in self.rotated if self.ideal else ():
            ea = np.eye(algebra.size)[algebra.index[(a,)]]
            planes.append(self._times_ideal()[1] @ ea)
        actions = [np.einsum("kij,i->kj", table, B) - np.einsum("kij,j->ki", table, B) for B in planes]
        return np.array(actions).reshape(-1, algebra.size, algebra.size) / 2  # none for a single generator

    def mirror(self) -> np.ndarray:
        """[K, K] x → e x̂ e⁻¹ with the first rotating generator e that is not null, and so a versor.

        Raises:
            CovariumError: there is none.
        """
        versors = [a for a in self.rotated if self.algebra.squares[a]]
        if not versors:
            raise CovariumError(f"group {self.group} has no mirrors: no rotating generator has a square but 0")
        return np.diag([-1.0 if versors[0] in blade else 1.0 for blade in self.algebra.blades])


def equivariant_maps(space: Space, *, mirrors: bool = True, translations: bool = True) -> np.ndarray:
    """[A, K, K] an orthonormal basis of all linear maps that commute with the group, as a null space.

    Args:
        space: whose group.
        mirrors: False for the part of the group that is connected with 1, e.g. SE(3) for E(3).
        translations: False for rotations (and mirrors) only.

    Raises:
        CovariumError: mirrors are asked for and there are none.
    """
    chosen = space if translations else Space(space.group, space.algebra, space.rotated)
    return _null_space(chosen, mirrors)


@cache
def _null_space(space: Space, mirrors: bool) -> np.ndarray:
    """φ with g φ = φ g: the kernel of Σ (g ⊗ 1 − 1 ⊗ gᵀ)ᵀ(…) on vec φ, row by row."""
    actions = [*space.generators(), *([space.mirror()] if mirrors else [])]
    size = space.algebra.size
    eye = np.eye(size)
    total = np.zeros((size**2, size**2))
    for g in actions:
        constraint = np.kron(g, eye) - np.kron(eye, g.T)
        total += constraint.T @ constraint
    values, vectors = np.linalg.eigh(total)
    kernel = vectors[:, values < 1e-10 * max(values[-1], 1.0)]  # the entries of actions are whole: 0 is no action
    return np.ascontiguousarray(kernel.T).reshape(-1, size, size)


def _independent(maps: list[np.ndarray]) -> list[np.ndarray]:
    """Those that are not a combination of earlier ones."""
    chosen: list[np.ndarray] = []
    for candidate in maps:
        rows = np.stack([m.ravel() for m in (*chosen, candidate)])
        if np.linalg.matrix_rank(rows) == len(rows):
            chosen.append(candidate)
    return chosen


def stored_terms(space: Space, terms: Terms) -> Terms:
    """A product in storage order: places r m + f instead of places of blades."""
    place = np.argsort(space.order.ravel())
    return Terms(place[terms.out], place[terms.left], place[terms.right], terms.sign)


EUCLIDEAN = Space("O(3)", Clifford(3), (0, 1, 2))
PROJECTIVE = Space("E(3)", Clifford(3, 0, 1), (1, 2, 3), (1.0, 0.0, 0.0, 0.0))
CONFORMAL = Space("E(3)", Clifford(4, 1), (0, 1, 2), (0.0, 0.0, 0.0, 1.0, 1.0))
LORENTZ = Space("O(1,3)", Clifford(1, 3), (0, 1, 2, 3))

"""Clifford algebras of any signature up to 2⁷ blades, derived from the signature.

Letters: n generators, K = 2ⁿ blades, ordered by grade and within a grade lexicographically, null generators first. So
Cl(3,0,1) has 1, e0, e1, e2, e3, e01, …, e0123 with e0² = 0 (the order of Brehmer 2023, arXiv 2305.18415), Cl(4,1) has
e1, e2, e3, e4, e5 with e5² = −1, Cl(1,3) has the positive generator first.

The tables are numpy: exact small integers, sparse. The functions on tensors [..., K] are the reference; layers use the
tables in a storage order of their own (``algebra.spaces``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from covarium.errors import CovariumError

MOST_GENERATORS = 7
Blade = tuple[int, ...]


class Terms(NamedTuple):
    """A bilinear product as its non-zero terms: (x y)[out] += sign · x[left] · y[right]; four arrays of one length."""

    out: np.ndarray
    left: np.ndarray
    right: np.ndarray
    sign: np.ndarray

    def dense(self, size: int) -> np.ndarray:
        """[out, left, right] float64."""
        table = np.zeros((size, size, size))
        table[self.out, self.left, self.right] = self.sign
        return table


@dataclass(frozen=True)
class Clifford:
    """Cl(p, q, r): p generators of square +1, q of square −1, r of square 0.

    Raises:
        CovariumError: a negative number, no generator, or more than seven.
    """

    p: int
    q: int = 0
    r: int = 0

    def __post_init__(self) -> None:
        if min(self.p, self.q, self.r) < 0 or not 1 <= self.n <= MOST_GENERATORS:
            raise CovariumError(
                f"Cl({self.p}, {self.q}, {self.r}): signatures are non-negative and have 1 to {MOST_GENERATORS} "
                f"generators in all, got {self.n}"
            )

    @property
    def n(self) -> int:
        return self.p + self.q + self.r

    @property
    def size(self) -> int:
        """K."""
        return 2**self.n

    @property
    def squares(self) -> tuple[int, ...]:
        """e_a², null generators first, then positive, then negative."""
        return (0,) * self.r + (1,) * self.p + (-1,) * self.q

    @cached_property
    def blades(self) -> tuple[tuple[int, ...], ...]:
        """The generators in each blade."""
        return tuple(blade for k in range(self.n + 1) for blade in combinations(range(self.n), k))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``1``, ``e1``, ``e12``, …; with null generators counting starts at 0."""
        first = 0 if self.r else 1
        return tuple("e" + "".join(str(a + first) for a in blade) if blade else "1" for blade in self.blades)

    @cached_property
    def index(self) -> dict[tuple[int, ...], int]:
        """Blade → its place."""
        return {blade: k for k, blade in enumerate(self.blades)}

    @cached_property
    def grades(self) -> np.ndarray:
        """[K] int64."""
        return np.array([len(blade) for blade in self.blades])

    @cached_property
    def product(self) -> Terms:
        """The geometric product; at most K² terms, fewer with null generators."""
        return self._terms(self._multiply)

    @cached_property
    def wedge_terms(self) -> Terms:
        """The outer product."""
        return self._terms(lambda a, b: (0, ()) if set(a) & set(b) else self._multiply(a, b))

    @cached_property
    def reversal(self) -> np.ndarray:
        """[K] signs of the reverse, (−1)^{k(k−1)/2}."""
        return (-1.0) ** (self.grades * (self.grades - 1) // 2)

    @cached_property
    def involution(self) -> np.ndarray:
        """[K] signs of the grade involution, (−1)^k."""
        return (-1.0) ** self.grades

    @cached_property
    def metric(self) -> np.ndarray:
        """[K]: the inner product ⟨x̃ y⟩₀ = Σ metric · x · y is diagonal; entries +1, −1, 0."""
        return np.array([np.prod([self.squares[a] for a in blade], dtype=np.float64) for blade in self.blades])

    @cached_property
    def dual_table(self) -> tuple[np.ndarray, np.ndarray]:
        """(place of the complement, sign) with e_a ∧ dual(e_a) = +e_{1…n}; also right where the pseudoscalar is
        null."""
        places, signs = np.zeros(self.size, dtype=np.int64), np.zeros(self.size)
        for k, blade in enumerate(self.blades):
            complement = tuple(a for a in range(self.n) if a not in blade)
            places[k], signs[k] = self.index[complement], _sort(blade + complement)[0]
        return places, signs

    @cached_property
    def join_terms(self) -> Terms:
        """The regressive product dual(dual x ∧ dual y), with the same map for dual and undual (published code); with an
        even number of generators its odd grades are the negative of those by the inverse map."""
        places, signs = self.dual_table
        back = np.argsort(places)
        out, left, right, sign = self.wedge_terms
        x, y = back[left], back[right]
        return Terms(places[out], x, y, sign * signs[x] * signs[y] * signs[out])

    def _multiply(self, a: Blade, b: Blade) -> tuple[int, Blade]:
        """Sign and blade of e_a e_b; sign 0 where a null generator meets itself."""
        sign, merged = _sort(a + b)
        out: list[int] = []
        for generator in merged:
            if out and out[-1] == generator:
                sign *= self.squares[generator]
                out.pop()
            else:
                out.append(generator)
        return sign, tuple(out)

    def _terms(self, multiply: Callable[[Blade, Blade], tuple[int, Blade]]) -> Terms:
        found = []
        for i, a in enumerate(self.blades):
            for j, b in enumerate(self.blades):
                sign, blade = multiply(a, b)
                if sign:
                    found.append((self.index[blade], i, j, sign))
        table = np.array(found, dtype=np.int64).T
        return Terms(table[0], table[1], table[2], table[3].astype(np.float64))

    # -- functions on tensors [..., K]

    def multiply(self, x: Float[Tensor, "*b K"], y: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
        """The geometric product."""
        return _apply(self.product, x, y)

    def wedge(self, x: Float[Tensor, "*b K"], y: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
        """The outer product."""
        return _apply(self.wedge_terms, x, y)

    def join(self, x: Float[Tensor, "*b K"], y: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
        """The regressive product; under mirrors it changes sign, so layers multiply it by a pseudoscalar."""
        return _apply(self.join_terms, x, y)

    def dual(self, x: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
        """e_a → ± its complement, see ``dual_table``."""
        places, signs = self.dual_table
        back = np.argsort(places)
        return x[..., torch.from_numpy(back).to(x.device)] * _like(signs[back], x)

    def reverse(self, x: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
        """Order of generators turned round: x̃."""
        return x * _like(self.reversal, x)

    def involute(self, x: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
        """Every generator negated: x̂."""
        return x * _like(self.involution, x)

    def grade(self, x: Float[Tensor, "*b K"], k: int) -> Float[Tensor, "*b K"]:
        """The part ⟨x⟩_k."""
        return x * _like((self.grades == k).astype(np.float64), x)

    def inner(self, x: Float[Tensor, "*b K"], y: Float[Tensor, "*b K"]) -> Float[Tensor, " *b"]:
        """⟨x̃ y⟩₀."""
        return (x * y * _like(self.metric, x)).sum(-1)

    def inverse(self, u: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
        """ũ / ⟨ũ u⟩₀, the inverse of a versor; infinite where it has none."""
        return self.reverse(u) / self.inner(u, u).unsqueeze(-1)

    def act(self, u: Float[Tensor, "*b K"], x: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
        """The versor action: u x u⁻¹ for even versors, u x̂ u⁻¹ for odd ones."""
        even = _like((self.grades % 2 == 0).astype(np.float64), u)
        turned = self.multiply(u * even, x) + self.multiply(u * (1 - even), self.involute(x))
        return self.multiply(turned, self.inverse(u))

    def exp(self, x: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
        """Σ xᵏ/k!, of a bivector a rotor; by the matrix of left multiplication, which is exact for every element."""
        left = self.multiply(x.unsqueeze(-2), torch.eye(self.size, dtype=x.dtype, device=x.device))
        return torch.linalg.matrix_exp(left.transpose(-1, -2))[..., 0]


def _sort(generators: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Sign of the permutation that sorts, stable, and the sorted generators."""
    swaps = sum(a > b for k, a in enumerate(generators) for b in generators[k + 1 :])
    return (-1) ** swaps, tuple(sorted(generators))


def _like(values: np.ndarray, x: Tensor) -> Tensor:
    return torch.from_numpy(values).to(x)


def _apply(terms: Terms, x: Tensor, y: Tensor) -> Tensor:
    """[..., K]: for each (out, left) there is at most one right, so y spreads to a K × K matrix that multiplies x."""
    size = x.shape[-1]
    right, sign = np.zeros((size, size), dtype=np.int64), np.zeros((size, size))
    right[terms.out, terms.left], sign[terms.out, terms.left] = terms.right, terms.sign
    matrix = y[..., torch.from_numpy(right).to(y.device)] * _like(sign, y)
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)

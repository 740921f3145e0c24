"""Direct sums of irreducible representations of O(3), written as in ``128x0e+64x1e+32x2e``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from covarium.errors import CovariumError


class Irrep(NamedTuple):
    """Degree l and parity p under inversion: 1 (e) or −1 (o). Where only rotations matter, everything is labelled e."""

    l: int
    p: int

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.p == 1 else 'o'}"

    def times(self, other: Irrep) -> list[Irrep]:
        """The irreps in the product of two, by ascending degree."""
        return [Irrep(l, self.p * other.p) for l in range(abs(self.l - other.l), self.l + other.l + 1)]


SCALAR = Irrep(0, 1)


@dataclass(frozen=True)
class Irreps:
    """A direct sum, each irrep at most once, by ascending degree, even before odd.

    Attributes:
        entries: (multiplicity, irrep).
    """

    entries: tuple[tuple[int, Irrep], ...]

    @staticmethod
    @cache
    def parse(text: str) -> Irreps:
        """Read the usual notation.

        Raises:
            CovariumError: not of that form, an irrep twice, or another order.
        """
        entries = []
        for part in text.replace(" ", "").split("+"):
            match = re.fullmatch(r"([1-9]\d*)x(\d+)([eo])", part)
            if match is None:
                raise CovariumError(f"'{part}' in irreps '{text}' is not like 64x1e (multiplicity, x, degree, e or o)")
            entries.append((int(match[1]), Irrep(int(match[2]), 1 if match[3] == "e" else -1)))
        order = [(irrep.l, -irrep.p) for _, irrep in entries]
        if order != sorted(set(order)):
            raise CovariumError(f"irreps '{text}' must name each irrep once, by ascending degree, e before o")
        return Irreps(tuple(entries))

    def __str__(self) -> str:
        return "+".join(f"{mul}x{irrep}" for mul, irrep in self.entries)

    def __iter__(self) -> Iterator[tuple[int, Irrep]]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def lmax(self) -> int:
        return max(irrep.l for _, irrep in self.entries)

    @property
    def channels(self) -> int:
        """Sum of multiplicities."""
        return sum(mul for mul, _ in self.entries)

    def count(self, irrep: Irrep) -> int:
        """Multiplicity of an irrep, 0 where it is absent."""
        return sum(mul for mul, other in self.entries if other == irrep)

    def repeated(self, factor: int) -> Irreps:
        """Every multiplicity times ``factor``."""
        return Irreps(tuple((factor * mul, irrep) for mul, irrep in self.entries))

    def with_scalars(self, more: int) -> Irreps:
        """``more`` additional even scalars."""
        others = tuple(entry for entry in self.entries if entry[1] != SCALAR)
        return Irreps(((self.count(SCALAR) + more, SCALAR), *others))

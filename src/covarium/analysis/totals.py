"""Errors summed up as they come, in bounded memory, and what is kept of single ones for pictures and worst frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")

KEPT = 20_000  # rows of a sample
WORST = 20  # items of a list of the largest


@dataclass
class Total:
    """Of differences: how many numbers, the sum of their sizes, and that of their squares."""

    count: int = 0
    absolute: float = 0.0
    squared: float = 0.0

    def add(self, error: np.ndarray) -> None:
        self.count += error.size
        self.absolute += float(np.abs(error).sum())
        self.squared += float(np.square(error).sum())

    def errors(self) -> dict[str, float]:
        """mae and rmse of one number or more."""
        return {"mae": self.absolute / self.count, "rmse": (self.squared / self.count) ** 0.5}


@dataclass
class VectorTotal:
    """Of differences between vectors: over components, over lengths, and over the cosines between non-zero ones."""

    components: Total = field(default_factory=Total)
    count: int = 0
    lengths: float = 0.0
    turned: int = 0
    cosines: float = 0.0

    def add(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        """[n, 3] each."""
        error = predicted - labels
        self.components.add(error)
        self.count += len(error)
        self.lengths += float(np.linalg.norm(error, axis=1).sum())
        products = np.linalg.norm(predicted, axis=1) * np.linalg.norm(labels, axis=1)
        turned = products > 0
        self.turned += int(turned.sum())
        self.cosines += float(((predicted * labels).sum(1)[turned] / products[turned]).sum())

    def errors(self) -> dict[str, float]:
        """mae and rmse over components; norm, the mean length of the error; the mean cosine where there is any."""
        out = {
            **self.components.errors(), "norm": self.lengths / self.count, "components": self.components.count
        }  # fmt: skip
        return out | {"cosine": self.cosines / self.turned} if self.turned else out


class Spread:
    """Root mean square distance from the mean, over components; sums are taken from the first value on, whose size
    would else hide differences."""

    def __init__(self) -> None:
        self._count = 0
        self._first = np.zeros(0)
        self._sum: np.ndarray = np.zeros(0)
        self._squares = 0.0

    def add(self, value: np.ndarray) -> None:
        """0-d or [3], the same for all."""
        if self._count == 0:
            self._first, self._sum = np.array(value), np.zeros(np.shape(value))
        moved = value - self._first
        self._count += 1
        self._sum = self._sum + moved
        self._squares += float(np.square(moved).sum())

    def value(self) -> float:
        squares = self._squares - float(np.square(self._sum).sum()) / self._count
        return (max(squares, 0.0) / (self._count * self._sum.size)) ** 0.5


class Sample:
    """At most ``KEPT`` of the rows that come, each with the same chance, in the order in which they came.

    Every row brings a random number; those with the smallest stay. The sample is the same however rows are cut into
    parts, and of several samples the rows with the smallest numbers are one of everything.
    """

    def __init__(self, width: int) -> None:
        self._kept = KEPT
        # beside the values, their number; not touched before it is needed
        self._rows = np.empty((2 * self._kept, width + 1))
        self._filled = 0
        self._below = np.inf

    def add(self, numbers: np.ndarray, rows: np.ndarray) -> None:
        """[n] random numbers and [n, width] values."""
        chosen = numbers < self._below
        found = np.concatenate([numbers[chosen, None], rows[chosen]], axis=1)
        for start in range(0, len(found), self._kept):
            part = found[start : start + self._kept]
            if self._filled + len(part) > len(self._rows):
                self._cut()
            self._rows[self._filled : self._filled + len(part)] = part
            self._filled += len(part)

    def _cut(self) -> None:
        rows = smallest(self._rows[: self._filled], self._kept)
        self._rows[: len(rows)] = rows
        self._filled, self._below = len(rows), float(rows[:, 0].max())

    def rows(self) -> np.ndarray:
        """[at most KEPT, 1 + width]: random numbers and values."""
        return smallest(self._rows[: self._filled], self._kept)


def smallest(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows with the smallest first entries, in their order."""
    if len(rows) <= count:
        return rows.copy()
    return rows[np.sort(np.argpartition(rows[:, 0], count - 1)[:count])]


class Largest(Generic[T]):
    """The ``WORST`` items of largest size, largest first; of equal ones the first that came."""

    def __init__(self) -> None:
        self.items: list[tuple[float, T]] = []

    def add(self, size: float, item: T) -> None:
        if len(self.items) < WORST or size > self.items[-1][0]:
            self.items.append((size, item))
            self.items.sort(key=lambda found: -found[0])
            del self.items[WORST:]

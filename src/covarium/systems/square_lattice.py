"""The periodic square lattice L × L: distances in shells, and its symmetries as permutations of the sites.

Site index: x + L·y. Shells are sets of pairs with the same minimum-image distance; shell 0 is the site itself.
Letters: N = L² sites, R shells beside shell 0.
"""

from __future__ import annotations

import numpy as np

from covarium.errors import CovariumError

POINT_GROUP = 8  # elements of C4v: four rotations, with or without x ↔ −x before


def coordinates(size: int) -> np.ndarray:
    """[N, 2] int64, x and y of each site.

    Raises:
        CovariumError: the lattice has no two sites in a row.
    """
    if size < 2:
        raise CovariumError(f"a lattice needs at least 2 sites in a row, got size {size}")
    site = np.arange(size * size)
    return np.stack([site % size, site // size], axis=1)


def square_distances(size: int) -> np.ndarray:
    """[N, N] int64, squared minimum-image distance of each pair in lattice constants."""
    apart = np.abs(coordinates(size)[:, None] - coordinates(size)[None])
    return (np.minimum(apart, size - apart) ** 2).sum(-1)


def shells(size: int) -> tuple[np.ndarray, np.ndarray]:
    """[N, N] int64 shell of each pair, and [R + 1] int64 squared distance of each shell, ascending."""
    distances, index = np.unique(square_distances(size), return_inverse=True)
    return index.reshape(size * size, size * size), distances


def hopping(size: int, t: float) -> np.ndarray:
    """[N, N] float64: −t for each bond. On L = 2 the two bonds of a pair add up."""
    xy = coordinates(size)
    matrix = np.zeros((size * size, size * size))
    for step in ((1, 0), (0, 1)):
        there = (xy + step) % size
        neighbour = there[:, 0] + size * there[:, 1]
        matrix[np.arange(size * size), neighbour] -= t
        matrix[neighbour, np.arange(size * size)] -= t
    return matrix


def sublattice(size: int) -> np.ndarray:
    """[N] float64: (−1)^(x+y). A pattern of period one only where L is even."""
    return 1.0 - 2.0 * (coordinates(size).sum(1) % 2)


def permutation(size: int, shift: tuple[int, int], point: int) -> np.ndarray:
    """[N] int64: where each site goes under an element of the point group about site 0, then a translation.

    Args:
        size: L.
        shift: of x and y.
        point: 0 … 7; x ↔ −x if it is 4 or more, then ``point % 4`` quarter turns.

    Raises:
        CovariumError: no such element of the point group.
    """
    if not 0 <= point < POINT_GROUP:
        raise CovariumError(f"the point group of the square has the elements 0 … {POINT_GROUP - 1}, got {point}")
    x, y = coordinates(size).T
    if point >= 4:
        x = -x
    for _ in range(point % 4):
        x, y = -y, x
    return (x + shift[0]) % size + size * ((y + shift[1]) % size)

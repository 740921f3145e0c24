"""What one frame tells of itself: distances, parts, forces that should vanish, and a fingerprint. Numbers, no verdicts.

Letters: n atoms, E directed pairs within the cutoff.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from covarium.data.frame import Frame
from covarium.systems import GraphSpec
from covarium.systems.neighbours import image_offsets, neighbour_pairs

CLOSEST = 0.4  # Å
CROWDED = (3, 1.35)  # neighbours of hydrogen within so many Å; in a molecule it has one, between two oxygens two
BOUND = 1.35  # of the sum of covalent radii
LOPSIDED = 0.05  # of the sum below: surroundings that are not symmetric about an atom
SIZE = 8  # numbers in a fingerprint
# Fixed weights that tell elements apart: any numbers without simple ratios do.
WEIGHTS = np.random.default_rng(0).uniform(0.5, 1.5, (8, 119))
CENTRES = np.array([1.0, 2.2, 3.6])  # Å
WIDTH = 1.0  # Å
BINDS = np.isin(np.arange(119), (6, 7, 8))  # C, N, O hold hydrogen at 0.95 to 1.15 Å


class Close(NamedTuple):
    """The nearest pair in terms of its covalent radii: atoms, distance in Å, and over the sum of the radii.

    Radii: B. Cordero et al., Dalton Trans. 2832 (2008), as in ASE. A pair below 0.4 Å has the ratio zero.
    """

    first: int
    second: int
    distance: float
    ratio: float


class Measures(NamedTuple):
    """
    Attributes:
        nearest: [n] Å, from each atom to the nearest other one; infinite where none is within the cutoff.
        close: the pair most likely to overlap, if there is any.
        hydrogen: median distance in Å from hydrogen to its nearest atom where that is C, N or O; NaN without any.
        parts: groups of atoms that are within the cutoff of each other.
        zeroed: atoms without a mark whose force is exactly zero though their surroundings are not symmetric; or all
            whose forces are exactly zero along one axis, though they are not symmetric along it.
        flat: that axis, if there is one.
        misplaced: hydrogen with three neighbours or more, or at least two carbon atoms bound to one hydrogen each and
            nothing else, which single bonds that break do not make.
        force: largest norm of the force on a free atom, eV/Å; NaN without any.
        net: |Σ F| / n, eV/Å; NaN without forces or where they were removed from frozen atoms.
        torque: |Σ (r − c) × F| / Σ |r − c|, eV/Å, for molecules; NaN for others.
        gap: the longest empty stretch along a lattice direction, Å; NaN unless periodic in all.
        fingerprint: [SIZE], unchanged by rotation, reflection, translation and order of atoms.
        key: of the numbers as they stand in the file.
    """

    nearest: np.ndarray
    close: Close | None
    hydrogen: float
    parts: int
    zeroed: np.ndarray
    flat: int | None
    misplaced: np.ndarray
    force: float
    net: float
    torque: float
    gap: float
    fingerprint: np.ndarray
    key: int


def measure(frame: Frame, cutoff: float) -> Measures:
    """Everything about one frame, from one search for pairs.

    Args:
        frame: in eV and Å.
        cutoff: Å, how far a model would look.
    """
    n = len(frame.numbers)
    (source, target), shifts = neighbour_pairs(frame.positions, frame.cell, frame.pbc, GraphSpec(cutoff))
    vectors = frame.positions[source] - frame.positions[target]
    if frame.pbc.any():
        vectors += image_offsets(shifts, np.where(frame.pbc[:, None], frame.cell, 0.0))
    distances = np.sqrt(np.einsum("ea,ea->e", vectors, vectors))
    nearest = np.full(n, np.inf)
    np.minimum.at(nearest, target, distances)
    force, net, torque = _forces(frame)
    zeroed, flat = _zeroed(frame, target, vectors, distances)
    parts = _parts(source, target, n)
    return Measures(
        nearest=nearest,
        close=_close(frame.numbers, source, target, distances),
        hydrogen=_hydrogen(frame.numbers, source, target, distances, nearest),
        parts=parts,
        zeroed=zeroed,
        flat=flat,
        misplaced=_misplaced(frame.numbers, source, target, distances),
        force=force,
        net=net,
        torque=torque,
        gap=_gap(frame) if frame.pbc.all() else np.nan,
        fingerprint=_fingerprint(frame, source, target, distances, cutoff, parts),
        key=key(frame),
    )


def key(frame: Frame) -> int:
    """63 bits of the structure as it stands in its file."""
    digest = blake2b(frame.numbers.tobytes(), digest_size=8)
    digest.update(frame.positions.tobytes())
    digest.update(np.where(frame.pbc[:, None], frame.cell, 0.0).tobytes())
    digest.update(np.array([frame.charge, frame.spin]).tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1


def _close(numbers: np.ndarray, source: np.ndarray, target: np.ndarray, distances: np.ndarray) -> Close | None:
    if not len(distances):
        return None
    radii = covalent_radii[numbers]
    ratios = np.where(distances < CLOSEST, 0.0, distances / (radii[source] + radii[target]))
    k = int(ratios.argmin())
    return Close(int(target[k]), int(source[k]), float(distances[k]), float(ratios[k]))


def _hydrogen(
    numbers: np.ndarray, source: np.ndarray, target: np.ndarray, distances: np.ndarray, nearest: np.ndarray
) -> float:
    bound = (numbers[target] == 1) & (distances == nearest[target]) & BINDS[numbers[source]]
    return float(np.median(distances[bound])) if bound.any() else np.nan


def _parts(source: np.ndarray, target: np.ndarray, n: int) -> int:
    """Every atom takes the lowest name among its neighbours until nothing changes; as many names are left as parts."""
    names = np.arange(n)
    while True:
        lower = names.copy()
        np.minimum.at(lower, target, names[source])
        lower = lower[lower]
        if (lower == names).all():
            return int(np.count_nonzero(names == np.arange(n)))
        names = lower


def _misplaced(numbers: np.ndarray, source: np.ndarray, target: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Atoms that stand where another element belongs."""
    n = len(numbers)
    near = distances < CROWDED[1]
    heavy = np.bincount(target[near & BINDS[numbers[source]]], minlength=n)
    crowded = (numbers == 1) & (np.bincount(target[near], minlength=n) >= CROWDED[0]) & (heavy > 0)
    radii = covalent_radii[numbers]
    bound = distances < BOUND * (radii[source] + radii[target])
    hydrogen = np.bincount(target[bound & (numbers[source] == 1)], minlength=n)
    bare = (numbers == 6) & (hydrogen == 1) & (np.bincount(target[bound], minlength=n) == 1)
    return np.flatnonzero(crowded | (bare & (bare.sum() > 1)))


def _zeroed(
    frame: Frame, target: np.ndarray, vectors: np.ndarray, distances: np.ndarray
) -> tuple[np.ndarray, int | None]:
    """A force vanishes exactly by symmetry, or far from everything; elsewhere something has removed it."""
    none = np.zeros(0, dtype=np.int64)
    if "forces" not in frame.labels or not len(distances):
        return none, None
    forces = frame.labels["forces"]
    flat = np.flatnonzero(~forces.any(axis=0)) if forces.any() else none
    zero = (~forces.any(axis=1) | bool(len(flat))) & ~frame.fixed
    if not zero.any():
        return none, None
    chosen = zero[target] & (distances > 0)
    # falls to a twentieth at 3.5 Å: what is farther may have no force that shows in its digits
    pull = vectors[chosen] * (np.exp(-((distances[chosen] / 2.0) ** 2)) / distances[chosen])[:, None]
    sums = np.zeros((len(zero), 3))
    np.add.at(sums, target[chosen], pull)
    for axis in flat.tolist():
        lopsided = np.flatnonzero(zero & (np.abs(sums[:, axis]) > LOPSIDED))
        if len(lopsided):
            return lopsided, axis
    zero &= ~forces.any(axis=1)
    return np.flatnonzero(zero & (np.linalg.norm(sums, axis=1) > LOPSIDED)), None


def _forces(frame: Frame) -> tuple[float, float, float]:
    """Largest force, net force per atom, and torque over lever arms."""
    if "forces" not in frame.labels:
        return np.nan, np.nan, np.nan
    forces, free = frame.labels["forces"], ~frame.fixed
    largest = float(np.sqrt(np.square(forces[free]).sum(axis=1).max())) if free.any() else np.nan
    if frame.fixed.any() and not forces[frame.fixed].any():
        return largest, np.nan, np.nan
    net = float(np.linalg.norm(forces.sum(axis=0))) / len(forces)
    if frame.pbc.any() or len(forces) == 1:
        return largest, net, np.nan
    arms = frame.positions - frame.positions.mean(axis=0)
    length = float(np.linalg.norm(arms, axis=1).sum())
    turning = float(np.linalg.norm(np.cross(arms, forces).sum(axis=0)))
    return largest, net, turning / length if length > 0 else np.nan


def _gap(frame: Frame) -> float:
    inverse = np.linalg.inv(frame.cell)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    places = np.sort(frame.positions @ inverse % 1.0, axis=0)
    steps = np.diff(places, axis=0, append=places[:1] + 1.0)
    return float((steps.max(axis=0) * heights).max())


def _fingerprint(
    frame: Frame, source: np.ndarray, target: np.ndarray, distances: np.ndarray, cutoff: float, parts: int
) -> np.ndarray:
    """Sums over atoms of densities and squared densities of their neighbours, as smooth as the positions; in Å.

    What is farther apart than the cutoff enters by moments of the whole molecule, or by the volume.
    """
    numbers, n = frame.numbers, len(frame.numbers)
    out = np.zeros(SIZE)
    fade = (1.0 - (distances / cutoff) ** 2) ** 2
    for k, centre in enumerate(CENTRES):
        shell = WEIGHTS[k][numbers[source]] * fade * np.exp(-(((distances - centre) / WIDTH) ** 2))
        density = np.bincount(target, weights=shell, minlength=n)
        out[2 * k] = WEIGHTS[k + 3][numbers] @ density
        out[2 * k + 1] = WEIGHTS[k + 3][numbers] @ density**2
    if not frame.pbc.any():
        arms = frame.positions - frame.positions.mean(axis=0)
        weights = WEIGHTS[6][numbers]
        out[6] = np.sqrt((weights * np.square(arms).sum(axis=1)).sum() / weights.sum())
        out[7] = np.linalg.norm((WEIGHTS[7][numbers] - 1.0) @ arms)
    elif frame.pbc.all():
        out[6] = abs(np.linalg.det(frame.cell)) ** (1 / 3)
    if parts > 1 and frame.pbc.any():
        # parts that do not see each other may lie anywhere: only the very same numbers are the same
        out[7] = key(frame) % 2**40
    return out

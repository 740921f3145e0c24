"""Forces between pairs of atoms that explain the forces of frames best: what single labels can be held against.

Letters: n atoms, E directed pairs within the reach, T types of pairs, K knots.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from covarium.data.frame import Frame
from covarium.systems import GraphSpec
from covarium.systems.neighbours import image_offsets, neighbour_pairs

REACH = 4.0  # Å
KNOTS = np.array([0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, REACH])  # Å
TYPES = 36  # of pairs; structures of more elements than make these are not compared
RIDGE = 1e-3
ROUNDS = 4  # of reweighting
OTHER_SIZE = 3.0  # times, beyond which a frame is left out of the fit
ALIKE = 0.7  # of logarithms of ratios
FITTED, HELD = 6_000, 100_000  # atoms: in the fit, and held back until it is made


class Comparison(NamedTuple):
    """Of the forces of a frame with the fitted ones: correlation, ratio of sizes, and the energy of the fit in eV."""

    correlation: float
    ratio: float
    energy: float


class _Pairs(NamedTuple):
    """[E] atoms, types (119 · lower + higher atomic number) and knots below; ``part`` of the way to the next knot."""

    source: np.ndarray
    target: np.ndarray
    units: np.ndarray
    types: np.ndarray
    knot: np.ndarray
    part: np.ndarray


class PairFit:
    """Piecewise linear forces between atoms of each two elements, by least squares that single frames do not govern.

    Attributes:
        types: [T] those that were seen.
        table: [T, K] eV/Å, positive where the atoms repel.
        energies: [T, K] eV, its integral from the reach inwards.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        pairs = [_pairs(frame) for frame in frames]
        self.types = np.unique(np.concatenate([p.types for p in pairs]))
        size = len(self.types) * len(KNOTS)
        # sizes of frames in another unit differ by orders of magnitude
        weights = np.array([1.0 / max(_rms(frame.labels["forces"]), 1e-6) for frame in frames])
        weights = np.minimum(weights, np.median(weights))
        for _ in range(ROUNDS):
            gram, right = np.zeros((size, size)), np.zeros(size)
            for frame, p, weight in zip(frames, pairs, weights, strict=True):
                design = weight * self._design(p, len(frame.numbers))[~frame.fixed].reshape(-1, size)
                gram += design.T @ design
                right += design.T @ (weight * frame.labels["forces"][~frame.fixed].reshape(-1))
            gram[np.diag_indices(size)] += RIDGE * np.trace(gram) / size + 1e-12
            self.table = np.linalg.solve(gram, right).reshape(-1, len(KNOTS))
            fitted = [self.forces(p, frame) for p, frame in zip(pairs, frames, strict=True)]
            errors = np.array([_rms(guess - f.labels["forces"]) for guess, f in zip(fitted, frames, strict=True)])
            ratios = np.array(
                [_rms(f.labels["forces"]) / max(_rms(guess), 1e-9) for guess, f in zip(fitted, frames, strict=True)]
            )
            weights = 1.0 / np.maximum(errors, 0.1 * float(np.median(errors)) + 1e-9)
            weights[np.abs(np.log(np.maximum(ratios, 1e-9) / usual(ratios))) > np.log(OTHER_SIZE)] = 0.0
        steps = 0.5 * (self.table[:, 1:] + self.table[:, :-1]) * np.diff(KNOTS)
        self.energies = np.zeros_like(self.table)
        self.energies[:, :-1] = np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]

    def compare(self, frame: Frame) -> Comparison:
        """NaN where nothing can be said: forces that vanish, or pairs that were not fitted."""
        p = _pairs(frame)
        if not np.isin(p.types, self.types).all() or not len(p.types):
            return Comparison(np.nan, np.nan, np.nan)
        energy = 0.5 * float(self._read(self.energies, p).sum())
        given, fitted = frame.labels["forces"][~frame.fixed], self.forces(p, frame)[~frame.fixed]
        sizes = float(np.linalg.norm(given)), float(np.linalg.norm(fitted))
        if min(sizes) == 0:
            return Comparison(np.nan, np.nan, energy)
        return Comparison(float((given * fitted).sum()) / (sizes[0] * sizes[1]), sizes[0] / sizes[1], energy)

    def forces(self, p: _Pairs, frame: Frame) -> np.ndarray:
        """[n, 3] eV/Å."""
        out = np.zeros((len(frame.numbers), 3))
        np.add.at(out, p.target, -p.units * self._read(self.table, p)[:, None])
        return out

    def _read(self, table: np.ndarray, p: _Pairs) -> np.ndarray:
        kind = np.searchsorted(self.types, p.types)
        return (1 - p.part) * table[kind, p.knot] + p.part * table[kind, p.knot + 1]

    def _design(self, p: _Pairs, n: int) -> np.ndarray:
        """[n, 3, T · K] derivatives of the forces by the table."""
        out = np.zeros((n, len(self.types) * len(KNOTS), 3))
        column = np.searchsorted(self.types, p.types) * len(KNOTS) + p.knot
        np.add.at(out, (p.target, column), -p.units * (1 - p.part)[:, None])
        np.add.at(out, (p.target, column + 1), -p.units * p.part[:, None])
        return out.transpose(0, 2, 1)


class Comparisons:
    """The forces of all frames against a fit to some of them, which is made when enough have come.

    Attributes:
        rows: places of the frames in the columns of a survey.
        correlation, ratio, energy: of these frames, as in ``Comparison``.
    """

    def __init__(self) -> None:
        self.rows = array("q")
        self.correlation, self.ratio, self.energy = array("d"), array("d"), array("d")
        self._fit: PairFit | None = None
        self._held: list[tuple[int, Frame]] = []
        self._atoms = 0

    def add(self, row: int, frame: Frame) -> None:
        if "forces" not in frame.labels or len(frame.numbers) < 2 or frame.fixed.all():
            return
        if self._fit is not None:
            self._note(self._fit, row, frame)
            return
        self._held.append((row, frame))
        self._atoms += len(frame.numbers)
        if self._atoms > HELD:
            self.settle()

    def settle(self) -> None:
        """Fit, and compare what was held back; nothing where there are too many types of pairs or no frames."""
        sample = [self._held[k][1] for k in self._spread()]
        elements = {int(z) for frame in sample for z in np.unique(frame.numbers)}
        if sample and len(elements) * (len(elements) + 1) // 2 <= TYPES and any(len(_pairs(f).types) for f in sample):
            self._fit = PairFit(sample)
            for row, frame in self._held:
                self._note(self._fit, row, frame)
        self._held, self._atoms = [], 0

    def _spread(self) -> list[int]:
        """Frames from the first to the last, of a bounded number of atoms in all."""
        count = max(1, min(len(self._held), int(FITTED * len(self._held) / max(self._atoms, 1))))
        return np.unique(np.linspace(0, len(self._held) - 1, count).astype(int)).tolist() if self._held else []

    def _note(self, fit: PairFit, row: int, frame: Frame) -> None:
        compared = fit.compare(frame)
        self.rows.append(row)
        for column, value in zip((self.correlation, self.ratio, self.energy), compared, strict=True):
            column.append(value)


def usual(ratios: np.ndarray) -> float:
    """Where most ratios are: of two units, one is that of more frames."""
    logs = np.sort(np.log(np.maximum(ratios, 1e-9)))
    counts = np.searchsorted(logs, logs + ALIKE, "right") - np.searchsorted(logs, logs - ALIKE)
    return float(np.exp(np.median(logs[np.abs(logs - logs[counts.argmax()]) <= ALIKE])))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _pairs(frame: Frame) -> _Pairs:
    (source, target), shifts = neighbour_pairs(frame.positions, frame.cell, frame.pbc, GraphSpec(REACH))
    vectors = frame.positions[source] - frame.positions[target]
    if frame.pbc.any():
        vectors += image_offsets(shifts, np.where(frame.pbc[:, None], frame.cell, 0.0))
    distances = np.sqrt(np.einsum("ea,ea->e", vectors, vectors))
    kept = distances > 0
    source, target, distances = source[kept], target[kept], distances[kept]
    a, b = frame.numbers[source], frame.numbers[target]
    knot = np.clip(np.searchsorted(KNOTS, distances) - 1, 0, len(KNOTS) - 2)
    part = np.clip((distances - KNOTS[knot]) / np.diff(KNOTS)[knot], 0.0, 1.0)
    types = 119 * np.minimum(a, b) + np.maximum(a, b)
    return _Pairs(source, target, vectors[kept] / distances[:, None], types, knot, part)

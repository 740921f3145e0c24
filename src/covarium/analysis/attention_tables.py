"""Attention added up over many structures: by ordered pair of elements beside the probability of a bond, by element, by
layer and head.

Letters: n atoms of one structure, H heads, L layers, Z atomic numbers. A pair (a, b) is ordered: an atom
of element a attends to one of b. An even share is what every other atom of the structure would get if all got the same;
attention in even shares can be compared between structures of different sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from scipy.sparse import csr_array

from covarium.analysis.attention import StructureAttention
from covarium.analysis.errors import Table
from covarium.data import Frame
from covarium.systems import GraphSpec
from covarium.systems.neighbours import image_offsets, neighbour_pairs, squared_distances

Z = 119
BOND = 1.25  # times the sum of the covalent radii, as the viewer has it


def received(rollout: csr_array) -> np.ndarray:
    """[n], attention that each atom gets from the others, over the mean of the structure; NaN where nobody attends."""
    given = np.asarray(rollout.sum(axis=0)) - rollout.diagonal()
    mean = given.mean()
    return given / mean if mean > 0 else np.full(len(given), np.nan)


def bonds(frame: Frame) -> np.ndarray:
    """[2, bonds] ordered pairs of different atoms, each once, of which some images are closer than 1.25 times the sum
    of their covalent radii (``ase.data.covalent_radii``)."""
    radii = covalent_radii[frame.numbers]
    spec = GraphSpec(2 * BOND * float(radii.max()))
    pairs, shifts = neighbour_pairs(frame.positions, frame.cell, frame.pbc, spec)
    squared = squared_distances(frame.positions, pairs, image_offsets(shifts, frame.cell))
    near = np.sqrt(squared) < BOND * (radii[pairs[0]] + radii[pairs[1]])
    return np.unique(pairs[:, near & (pairs[0] != pairs[1])], axis=1)


@dataclass
class Totals:
    """Sums over structures, of a size that does not depend on their number. Arrays [Z, Z] are by (target, source)."""

    layers: Sequence[str]
    heads: int
    structures: int = 0
    alone: int = 0
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((Z, Z)))
    bonded: np.ndarray = field(default_factory=lambda: np.zeros((Z, Z)))
    rollout: np.ndarray = field(default_factory=lambda: np.zeros((Z, Z)))
    shares: np.ndarray = field(default_factory=lambda: np.zeros((Z, Z)))
    even: np.ndarray = field(default_factory=lambda: np.zeros((Z, Z)))
    atoms: np.ndarray = field(default_factory=lambda: np.zeros(Z))
    got: np.ndarray = field(default_factory=lambda: np.zeros((3, Z)))  # received, its square, that of equal weights
    all_atoms: int = 0

    def __post_init__(self) -> None:
        shape = (len(self.layers), self.heads)
        self.neighbours, self.reach, self.weight = (np.zeros(shape) for _ in range(3))
        self.negative = np.zeros(shape)
        self.edges = 0
        self.seeing = np.zeros(shape)

    def add(self, one: StructureAttention) -> None:
        """Count a structure in; one without attention between atoms counts as ``alone`` and in no average."""
        numbers = one.frame.numbers
        n = len(numbers)
        self.structures += 1
        self._add_layers(one, n)
        others = one.rollout.sum() - one.rollout.diagonal().sum()
        if n < 2 or others <= 0:
            self.alone += 1
            return
        counts = np.bincount(numbers, minlength=Z).astype(np.float64)
        self.pairs += np.outer(counts, counts) - np.diag(counts)
        self.bonded += _by_elements(numbers, *bonds(one.frame))
        of_pairs = _off_diagonal(one.rollout, numbers)
        self.rollout += of_pairs
        self.shares += of_pairs * (n * (n - 1) / others)
        even = _off_diagonal(one.even, numbers)
        self.even += even * (n * (n - 1) / even.sum())
        self.atoms += counts
        own = received(one.rollout)
        for k, values in enumerate((own, own**2, received(one.even))):
            self.got[k] += np.bincount(numbers, values, minlength=Z)

    def _add_layers(self, one: StructureAttention, n: int) -> None:
        """Effective neighbours (e to the entropy of |weights| of a target), mean distance by |weight|, signs."""
        i = one.edge_index[1]
        self.edges += len(i)
        for k, applied in enumerate(one.applied):
            size = np.abs(applied.astype(np.float64))
            self.weight[k] += size.sum(0)
            self.negative[k] += (applied < 0).sum(0)
            for h in range(self.heads):
                total = np.bincount(i, size[:, h], minlength=n)
                seeing = total > 0
                p = size[:, h] / np.where(seeing, total, 1.0)[i]
                entropy = -np.bincount(i, p * np.log(np.where(p > 0, p, 1.0)), minlength=n)
                self.neighbours[k, h] += np.exp(entropy[seeing]).sum()
                self.reach[k, h] += (p * one.distance).sum()
                self.seeing[k, h] += seeing.sum()

    @property
    def elements(self) -> list[int]:
        return [int(z) for z in np.flatnonzero(self.atoms)]

    def pair_rows(self) -> list[dict[str, Any]]:
        """One for each ordered pair of elements that occurs: see ``to_json``."""
        rows = []
        for a in self.elements:
            for b in self.elements:
                count = self.pairs[a, b]
                if count:
                    rows.append({
                        "target": chemical_symbols[a], "source": chemical_symbols[b], "pairs": int(count),
                        "bond_probability": self.bonded[a, b] / count, "rollout": self.rollout[a, b] / count,
                        "shares": self.shares[a, b] / count, "even_weights": self.even[a, b] / count,
                    })  # fmt: skip
        return rows

    def element_rows(self) -> list[dict[str, Any]]:
        """One for each element: see ``to_json``."""
        rows = []
        for z in self.elements:
            mean, square, even = self.got[:, z] / self.atoms[z]
            spread = float(np.sqrt(max(square - mean**2, 0.0)))
            rows.append({
                "element": chemical_symbols[z], "atoms": int(self.atoms[z]), "received": mean, "spread": spread,
                "even_weights": even,
            })  # fmt: skip
        return rows

    def correlation(self) -> float | None:
        """Of attention in even shares with the probability of a bond, over the ordered pairs of elements (Pearson's,
        every pair of elements once); None for fewer than three."""
        rows = self.pair_rows()
        values = np.array([[row["shares"], row["bond_probability"]] for row in rows])
        if len(rows) < 3 or (np.ptp(values, axis=0) == 0).any():
            return None
        return float(np.corrcoef(values.T)[0, 1])

    def to_json(self) -> dict[str, Any]:
        """pairs: mean rollout R_ij over ordered pairs of atoms i of the target's element and j of the source's, the
        same in even shares, in even shares if all edges had weight one, and the fraction of the pairs that are bonded.
        elements: mean attention received, in even shares, its standard deviation over atoms, and with equal weights.
        layers: [L][H] effective number of neighbours, mean distance (Å), mean |weight|, fraction of negative weights.
        """
        seeing = np.maximum(self.seeing, 1)
        return {
            "structures": self.structures,
            "structures_alone": self.alone,
            "pairs": self.pair_rows(),
            "correlation_with_bonds": self.correlation(),
            "elements": self.element_rows(),
            "layers": list(self.layers),
            "effective_neighbours": (self.neighbours / seeing).tolist(),
            "distance": (self.reach / seeing).tolist(),
            "weight": (self.weight / max(self.edges, 1)).tolist(),
            "negative": (self.negative / max(self.edges, 1)).tolist(),
        }

    def tables(self) -> list[Table]:
        """By element, by ordered pair, by layer."""
        elements = tuple(
            (r["element"], f"{r['atoms']:,}", f"{r['received']:.3f}", f"{r['spread']:.3f}", f"{r['even_weights']:.3f}")
            for r in self.element_rows()
        )
        pairs = tuple(
            (
                f"{r['target']} → {r['source']}", f"{r['pairs']:,}", f"{r['bond_probability']:.3f}",
                f"{r['rollout']:.4f}", f"{r['shares']:.3f}", f"{r['even_weights']:.3f}",
            )
            for r in self.pair_rows()
        )  # fmt: skip
        found = self.to_json()
        keys = ("effective_neighbours", "distance", "weight", "negative")
        layers = tuple((name, *(f"{np.mean(found[key][k]):.3f}" for key in keys)) for k, name in enumerate(self.layers))
        shares = ("received", "spread", "equal weights")
        pair_header = ("target → source", "pairs", "bonded", "rollout", "even shares", "equal weights")
        return [
            Table("Attention received, in even shares", ("element", "atoms", *shares), elements),
            Table("Ordered pairs of elements", pair_header, pairs),
            Table("Layers, means over heads", ("layer", "neighbours", "distance (Å)", "|weight|", "negative"), layers),
        ]


def _by_elements(
    numbers: np.ndarray, target: np.ndarray, source: np.ndarray, values: np.ndarray | None = None
) -> np.ndarray:
    """[Z, Z] sums of values, or counts."""
    return np.bincount(numbers[target] * Z + numbers[source], values, minlength=Z * Z).reshape(Z, Z).astype(np.float64)


def _off_diagonal(rollout: csr_array, numbers: np.ndarray) -> np.ndarray:
    entries = rollout.tocoo()
    different = entries.row != entries.col
    return _by_elements(numbers, entries.row[different], entries.col[different], entries.data[different])

"""A neighbour list that is found once and filtered many times, always equal to a fresh one.

Pairs closer than cutoff + skin are found in a reference configuration. As long as no pair that was left out can have
come closer than the cutoff (L. Verlet, Phys. Rev. 159, 98 (1967)), the list of a new configuration is the reference
list filtered by distance: the same edges in the same order, so nothing drifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from covarium.errors import CovariumError
from covarium.systems import GraphSpec
from covarium.systems.neighbours import image_offsets, neighbour_pairs, squared_distances


@dataclass(frozen=True)
class Pairs:
    """Neighbours of one configuration.

    Attributes:
        edge_index: [2, E] int64, source j and target i, sorted by target, then source, then shift.
        shifts: [E, 3] int64, relative to the positions as they were given, wrapped or not.
        squares: [E] squared distances, Å².
    """

    edge_index: np.ndarray
    shifts: np.ndarray
    squares: np.ndarray


@dataclass(frozen=True)
class _Reference:
    """The configuration in which the candidates were found."""

    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    edge_index: np.ndarray
    shifts: np.ndarray


class SkinList:
    """Neighbours of a moving structure.

    The candidates are found anew when an atom has moved, or the cell has been strained, further than the skin
    allows; when the number of atoms or the periodicity changes; and when a position is wrapped, since a jump by a
    lattice vector is a displacement like any other. The truncating rules depend on the order of all distances, so
    with them every list is found anew.

    Args:
        spec: the neighbourhood of the model.
        skin: Å; 0 finds every list anew. Larger means fewer searches and more pairs to filter.

    Attributes:
        searches: how many times the neighbours were searched for.

    Raises:
        CovariumError: the skin is negative or not finite.
    """

    def __init__(self, spec: GraphSpec, skin: float = 0.5) -> None:
        if not 0.0 <= skin < np.inf:
            raise CovariumError(f"skin must be a length ≥ 0 in Å, got {skin}")
        self.spec = spec
        self.skin = float(skin) if spec.rule == "all" else 0.0
        self.searches = 0
        self._reference: _Reference | None = None
        self._offset_cell: np.ndarray | None = None
        self._offsets = np.zeros((0, 3))

    def pairs(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Pairs:
        """The neighbours of this configuration.

        Args:
            positions: [N, 3] Å.
            cell: [3, 3] rows are lattice vectors, Å.
            pbc: [3] bool.

        Raises:
            CovariumError: see ``neighbour_pairs``.
        """
        reference = self._reference
        if reference is None or self.skin == 0.0 or not self._reaches(reference, positions, cell, pbc):
            reference = self._search(positions, cell, pbc)
        if self._offset_cell is None or not np.array_equal(cell, self._offset_cell):
            self._offset_cell, self._offsets = cell.copy(), image_offsets(reference.shifts, cell)
        squares = squared_distances(positions, reference.edge_index, self._offsets)
        if self.skin == 0.0:
            return Pairs(reference.edge_index, reference.shifts, squares)
        near = np.flatnonzero(squares < self.spec.cutoff**2)
        return Pairs(
            np.take(reference.edge_index, near, axis=1), np.take(reference.shifts, near, axis=0), np.take(squares, near)
        )

    def _search(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> _Reference:
        spec = self.spec if self.skin == 0.0 else GraphSpec(self.spec.cutoff + self.skin)
        edge_index, shifts = neighbour_pairs(positions, cell, pbc, spec)
        self._reference = _Reference(positions.copy(), cell.copy(), pbc.copy(), edge_index, shifts)
        self._offset_cell = None
        self.searches += 1
        return self._reference

    def _reaches(self, reference: _Reference, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        """Are all pairs within the cutoff among the candidates?

        With the deformation F of the cell and the displacements u left when it is taken out, a pair vector was
        D = (D' − u_j + u_i) F⁻¹, hence |D| ≤ (|D'| + 2 max|u|) ‖F⁻¹‖.
        """
        if len(positions) != len(reference.positions) or not np.array_equal(pbc, reference.pbc):
            return False
        moved, stretch = reference.positions, 1.0
        if pbc.any() and not np.array_equal(cell, reference.cell):
            old = reference.cell[pbc]
            deformation = np.eye(3) + np.linalg.pinv(old) @ (cell[pbc] - old)
            shortest = np.linalg.svd(deformation, compute_uv=False)[-1]
            if not shortest > 0.0:
                return False
            moved, stretch = moved @ deformation, 1.0 / shortest
        displacement = positions - moved
        furthest = np.sqrt(np.einsum("nc,nc->n", displacement, displacement).max(initial=0.0))
        reach = (self.spec.cutoff + 2.0 * furthest) * stretch
        # the margin covers the rounding of this bound; a position that is not finite makes the comparison false
        return bool(reach < (self.spec.cutoff + self.skin) * (1.0 - 1e-12))

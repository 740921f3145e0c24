"""Coordinates near zero, so that a narrow dtype holds them: float32 has 1e-7 Å next to the origin, 1e-3 Å at 10⁴ Å."""

from __future__ import annotations

import numpy as np
import torch


def near_origin(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    edge_index: np.ndarray,
    shifts: np.ndarray,
    dtype: torch.dtype,
) -> tuple[np.ndarray, np.ndarray]:
    """The same structure with the same edge vectors, placed so that little is lost when it is rounded to ``dtype``.

    The middle of the box around the atoms becomes the origin, and atoms further than a lattice vector from it come back
    by whole lattice vectors. For float64 nothing is changed.

    Args:
        positions: [N, 3] Å, float64.
        cell: [3, 3] rows are lattice vectors, float64; only rows of periodic directions are read, and they are
            linearly independent.
        pbc: [3] bool.
        edge_index: [2, E] source j and target i.
        shifts: [E, 3] integers; the edge vector is positions[j] − positions[i] + shifts @ cell.
        dtype: that the positions will be rounded to.

    Returns:
        positions [N, 3] float64 and shifts [E, 3]; ``shifts`` itself where no atom was brought back.
    """
    if dtype == torch.float64 or len(positions) == 0:
        return positions, shifts
    local = positions - 0.5 * (positions.min(axis=0) + positions.max(axis=0))
    fractions = np.zeros_like(local)
    # the pseudo-inverse leaves out what is orthogonal to the periodic directions
    fractions[:, pbc] = local @ np.linalg.pinv(cell[pbc])
    cells = np.where(np.abs(fractions) > 1.0, np.rint(fractions), 0.0)
    if not cells.any():
        return local, shifts
    whole = cells.astype(np.int64)
    return local - cells[:, pbc] @ cell[pbc], shifts + whole[edge_index[0]] - whole[edge_index[1]]

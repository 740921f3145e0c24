"""The only door to the neighbour-list libraries: vesin, and ASE for the few structures that vesin cannot take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import vesin
from ase.neighborlist import primitive_neighbor_list
from torch import Tensor

from covarium.errors import CovariumError
from covarium.systems.atom_graph import AtomGraph, GraphSpec
from covarium.systems.origin import near_origin

TIE = 0.01  # Å beyond the (max_neighbours + 1)-th distance, as fairchem's enforce_max_neighbors_strictly: False
CELLS = 5e4  # half of what vesin allows itself
CROWD = 1e5  # neighbours of one atom; diamond has 1300 within 12 Å
DENSE = 64  # atoms of a molecule, up to which all distances at once are several times faster than a search


def neighbour_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, spec: GraphSpec
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of one structure that ``spec`` asks for.

    Args:
        positions: [N, 3] Å.
        cell: [3, 3] rows are lattice vectors; only rows of periodic directions are read.
        pbc: [3] bool.
        spec: cutoff and rule.

    Returns:
        edge_index [2, E] int64 (source j, target i) and shifts [E, 3] int64, sorted by target, then source, then shift.

    Raises:
        CovariumError: positions are not finite, or the periodic lattice vectors span no volume.
    """
    if not np.isfinite(positions).all():
        atom = int(np.argwhere(~np.isfinite(positions))[0, 0])
        raise CovariumError(f"position of atom {atom} is {positions[atom].tolist()}; positions must be finite")
    pbc = np.asarray(pbc, dtype=bool)
    positions = np.asarray(positions, dtype=np.float64)
    if spec.rule == "all" and len(positions) <= DENSE and not pbc.any():
        target, source = np.nonzero(within(positions[None], spec.cutoff)[0])
        return np.stack([source, target]), np.zeros((len(source), 3), dtype=np.int64)
    box = complete_cell(np.asarray(cell, dtype=np.float64), pbc)
    # wider than the cutoff by more than rounding: what lies within it is decided below, alike for every caller
    radius = spec.cutoff * (1.0 + 1e-9)
    _refuse_crowd(len(positions), box, pbc, radius)
    if _too_thin(positions, box, pbc, radius):
        i, j, shifts, distances = primitive_neighbor_list("ijSd", pbc, box, positions, radius)
    else:
        finder = vesin.NeighborList(cutoff=radius, full_list=True)
        i, j, shifts, distances = finder.compute(points=positions, box=box, periodic=pbc.tolist(), quantities="ijSd")
    # D is r_j − r_i + S·cell: the first index is our target i, the second our source j.
    target, source = i.astype(np.int64), j.astype(np.int64)
    shifts = shifts.astype(np.int64).reshape(-1, 3)
    near = squared_distances(positions, np.stack([source, target]), image_offsets(shifts, box)) < spec.cutoff**2
    if not near.all():
        target, source, shifts, distances = target[near], source[near], shifts[near], distances[near]
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], source, target))
    target, source, shifts, distances = target[order], source[order], shifts[order], distances[order]
    if spec.rule != "all":
        keep = _nearest(target, distances, len(positions), spec)
        target, source, shifts = target[keep], source[keep], shifts[keep]
    return np.stack([source, target]), shifts


def _refuse_crowd(count: int, box: np.ndarray, pbc: np.ndarray, radius: float) -> None:
    """Before memory is asked for: a cell in a wrong unit can put millions of atoms around each one.

    Raises:
        CovariumError: there would be more neighbours than any matter has.
    """
    if not pbc.any():
        return
    with np.errstate(over="ignore", divide="ignore"):
        heights = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)
        crowd = count * float(np.prod(2.0 * radius / heights[pbc]))
    if not crowd < CROWD:
        raise CovariumError(
            f"{count} atoms in a cell of {', '.join(f'{h:.3g} Å' for h in heights[pbc])} between its faces would have "
            f"{crowd:.1g} neighbours each within {radius:g} Å; give the lattice vectors in Å"
        )


def within(positions: np.ndarray, cutoff: float) -> np.ndarray:
    """[B, n, n] bool, which atoms of B molecules of n atoms, [B, n, 3] Å, are neighbours: by target, then source.

    Distances are those of ``squared_distances`` to the last bit.
    """
    vectors = positions[:, None, :, :] - positions[:, :, None, :]
    vectors *= vectors
    near = vectors[..., 0] + vectors[..., 1] + vectors[..., 2] < cutoff**2
    diagonal = np.arange(positions.shape[1])
    near[:, diagonal, diagonal] = False
    return near


def image_offsets(shifts: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """[E, 3] Å, shifts @ cell in an order of operations that does not depend on E, as that of a BLAS may."""
    s = shifts.astype(np.float64)
    return s[:, 0:1] * cell[0] + s[:, 1:2] * cell[1] + s[:, 2:3] * cell[2]


def squared_distances(positions: np.ndarray, edge_index: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """[E] Å². The one definition of distance by which pairs are kept, equal to the last bit in both directions."""
    vectors = np.take(positions, edge_index[0], axis=0)
    vectors -= np.take(positions, edge_index[1], axis=0)
    vectors += offsets
    vectors *= vectors
    return vectors[:, 0] + vectors[:, 1] + vectors[:, 2]


def _too_thin(positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, radius: float) -> bool:
    """Would vesin 0.6.2 divide by zero, which ends the process?

    Beyond 10⁵ cells of the size of the radius it scales their number in every direction by one factor, down to zero in
    a thin one. Happens to wide sheets and to structures that fly apart; ASE's slower search takes those.
    """
    if len(positions) == 0:
        return False
    inverse = np.linalg.inv(box)
    extents = np.where(pbc, 1.0, np.ptp(positions @ inverse, axis=0)) / np.linalg.norm(inverse, axis=0)
    cells = np.maximum(extents / radius, 1.0)
    return bool(cells.min() * (CELLS / cells.prod()) ** (1 / 3) < 1.0)


def complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Replace the rows of directions that are not periodic by unit vectors orthogonal to the others.

    Raises:
        CovariumError: the periodic rows are linearly dependent.
    """
    box = np.where(pbc[:, None], cell.reshape(3, 3), 0.0)
    if pbc.any():
        singular = np.linalg.svd(box[pbc], compute_uv=False)
        if singular.min() < 1e-6 * max(singular.max(), 1e-6):
            raise CovariumError(
                f"the lattice vectors of the periodic directions {np.flatnonzero(pbc).tolist()} span no volume: "
                f"{box[pbc].tolist()}; set pbc to False or give a cell"
            )
    if not pbc.all():
        # right singular vectors beyond the rank are orthogonal to all periodic rows
        box[~pbc] = np.linalg.svd(box)[2][int(pbc.sum()) :]
    return box


def _nearest(target: np.ndarray, distances: np.ndarray, num_atoms: int, spec: GraphSpec) -> np.ndarray:
    """Mask of the nearest ``max_neighbours`` per target; pairs arrive sorted by target."""
    k = spec.max_neighbours or 0
    keep = np.zeros(len(target), dtype=bool)
    ends = np.searchsorted(target, np.arange(num_atoms), side="right")
    start = 0
    for end in ends:
        if end - start <= k:
            keep[start:end] = True
        else:
            local = distances[start:end]
            order = np.argsort(local, kind="stable")
            if spec.rule == "nearest":
                keep[start + order[:k]] = True
            else:
                keep[start:end] = local <= local[order[k]] + TIE
        start = end
    return keep


def atom_graph(
    numbers: np.ndarray,
    positions: np.ndarray,
    spec: GraphSpec,
    *,
    cell: np.ndarray | None = None,
    pbc: np.ndarray | None = None,
    charge: float = 0.0,
    spin: float = 0.0,
    tags: np.ndarray | None = None,
    dtype: torch.dtype = torch.float64,
) -> AtomGraph:
    """The graph of one structure, neighbours found in float64, positions placed by ``near_origin``.

    Args:
        numbers: [N] atomic numbers.
        positions: [N, 3] Å.
        spec: the neighbourhood of the model that will read it.
        cell: [3, 3] rows are lattice vectors; None for no periodicity.
        pbc: [3] bool; None for no periodicity.
        charge: total charge in e.
        spin: number of unpaired electrons.
        tags: [N], see ``AtomGraph``; None for zeros.
        dtype: of positions, cell, charge and spin in the graph.
    """
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    cell_array = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64).reshape(3, 3)
    pbc_array = np.zeros(3, dtype=bool) if pbc is None else np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)).copy()
    edge_index, shifts = neighbour_pairs(positions, cell_array, pbc_array, spec)
    positions, shifts = near_origin(positions, cell_array, pbc_array, edge_index, shifts, dtype)
    return AtomGraph(
        positions=torch.as_tensor(positions).to(dtype),
        numbers=torch.as_tensor(np.asarray(numbers), dtype=torch.int64),
        cell=torch.as_tensor(cell_array).to(dtype).unsqueeze(0),
        pbc=torch.as_tensor(pbc_array).unsqueeze(0),
        batch=torch.zeros(len(positions), dtype=torch.int64),
        edge_index=torch.as_tensor(edge_index),
        shifts=torch.as_tensor(shifts),
        charge=torch.tensor([charge], dtype=dtype),
        spin=torch.tensor([spin], dtype=dtype),
        tags=torch.as_tensor(np.zeros(len(positions)) if tags is None else tags, dtype=torch.int64),
    )


def renew_edges(graph: AtomGraph, spec: GraphSpec, changed: Tensor) -> AtomGraph:
    """A batch with the neighbours of some structures found again from its positions.

    Args:
        graph: on any device; no gradient flows through the search.
        spec: the neighbourhood of the model that will read it.
        changed: [B] bool, the structures whose atoms have moved; the others keep their edges.
    """
    atoms = np.concatenate([[0], np.cumsum(graph.atoms_per_graph().cpu().numpy())])
    edges = np.searchsorted(graph.edge_index[1].cpu().numpy(), atoms)
    positions, cell = (value.detach().double().cpu().numpy() for value in (graph.positions, graph.cell))
    pbc = graph.pbc.cpu().numpy()
    indices, shifts = [], []
    for b, again in enumerate(changed.tolist()):
        own = slice(atoms[b], atoms[b + 1])
        if again:
            index, shift = neighbour_pairs(positions[own], cell[b], pbc[b], spec)
            indices.append(torch.from_numpy(index + atoms[b]).to(graph.edge_index))
            shifts.append(torch.from_numpy(shift).to(graph.shifts))
        else:
            indices.append(graph.edge_index[:, edges[b] : edges[b + 1]])
            shifts.append(graph.shifts[edges[b] : edges[b + 1]])
    return replace(graph, edge_index=torch.cat(indices, dim=1), shifts=torch.cat(shifts))

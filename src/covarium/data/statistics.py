"""What training needs to know of its data: element references, scales, sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from covarium.data.batch import FrameDataset
from covarium.data.columns import Columns, columns, composition, elements_of
from covarium.data.frame import LABEL_UNITS, Frame
from covarium.errors import CovariumError, nearest

AGREE = 1e-3  # eV; isolated atoms of one element that differ by more contradict each other

Source = Literal["isolated atoms", "least squares", "given"]


@dataclass(frozen=True)
class References:
    """Energies of single atoms, to be taken off total energies.

    Attributes:
        energies: eV by atomic number, for every element of the frames.
        source: where they come from.
        notes: what a user should know of them.
    """

    energies: dict[int, float]
    source: Source
    notes: list[str]


@dataclass(frozen=True)
class Statistics:
    """One pass over training frames; isolated atoms count only for the references and the elements.

    Attributes:
        references: element references.
        elements: atomic numbers present, ascending.
        force_rms: root mean square over the force components of free atoms, eV/Å; None without forces.
        energy_std_per_atom: standard deviation of (energy − references) / atoms, eV; None without energies.
        average_degree: directed edges per atom at the model's cutoff.
        average_atoms: atoms per structure.
    """

    references: References
    elements: tuple[int, ...]
    force_rms: float | None
    energy_std_per_atom: float | None
    average_degree: float
    average_atoms: float


def statistics(
    data: FrameDataset, references: Literal["auto", "isolated", "least_squares", "none"] | Mapping[str, float] = "auto"
) -> Statistics:
    """The statistics of a training set; finds the neighbours of every frame whose edges are not counted yet.

    Frames in files are passed over block by block.

    Raises:
        CovariumError: the references cannot be had in the way asked for.
    """
    frames, edges = data.frames, data.edge_counts()
    found = element_references(frames, references)
    lonely = all(part.isolated.all() for part in columns(frames))
    sums = _Sums()
    for part in columns(frames):
        sums.add(part, part.isolated if lonely else ~part.isolated, found.energies, edges, data.labels)
    return Statistics(
        references=found,
        elements=tuple(found.energies),
        force_rms=float(np.sqrt(sums.squares / sums.components)) if sums.components else None,
        energy_std_per_atom=float(np.sqrt(sums.spread / sums.frames)) if "energy" in data.labels else None,
        average_degree=float(sums.edges / sums.atoms),
        average_atoms=float(sums.atoms / sums.frames),
    )


@dataclass
class _Sums:
    """Over the frames so far: F² and its components, edges, atoms, frames, mean and Σ (x − mean)² of x = E/atom."""

    squares: float = 0.0
    components: int = 0
    edges: int = 0
    atoms: int = 0
    frames: int = 0
    mean: float = 0.0
    spread: float = 0.0

    def add(
        self,
        part: Columns,
        chosen: np.ndarray,
        references: Mapping[int, float],
        edges: np.ndarray,
        labels: Collection[str],
    ) -> None:
        atoms = part.atoms[chosen]
        if not len(atoms):
            return
        if "forces" in labels:
            free = part.label("forces")[np.repeat(chosen, part.atoms) & ~part.fixed]
            self.squares += float(np.sum(free**2))
            self.components += free.size
        if "energy" in labels:
            counts = composition(part, np.array(list(references)))[chosen]
            rest = (part.label("energy")[chosen] - counts @ np.array(list(references.values()))) / atoms
            # Chan, Golub & LeVeque 1983, Am. Stat. 37, 242: joining two means and two sums of squares
            step = float(rest.mean()) - self.mean
            self.spread += float(np.sum((rest - rest.mean()) ** 2))
            self.spread += step**2 * self.frames * len(rest) / (self.frames + len(rest))
            self.mean += step * len(rest) / (self.frames + len(rest))
        self.edges += int(edges[part.index[chosen]].sum())
        self.atoms += int(atoms.sum())
        self.frames += len(atoms)


def remaining_energy(frame: Frame, references: Mapping[int, float]) -> float:
    """The energy of a frame less the references of its atoms, eV."""
    return float(frame.labels["energy"]) - sum(references[int(z)] for z in frame.numbers)


def element_references(
    frames: Sequence[Frame],
    mode: Literal["auto", "isolated", "least_squares", "none"] | Mapping[str, float] = "auto",
    label: str = "energy",
) -> References:
    """Reference energies of the elements of the frames, in float64.

    Args:
        frames: training frames with energies (without, the references are zero unless given).
        mode: ``isolated``: the energies of isolated neutral atoms among the frames; ``least_squares``: the energies
            that explain the totals best, of least norm where compositions leave a choice; ``auto``: isolated atoms
            where every element has one, else least squares; ``none``: zero; or energies in eV by chemical symbol.
        label: ``property`` for an extensive scalar in place of the energy; then in its unit.

    Raises:
        CovariumError: an element has no given energy or no isolated atom, or two isolated atoms contradict each other.
    """
    elements = tuple(int(z) for z in elements_of(frames))
    if not isinstance(mode, str):
        return _given(elements, mode)
    if mode not in ("auto", "isolated", "least_squares", "none"):
        hint = nearest(mode, ("auto", "isolated", "least_squares", "none"))
        raise CovariumError(
            f"references '{mode}' are unknown{hint}; allowed: auto, isolated, least_squares, none, energies"
        )
    if mode == "none":
        return References(dict.fromkeys(elements, 0.0), "given", [])
    if label not in frames[0].labels:
        return References(dict.fromkeys(elements, 0.0), "given", ["no energies: references are zero"])
    fit = _Fit(elements, label)
    for part in columns(frames):
        fit.add(part, frames)
    isolated = _isolated(fit.alone, label) if mode != "least_squares" else {}
    lacking = [chemical_symbols[z] for z in elements if z not in isolated]
    if mode == "isolated" and lacking:
        raise CovariumError(
            f"there is no isolated atom of {', '.join(lacking)} among the frames; give energies, or use least squares"
        )
    if not lacking:
        return References({z: isolated[z] for z in elements}, "isolated atoms", [])
    notes = [f"isolated atoms of {', '.join(lacking)} are missing: least squares for all"] if isolated else []
    alone = [chemical_symbols[z] for z in elements if z not in fit.bound]
    if alone:
        notes.append(f"only isolated atoms hold {', '.join(alone)}: their energies are the references of these")
    # isolated atoms would distort the fit for elements of other frames, but are all there is for the rest
    for frame in fit.alone:
        if int(frame.numbers[0]) not in fit.bound:
            fit.join((np.array(elements) == frame.numbers[0])[None], np.array([float(frame.labels[label])]))
    return _least_squares(fit, notes)


class _Fit:
    """A least squares fit of energies, or of another label, to compositions, gathered part by part.

    Kept are the triangular factor R of the matrix of compositions, which has its singular values, and Qᵀ times the
    energies.
    """

    def __init__(self, elements: tuple[int, ...], label: str) -> None:
        self.elements, self.label = elements, label
        self.bound: set[int] = set()  # elements of frames that are not isolated atoms
        self.alone: list[Frame] = []  # isolated atoms
        self.rows = 0
        self.triangle = np.zeros((0, len(elements)))
        self.turned = np.zeros(0)

    def add(self, part: Columns, frames: Sequence[Frame]) -> None:
        self.alone += [frames[int(k)] for k in part.index[part.isolated]]
        if part.isolated.all():
            return
        counts = composition(part, np.array(self.elements))[~part.isolated]
        self.bound |= {z for z, occurs in zip(self.elements, counts.any(axis=0), strict=True) if occurs}
        self.join(counts, part.label(self.label)[~part.isolated])

    def join(self, counts: np.ndarray, energies: np.ndarray) -> None:
        self.rows += len(counts)
        q, self.triangle = np.linalg.qr(np.concatenate([self.triangle, counts]))
        self.turned = q.T @ np.concatenate([self.turned, energies])


def _given(elements: Sequence[int], energies: Mapping[str, float]) -> References:
    for symbol, energy in energies.items():
        if symbol not in atomic_numbers or not np.isfinite(energy):
            raise CovariumError(f"reference energy '{symbol}: {energy}' is not a chemical symbol with an energy in eV")
    lacking = [chemical_symbols[z] for z in elements if chemical_symbols[z] not in energies]
    if lacking:
        raise CovariumError(f"reference energies are given for {', '.join(energies)}, but not for {', '.join(lacking)}")
    return References({z: float(energies[chemical_symbols[z]]) for z in elements}, "given", [])


def _isolated(frames: Sequence[Frame], label: str) -> dict[int, float]:
    """Energies of the isolated neutral atoms, or another label of them."""
    first: dict[int, Frame] = {}
    for frame in frames:
        if frame.charge != 0:
            continue
        known = first.setdefault(int(frame.numbers[0]), frame)
        if abs(float(known.labels[label] - frame.labels[label])) > AGREE:
            unit = LABEL_UNITS[label]
            raise CovariumError(
                f"isolated {chemical_symbols[frame.numbers[0]]} has {known.labels[label]:.6f} {unit} in {known.where} "
                f"and {frame.labels[label]:.6f} {unit} in {frame.where}; leave one out, or use least squares"
            )
    return {z: float(frame.labels[label]) for z, frame in first.items()}


def _least_squares(fit: _Fit, notes: list[str]) -> References:
    elements = fit.elements
    # the relative size below which a singular value is rounding, for a matrix of all rows
    limit = np.finfo(np.float64).eps * max(fit.rows, len(elements))
    solution, _, rank, _ = np.linalg.lstsq(fit.triangle, fit.turned, rcond=limit)
    if rank < len(elements):
        names = ", ".join(chemical_symbols[elements[k]] for k in indistinguishable(fit.triangle))
        notes.append(
            f"{rank} independent compositions for {len(elements)} elements: the references of {names} cannot be told "
            "apart (least norm taken), so that energies of other compositions mean nothing beside these"
        )
    return References({z: float(e) for z, e in zip(elements, solution, strict=True)}, "least squares", notes)


def indistinguishable(counts: np.ndarray) -> np.ndarray:
    """Columns (elements) of counts [compositions, elements] whose references can be changed together unseen."""
    square = counts.T @ counts
    rank = int(np.linalg.matrix_rank(square, hermitian=True))
    null_space = np.linalg.svd(square)[2][rank:]
    return np.flatnonzero((np.abs(null_space) > 1e-6).any(axis=0))

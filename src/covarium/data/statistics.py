"""What training needs to know of its data: element references, scales, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from covarium.data.batch import FrameDataset
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
    """The statistics of a training set; finds the neighbours of every frame.

    Raises:
        CovariumError: the references cannot be had in the way asked for.
    """
    found = element_references(data.frames, references)
    bulk = [k for k, frame in enumerate(data.frames) if not frame.isolated] or list(range(len(data)))
    frames = [data.frames[k] for k in bulk]
    atoms = np.array([len(frame.numbers) for frame in frames])
    force_rms = None
    if "forces" in frames[0].labels:
        free = np.concatenate([frame.labels["forces"][~frame.fixed] for frame in frames])
        force_rms = float(np.sqrt(np.mean(free**2))) if free.size else None
    energy_std = None
    if "energy" in frames[0].labels:
        energy_std = float(np.std([remaining_energy(f, found.energies) / len(f.numbers) for f in frames]))
    return Statistics(
        references=found,
        elements=_elements(data.frames),
        force_rms=force_rms,
        energy_std_per_atom=energy_std,
        average_degree=float(data.edge_counts()[bulk].sum() / atoms.sum()),
        average_atoms=float(atoms.mean()),
    )


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
    elements = _elements(frames)
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
    isolated = _isolated(frames, label) if mode != "least_squares" else {}
    lacking = [chemical_symbols[z] for z in elements if z not in isolated]
    if mode == "isolated" and lacking:
        raise CovariumError(
            f"there is no isolated atom of {', '.join(lacking)} among the frames; give energies, or use least squares"
        )
    if not lacking:
        return References({z: isolated[z] for z in elements}, "isolated atoms", [])
    notes = [f"isolated atoms of {', '.join(lacking)} are missing: least squares for all"] if isolated else []
    bound = {int(z) for frame in frames if not frame.isolated for z in frame.numbers}
    alone = [chemical_symbols[z] for z in elements if z not in bound]
    if alone:
        notes.append(f"only isolated atoms hold {', '.join(alone)}: their energies are the references of these")
    # isolated atoms would distort the fit for elements of other frames, but are all there is for the rest
    fitted = [frame for frame in frames if not frame.isolated or int(frame.numbers[0]) not in bound]
    return _least_squares(fitted, elements, notes, label)


def _elements(frames: Sequence[Frame]) -> tuple[int, ...]:
    return tuple(int(z) for z in np.unique(np.concatenate([frame.numbers for frame in frames])))


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
        if not frame.isolated or frame.charge != 0:
            continue
        known = first.setdefault(int(frame.numbers[0]), frame)
        if abs(float(known.labels[label] - frame.labels[label])) > AGREE:
            unit = LABEL_UNITS[label]
            raise CovariumError(
                f"isolated {chemical_symbols[frame.numbers[0]]} has {known.labels[label]:.6f} {unit} in {known.where} "
                f"and {frame.labels[label]:.6f} {unit} in {frame.where}; leave one out, or use least squares"
            )
    return {z: float(frame.labels[label]) for z, frame in first.items()}


def _least_squares(frames: Sequence[Frame], elements: tuple[int, ...], notes: list[str], label: str) -> References:
    counts = np.array([np.bincount(frame.numbers, minlength=119)[list(elements)] for frame in frames], dtype=np.float64)
    energies = np.array([float(frame.labels[label]) for frame in frames])
    solution, _, rank, _ = np.linalg.lstsq(counts, energies, rcond=None)
    if rank < len(elements):
        names = ", ".join(chemical_symbols[elements[k]] for k in indistinguishable(counts))
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

"""What the numbers themselves tell of their units and signs. Each test speaks only where it is decisive.

All frames are in eV and Å by now, if the assumed units are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from covarium.data.frame import Frame
from covarium.systems import GraphSpec
from covarium.systems.neighbours import neighbour_pairs
from covarium.units import ENERGY, HARTREE

ALL_ELECTRON = 0.04  # the estimate below is this good, relative, for the atoms of molecules
HIGH_FORCE = 50.0  # eV/Å root mean square; molecular dynamics at 5000 K has about 5
SHORT = 0.5  # Å, below every bond length; above those in nm
BOUND_BOHR = (1.55, 2.4)  # Bohr, hydrogen to C, N or O
MANY = (3, 8)  # frames, and hydrogen atoms in them, that conclude anything
# Of the sum of two covalent radii. The shortest bonds keep 0.75, solids at 1 TPa 0.6; liquid noble gases reach 1.8 to 5
# at less than 4 Å
BONDS = (0.4, 3.0)
APART = 5.0  # Å, and what is farther than this too is far
NEAR = (0.01, 0.2)  # Å, the farthest-moved atom between two frames that are compared


class Finding(NamedTuple):
    """One conclusion; ``wrong`` if the numbers contradict the units they are said to have, with a remedy of its own."""

    text: str
    wrong: bool
    remedy: str = ""


def all_electron_totals(frames: Sequence[Frame]) -> bool:
    """Whether energies, in eV, are known to be total ones because their size is that of all electrons."""
    found = _total_energies(frames, 1.0)
    return found is not None and not found.wrong


def findings(frames: Sequence[Frame], energy_unit: float) -> list[Finding]:
    """All that can be concluded about units and signs, from a sample of the frames.

    Args:
        frames: converted to eV and Å.
        energy_unit: what the file's unit of energy was taken to be, in eV.
    """
    sample = [frames[k] for k in np.unique(np.linspace(0, len(frames) - 1, 200).astype(int))]
    lengths = _lengths(sample) or _distances(sample)
    tests = (lengths, _total_energies(sample, energy_unit), _force_size(sample), _energy_differences(frames))
    return [finding for finding in tests if finding is not None]


def _lengths(frames: Sequence[Frame]) -> Finding | None:
    """Hydrogen tells Å from nm and Bohr, where all frames with hydrogen agree.

    No atom is nearer to hydrogen than the other one of H2, at 0.74 Å. Hydrogen that has C, N or O as its nearest
    neighbour is bound to it, at 0.95 to 1.15 Å; beside metals (1.5 Å and more) or hydrogen it could be in Å or Bohr.
    """
    few = [frames[k] for k in np.unique(np.linspace(0, len(frames) - 1, 20).astype(int))]
    near = [_nearest_of_hydrogen(frame) for frame in few if len(frame.numbers) <= 1000]
    near = [(distances, elements) for distances, elements in near if len(distances)]
    if len(near) < MANY[0]:
        return None
    text = "hydrogen atoms have their nearest neighbour at {:.3g} Å (expected about 1): positions look like {}"
    if max(float(np.median(distances)) for distances, _ in near) < SHORT:
        middle = float(np.median(np.concatenate([distances for distances, _ in near])))
        return Finding(text.format(middle, "nm" if middle > 0.05 else "another unit"), True)
    bound = [distances[np.isin(elements, (6, 7, 8))] for distances, elements in near]
    bound = [distances for distances in bound if len(distances)]
    if len(bound) < MANY[0] or sum(map(len, bound)) < MANY[1]:
        return None
    shortest = min(float(distances.min()) for distances, _ in near)
    if shortest > 1.2 and all(BOUND_BOHR[0] < np.median(distances) < BOUND_BOHR[1] for distances in bound):
        return Finding(text.format(float(np.median(np.concatenate(bound))), "Bohr"), True)
    return None


def _distances(frames: Sequence[Frame]) -> Finding | None:
    """Whatever the elements: structures in which all atoms are far apart, or most lie inside each other, where every
    frame of several atoms is one."""
    several = [frame for frame in frames if len(frame.numbers) > 1]
    if len(several) < MANY[0]:
        return None
    for judged, what in ((_far, "apart"), (_inside, "on top of each other")):
        found = list(takewhile(np.isfinite, map(judged, several)))
        if len(found) < len(several):
            continue
        middle = float(np.median(found))
        power = 10.0 ** -round(np.log10(middle)) if middle > 0 else 1e-10
        return Finding(
            f"atoms lie far too much {what}, in all of {len(several)} structures of several atoms that were looked at: "
            f"their distances are {middle:.3g} times the sums of their covalent radii, those of bonds about once",
            True,
            f"give its unit of length, for example --set 'data.units.length={power:g} Å'; if the structures really are "
            "so, confirm it with --set data.units.length=Å",
        )
    return None


def _far(frame: Frame) -> float:
    """The distance of the nearest atoms over the sum of their radii, NaN where it is not far beyond every bond."""
    radii = covalent_radii[frame.numbers]
    cutoff = max(APART, 2 * BONDS[1] * float(radii.max()))
    atoms, distances, others = _nearest(frame, APART)
    while not len(atoms):
        atoms, distances, others = _nearest(frame, cutoff)
        cutoff *= 4.0
    ratio = float((distances / (radii[atoms] + radii[others])).min())
    return ratio if distances.min() > APART and ratio > BONDS[1] else np.nan


def _inside(frame: Frame) -> float:
    """The median over the atoms of the distance of the nearest one over the sum of their radii, NaN where that is
    not shorter than every bond."""
    radii = covalent_radii[frame.numbers]
    atoms, distances, others = _nearest(frame, 2 * BONDS[0] * float(radii.max()))
    ratios = np.full(len(radii), np.inf)
    ratios[atoms] = distances / (radii[atoms] + radii[others])
    ratio = float(np.median(ratios))
    return ratio if ratio < BONDS[0] else np.nan


def _nearest_of_hydrogen(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Distance and atomic number of the nearest neighbour, images included, of each hydrogen that has one."""
    # the short search first: structures in nm have thousands of neighbours within the long one
    for cutoff in (SHORT, BOUND_BOHR[1]):
        atoms, distances, others = _nearest(frame, cutoff)
        of_hydrogen = frame.numbers[atoms] == 1
        if of_hydrogen.any():
            break
    return distances[of_hydrogen], frame.numbers[others[of_hydrogen]]


def _nearest(frame: Frame, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each atom that has a neighbour within the cutoff, images included; how far the nearest is, and which."""
    (source, target), shifts = neighbour_pairs(frame.positions, frame.cell, frame.pbc, GraphSpec(cutoff))
    cell = np.where(frame.pbc[:, None], frame.cell, 0.0)
    distances = np.linalg.norm(frame.positions[source] - frame.positions[target] + shifts @ cell, axis=1)
    order = np.lexsort((distances, target))
    first = order[np.unique(target[order], return_index=True)[1]]
    return target[first], distances[first], source[first]


def _total_energies(frames: Sequence[Frame], energy_unit: float) -> Finding | None:
    """All-electron total energies are known well enough to tell their unit.

    Neutral atoms have −E = 0.768745 Z^(7/3) − Z²/2 + 0.2699 Z^(5/3) Hartree (J. Schwinger, Phys. Rev. A 24, 2353
    (1981)), right to 1 % from carbon on; hydrogen and helium are put in exactly. Bonds change it by less than 1 %.
    """
    if any("energy" not in frame.labels for frame in frames):
        return None
    z = np.arange(119, dtype=np.float64)
    atom = 0.768745 * z ** (7 / 3) - 0.5 * z**2 + 0.2699 * z ** (5 / 3)
    atom[1:3] = 0.5, 2.9037
    ratios = [-float(frame.labels["energy"]) / (HARTREE * atom[frame.numbers].sum()) for frame in frames]
    ratio = float(np.median(ratios))
    if ratio <= 0:
        return None
    if abs(ratio - 1) < ALL_ELECTRON:
        return Finding("energies agree with the all-electron total energies of these elements", False)
    for name, size in ENERGY.items():
        if abs(energy_unit / (ratio * size) - 1) < ALL_ELECTRON:
            text = f"energies are {ratio:.4g} times the all-electron total energies of these elements"
            return Finding(f"{text}: they look like {name}", True)
    return None


def _force_size(frames: Sequence[Frame]) -> Finding | None:
    parts = [f.labels["forces"][~f.fixed] for f in frames if "forces" in f.labels and not f.isolated]
    if not any(part.size for part in parts):
        return None
    rms = float(np.sqrt(np.mean(np.concatenate(parts) ** 2)))
    if rms <= HIGH_FORCE:
        return None
    return Finding(f"forces have a root mean square of {rms:.4g} eV/Å, beyond any chemistry", True)


def _energy_differences(frames: Sequence[Frame]) -> Finding | None:
    """Between two near frames of the same atoms, ΔE = −½ (F₁ + F₂)·Δr up to the third order in Δr."""
    if any(not {"energy", "forces"} <= frame.labels.keys() for frame in frames):
        return None
    families: dict[bytes, list[Frame]] = {}
    for frame in frames[:20000]:
        family = families.setdefault(frame.numbers.tobytes() + frame.cell.tobytes(), [])
        if len(family) < 40 and not frame.isolated:
            family.append(frame)
    pairs = [pair for family in list(families.values())[:100] if len(family) > 1 for pair in _near_pairs(family)]
    if len(pairs) < 8:
        return None
    work, change = np.array(pairs).T
    ratios = change[work != 0] / work[work != 0]
    if len(ratios) < 8:
        return None
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    if high - low >= 0.3 * abs(middle):
        return None
    told = f"energy differences are {middle:.3g} times −forces · displacements (median of {len(pairs)} near pairs)"
    if 0.8 < middle < 1.25:
        return Finding(told, False)
    cause = "the units of energy, length and forces do not belong together"
    if middle < 0:
        sign = "the forces look like gradients, of the wrong sign"
        cause = sign if -1.25 < middle < -0.8 else f"{sign}, and {cause}"
    return Finding(f"{told}, expected 1: {cause}", True)


def _near_pairs(family: Sequence[Frame]) -> list[tuple[float, float]]:
    """(work, energy change) from each frame to its nearest one, where that is near enough."""
    first = family[0]
    positions = np.array([frame.positions for frame in family])
    inverse = np.linalg.inv(first.cell) if first.pbc.all() else None
    pairs = []
    for k, frame in enumerate(family):
        step = positions - positions[k]
        if inverse is not None:
            step -= np.round(step @ inverse) @ first.cell
        size = np.linalg.norm(step, axis=2).max(axis=1)
        size[size < NEAR[0]] = np.inf
        other = int(size.argmin())
        if size[other] < NEAR[1]:
            mean_force = (frame.labels["forces"] + family[other].labels["forces"]) / 2
            change = float(family[other].labels["energy"] - frame.labels["energy"])
            pairs.append((-float((mean_force * step[other]).sum()), change))
    return pairs

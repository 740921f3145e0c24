"""What the numbers of all frames say together: references, outliers, copies, leaks, the sign of the stress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from covarium.data.columns import columns, marks
from covarium.data.findings import Finding, Place, finding
from covarium.data.force_verdicts import force_findings
from covarium.data.frame import Frame
from covarium.data.measures import key
from covarium.data.statistics import indistinguishable
from covarium.data.survey import Survey
from covarium.units import BOHR, ENERGY

MOST = 20_000  # frames that references are fitted to
ROUNDS = 25  # of reweighting
FAR = 20.0  # robust standard deviations
LEAST = 0.2  # eV per atom, below which nothing is an outlier
SAME = 1e-4  # of the fingerprint, in about Å: the same structure written with other digits or turned
CONTRADICTION = 1e-3  # eV per atom between the energies of one structure
RARE = 3  # frames
CLEAR = 0.7  # correlation of stress and volume
TURNED = (4.0, 3.0)  # robust standard deviations that a turned stress is off, and times its distance when turned back
STIFFEST = 10.0  # eV/Å³; diamond has a bulk modulus of 2.8
VACUUM = 4.0  # Å; cells with more are not what a bulk modulus is about
STRETCHED = (1.3, 1.5)  # Å, hydrogen to C, N or O: most frames are below, those in Bohr above


@dataclass(frozen=True)
class References:
    """Element references of a survey.

    Attributes:
        energies: eV by atomic number; empty without energies.
        remaining: [frames] (energy − references) / atoms, eV; NaN without an energy.
        spread: robust standard deviation of the latter, eV.
        alike: elements whose references cannot be told apart.
    """

    energies: dict[int, float]
    remaining: np.ndarray
    spread: float
    alike: list[int]


def references(survey: Survey) -> References:
    """Least absolute deviations per atom, which single wrong energies do not move."""
    columns = survey.columns
    energy, atoms = columns["energy"], columns["atoms"]
    composition = columns["composition"].astype(np.int64)
    known = np.flatnonzero(np.isfinite(energy))
    if not len(known):
        return References({}, np.full(len(energy), np.nan), 0.0, [])
    elements = sorted(survey.elements)
    table = _compositions(survey, elements)
    bonded = known[atoms[known] > 1] if (atoms[known] > 1).any() else known
    rows = bonded[np.unique(np.linspace(0, len(bonded) - 1, MOST).astype(int))]
    counts = table[composition[rows]] / atoms[rows, None]
    target = energy[rows] / atoms[rows]
    weights = np.ones(len(rows))
    for _ in range(ROUNDS):
        solution = np.linalg.lstsq(counts * weights[:, None], target * weights, rcond=None)[0]
        weights = 1.0 / np.sqrt(np.maximum(np.abs(target - counts @ solution), 1e-4))
    remaining = (energy - table[composition] @ solution) / atoms
    spread = 1.4826 * float(np.median(np.abs(remaining[bonded] - np.median(remaining[bonded]))))
    loose = indistinguishable(np.unique(table[composition[known]], axis=0))
    energies = dict(zip(elements, solution.tolist(), strict=True))
    return References(energies, remaining, spread, [elements[k] for k in loose])


def verdicts(survey: Survey, found: References, training: Survey | None = None) -> list[Finding]:
    """All findings of a survey, those noted on the way included.

    Args:
        survey: of the files.
        found: its references.
        training: of the set that a model was trained on; None where the files are a training set themselves.
    """
    parts: list[Iterable[Finding]] = [
        survey.findings(),
        _alone(survey),
        _outliers(survey, found),
        _stretched(survey),
        _copies(survey),
        force_findings(survey),
        _stress(survey),
        _elements(survey, found, judged=training is None),
    ]
    if training is not None:
        parts += [unknown_elements(survey, set(training.elements)), leaks(survey, training)]
    return [one for part in parts for one in part]


def _alone(survey: Survey) -> Iterator[Finding]:
    """Structures of several atoms none of which has a neighbour, where all of them are so."""
    rows = np.flatnonzero(survey.columns["atoms"] > 1)
    if len(rows) and np.isinf(survey.columns["near"][rows]).all():
        text = f"no atom of {len(rows)} structures has another one within the cutoff of {survey.cutoff:g} Å"
        yield finding("alone", text, survey.places(rows))


def unknown_elements(survey: Survey, elements: set[int]) -> Iterator[Finding]:
    """Frames with elements that are not among ``elements``."""
    strange = set(survey.elements) - elements
    if not strange:
        return
    held = [np.frombuffer(name, dtype=np.int64) for name in survey.compositions]
    names = [" ".join(chemical_symbols[z] for z in np.unique(numbers) if z in strange) for numbers in held]
    composition = survey.columns["composition"].astype(np.int64)
    rows = [row for row in range(len(composition)) if names[composition[row]]]
    symbols = ", ".join(chemical_symbols[z] for z in sorted(strange))
    known = ", ".join(chemical_symbols[z] for z in sorted(elements))
    text = f"{len(rows)} frames contain {symbols}; training has {known}"
    yield finding("species", text, survey.places(rows, lambda row: names[composition[row]]))


def repeated(others: Sequence[Frame], frames: Sequence[Frame]) -> Iterator[Finding]:
    """Which of ``others`` stand in ``frames`` too, number by number; quick enough for any number of frames."""
    known: dict[int, str] = {}
    if len(others):
        sought = np.concatenate([marks(part) for part in columns(others)])
        for part in columns(frames):
            for k in part.index[np.isin(marks(part), sought)]:
                frame = frames[int(k)]
                known.setdefault(key(frame), frame.where)
    places = [Place(f.source, f.index, f"is {known[key(f)]}") for f in others if key(f) in known and not f.isolated]
    if places:
        yield finding("leak", f"{len(places)} of {len(others)} frames are among the training frames", places)


def leaks(survey: Survey, training: Survey) -> Iterator[Finding]:
    """Frames that the training set has too."""
    own, other = len(survey.columns), len(training.columns)
    pairs = _pairs([survey, training])
    twins: dict[int, int] = {}
    for first, second in pairs:
        if first < own <= second:
            twins.setdefault(first, second - own)
        elif second < own <= first:
            twins.setdefault(second, first - own)
    if not twins:
        return
    rows = sorted(twins)
    exact = sum(survey.columns.key[row] == training.columns.key[twins[row]] for row in rows)
    where = dict(zip(rows, training.places(twins[row] for row in rows), strict=True))
    text = f"{len(rows)} of {own} frames are among the {other} of the training set, {_how(exact, len(rows))}"
    yield finding("leak", text, survey.places(rows, lambda row: f"is {where[row]}"))


def _compositions(survey: Survey, elements: list[int]) -> np.ndarray:
    """[compositions, elements] atoms."""
    rows = [np.bincount(np.frombuffer(name, dtype=np.int64), minlength=119)[elements] for name in survey.compositions]
    return np.array(rows, dtype=np.float64)


def _outliers(survey: Survey, found: References) -> Iterator[Finding]:
    """Energies far from what the composition makes expect."""
    energy, atoms, remaining = survey.columns["energy"], survey.columns["atoms"], found.remaining
    bonded = np.isfinite(remaining) & (atoms > 1)
    if not bonded.any():
        return
    deviation = remaining - float(np.median(remaining[bonded]))
    limit = max(FAR * found.spread, LEAST)
    far = np.flatnonzero(bonded & (np.abs(deviation) > limit)).tolist()
    units = {row: _unit(energy[row], atoms[row], deviation[row], limit) for row in far}
    converted = [row for row in far if units[row]]
    if converted:
        text = f"{len(converted)} energies fit the others when they are taken in another unit"
        places = survey.places(converted, lambda row: f"{energy[row]:.6g} looks like {units[row]}")
        yield finding("unit_outlier", text, places)
    rest = [row for row in far if not units[row]]
    if rest:
        text = f"{len(rest)} energies are more than {limit:.2g} eV per atom away from the others"
        yield finding("energy_outlier", text, survey.places(rest, lambda row: f"{deviation[row]:+.3g} eV per atom"))


def _stretched(survey: Survey) -> Iterator[Finding]:
    """Single frames in Bohr among others in Å, told by hydrogen."""
    hydrogen = survey.columns["hydrogen"]
    known = np.isfinite(hydrogen)
    if known.sum() < 10 or np.mean(hydrogen[known] < STRETCHED[0]) < 0.9:
        return
    middle = float(np.median(hydrogen[known]))
    rows = np.flatnonzero(known & (hydrogen > STRETCHED[1]) & (np.abs(hydrogen * BOHR - middle) < 0.15))
    if len(rows):
        text = f"{len(rows)} frames have positions that fit the others when they are taken in Bohr"
        yield finding("unit_outlier", text, survey.places(rows, lambda row: f"hydrogen at {hydrogen[row]:.3g} Å"))


def _unit(energy: float, atoms: float, deviation: float, limit: float) -> str:
    """The unit in which an energy would be like the others, empty if there is none."""
    for name, size in ENERGY.items():
        for factor, said in ((size, name), (1 / size, f"eV, and the others in {name}")):
            if abs(factor - 1) > 1e-9 and abs(deviation + (factor - 1) * energy / atoms) < limit:
                return said
    return ""


def _copies(survey: Survey) -> Iterator[Finding]:
    """The same structure more than once, with the same energies or others."""
    columns = survey.columns
    energy, atoms = columns["energy"], columns["atoms"]
    first: dict[int, int] = {}
    contradictions: dict[int, int] = {}
    for one, other in _pairs([survey]):
        low, high = min(one, other), max(one, other)
        first[high] = min(first.get(high, low), low)
        if abs(energy[high] - energy[low]) > CONTRADICTION * atoms[low]:
            contradictions[high] = low
    same = sorted(row for row in first if row not in contradictions)
    if same:
        exact = sum(columns.key[row] == columns.key[first[row]] for row in same)
        text = f"{len(same)} frames repeat others, {_how(exact, len(same))}"
        yield finding("duplicates", text, _twins(survey, same, first))
    if contradictions:
        rows = sorted(contradictions)
        gap = max(abs(energy[row] - energy[contradictions[row]]) for row in rows)
        text = f"{len(rows)} frames have the structure of another one and another energy, by up to {gap:.3g} eV"
        yield finding("conflict", text, _twins(survey, rows, contradictions))


def _how(exact: int, count: int) -> str:
    """How equal structures are equal."""
    if exact == count:
        return "number by number"
    other = "turned, moved, reflected, reordered or written with other digits"
    return f"{exact} number by number, {count - exact} {other}" if exact else other


def _twins(survey: Survey, rows: list[int], first: dict[int, int]) -> list[Place]:
    where = dict(zip(rows, survey.places(first[row] for row in rows), strict=True))
    return survey.places(rows, lambda row: f"is {where[row]}")


def _pairs(surveys: list[Survey]) -> Iterator[tuple[int, int]]:
    """Frames of the same composition and the same fingerprint; places count through all surveys.

    Frames with the same digits in a hundredth of what counts as the same are one group, so that copies of copies cost
    nothing; of each group its first and last stand for it. Sorted by the number that tells most, groups are compared
    with the next ones as long as these agree in that number.
    """
    names: dict[bytes, int] = {}
    composition, prints = [], []
    for survey in surveys:
        table = np.array([names.setdefault(name, len(names)) for name in survey.compositions], dtype=np.int64)
        composition.append(table[survey.columns["composition"].astype(np.int64)])
        prints.append(survey.columns.fingerprints())
    kind, numbers = np.concatenate(composition), np.concatenate(prints)
    numbers = numbers[:, np.argsort(-numbers.std(axis=0))]
    cells = np.rint(numbers / (SAME / 100))
    order = np.lexsort((*cells.T[::-1], kind))  # within a group by place
    other = (kind[order[1:]] != kind[order[:-1]]) | (cells[order[1:]] != cells[order[:-1]]).any(axis=1)
    starts = np.concatenate([np.zeros(min(1, len(order)), dtype=np.int64), np.flatnonzero(other) + 1])
    ends = np.append(starts[1:], len(order))
    for g in np.flatnonzero(ends - starts > 1):
        yield from _ends(order[starts[g] : ends[g]], order[starts[g] : ends[g]])
    kind, numbers, rows = kind[order[starts]], numbers[order[starts]], np.arange(len(starts))
    for step in range(1, len(starts)):
        rows = rows[rows + step < len(starts)]
        near = kind[rows + step] == kind[rows]
        # the sorting was by rounded numbers
        rows = rows[near & (numbers[rows + step, 0] - numbers[rows, 0] < 1.01 * SAME)]
        if not len(rows):
            return
        same = rows[(np.abs(numbers[rows + step] - numbers[rows]) < SAME).all(axis=1)]
        for one, two in zip(same.tolist(), (same + step).tolist(), strict=True):
            yield from _ends(order[starts[one] : ends[one]], order[starts[two] : ends[two]])


def _ends(one: np.ndarray, two: np.ndarray) -> Iterator[tuple[int, int]]:
    """Each member of either group with the first and the last of the other."""
    for group, other in ((one, two), (two, one)):
        yield from ((row, end) for row in group.tolist() for end in (int(other[0]), int(other[-1])) if row != end)


def _stress(survey: Survey) -> Iterator[Finding]:
    """Under compression (less volume) a stress that is positive under tension falls: its slope is the bulk modulus."""
    columns = survey.columns
    pressure, volume, composition = columns["pressure"], columns["volume"], columns["composition"]
    rows = np.flatnonzero(np.isfinite(pressure) & (columns["gap"] < VACUUM))
    x, y, frames = [], [], []
    for kind in np.unique(composition[rows]):
        group = rows[composition[rows] == kind]
        logs = np.log(volume[group])
        if len(group) >= 4 and np.ptp(logs) > 0.01:
            x.append(logs - logs.mean())
            y.append(pressure[group] - pressure[group].mean())
            frames.append(group)
    if not x or sum(map(len, x)) < 8:
        return
    strain, stress = np.concatenate(x), np.concatenate(y)
    correlation = float(np.corrcoef(strain, stress)[0, 1]) if stress.any() else 0.0
    slope = float(strain @ stress / (strain @ strain))
    places = survey.places(rows[:1])
    told = f"over {len(strain)} frames the stress changes by {slope:.3g} eV/Å³ per relative change of volume"
    if correlation < -CLEAR:
        yield finding("stress_sign", f"{told}; a solid resists compression, so its sign is wrong", places)
    elif correlation > CLEAR and slope > STIFFEST:
        yield finding("stress_sign", f"{told}, more than diamond's 2.8: it is in another unit", places)
    else:
        yield from _turned_stress(survey, frames)


def _turned_stress(survey: Survey, groups: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Single frames whose stress lies on the line of the others once its sign is turned, and far from it before."""
    pressure, volume = survey.columns["pressure"], survey.columns["volume"]
    rows = []
    for group in groups:
        x, y = np.log(volume[group]), pressure[group]
        design, weights = np.stack([x - x.mean(), np.ones(len(x))], axis=1), np.ones(len(x))
        for _ in range(ROUNDS):
            line = np.linalg.lstsq(design * weights[:, None], y * weights, rcond=None)[0]
            weights = 1.0 / np.sqrt(np.maximum(np.abs(y - design @ line), 1e-9))
        off, turned = np.abs(y - design @ line), np.abs(-y - design @ line)
        spread = 1.4826 * float(np.median(off)) + 1e-6
        rows += group[(off > TURNED[0] * spread) & (turned < off / TURNED[1]) & (line[0] > 0)].tolist()
    if rows:
        text = f"{len(rows)} frames have a stress that fits the others when its sign is turned"
        yield finding(
            "stress_sign", text, survey.places(rows, lambda row: f"a third of the trace is {pressure[row]:.3g} eV/Å³")
        )


def _elements(survey: Survey, found: References, *, judged: bool) -> Iterator[Finding]:
    """References that are left open, elements that hardly occur, theories that differ."""
    if len(found.alike) > 0 and judged:
        names = ", ".join(chemical_symbols[z] for z in found.alike)
        text = f"the compositions leave the references of {names} open: other compositions mean nothing beside these"
        yield finding("references", text, survey.places([0]))
    rare = [z for z, frames in survey.elements.items() if frames < RARE and len(survey.columns) > 10 * RARE]
    if rare and judged:
        held = [bool(np.isin(np.frombuffer(name, dtype=np.int64), rare).any()) for name in survey.compositions]
        composition = survey.columns["composition"].astype(np.int64)
        rows = [row for row in range(len(composition)) if held[composition[row]]]
        symbols = ", ".join(f"{chemical_symbols[z]} in {survey.elements[z]}" for z in sorted(rare))
        yield finding("rare", f"of {len(composition)} frames: {symbols}", survey.places(rows))
    if len(survey.theories) > 1:
        text = f"the frames state {len(survey.theories)} levels of theory: {'; '.join(list(survey.theories)[:5])}"
        yield finding("theory", text, survey.theories.values())

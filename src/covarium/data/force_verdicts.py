"""Signs and units of forces, from what a fit of pair forces says of every frame and of the energies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from covarium.data.findings import Finding, finding
from covarium.data.pair_fit import usual
from covarium.data.survey import Survey
from covarium.units import ENERGY, LENGTH

MANY = 20  # frames that conclude anything; of one composition, that tell of the sign of one of them
EXPLAINED = 0.7  # median correlation of forces with the fit, from which it tells of single frames
TURNED = -0.6  # correlation of a frame whose forces have the other sign
SAME_SIZE = 3.0  # times the usual ratio, within which a turned frame is only turned
OTHER_UNIT = 8.0  # times
CLEAR = 0.5  # correlation of energies with the fit, from which it tells of their sign and unit
CONTRADICTION = 5.0  # times between sizes of energies and forces


def forces_judged(survey: Survey) -> str:
    """In one line, what could be said of the sign and unit of the forces."""
    correlation, _ = _fitted(survey)
    if not correlation.size or np.median(correlation) < EXPLAINED:
        return "sign and unit could not be judged frame by frame: pair forces do not explain them"
    scale = _against_energies(survey)
    frames = f"{len(correlation)} frames compared with pair forces (correlation {np.median(correlation):.3f})"
    if scale is None:
        return f"{frames}; the energies do not tell their unit"
    return f"{frames} and with energies"


def force_findings(survey: Survey) -> Iterator[Finding]:
    """All forces against the energies, and single frames against the others."""
    correlation, ratio = _fitted(survey)
    if len(correlation) < MANY or np.median(correlation) < EXPLAINED:
        return
    scale = _against_energies(survey)
    if scale is not None and not 1 / CONTRADICTION < scale < CONTRADICTION:
        found = finding("units", _contradiction(scale), survey.places([int(survey.comparisons.rows[0])]))
        yield replace(found, level="warning") if survey.given_units else found
    rows = np.array(survey.comparisons.rows)[np.isfinite(survey.comparisons.correlation)]
    times = ratio / usual(ratio)
    turned = (correlation < TURNED) & (np.abs(np.log(times)) < np.log(SAME_SIZE))
    turned &= _reliable(survey, rows, correlation)
    if turned.any():
        text = f"{turned.sum()} frames have forces that point against those of the others: gradients, of the wrong sign"
        notes = dict(zip(rows[turned].tolist(), correlation[turned].tolist(), strict=True))
        places = survey.places(notes, lambda row: f"correlation {notes[row]:.2f} with what the others make expect")
        yield finding("force_outlier", text, places)
    other = (correlation > -TURNED) & (np.abs(np.log(times)) > np.log(OTHER_UNIT))
    if other.any():
        size = float(np.exp(np.median(np.log(times[other]))))
        text = (
            f"{other.sum()} frames have forces about {size:.2g} times as large as the others make expect{_unit(size)}"
        )
        notes = dict(zip(rows[other].tolist(), times[other].tolist(), strict=True))
        yield finding("force_outlier", text, survey.places(notes, lambda row: f"{notes[row]:.2g} times as large"))


def _fitted(survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Correlation and ratio of the frames that could be compared."""
    survey.comparisons.settle()
    correlation, ratio = np.array(survey.comparisons.correlation), np.array(survey.comparisons.ratio)
    known = np.isfinite(correlation)
    return correlation[known], ratio[known]


def _reliable(survey: Survey, rows: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """Frames of compositions that the fit explains nearly always, be it with the other sign."""
    kind = survey.columns["composition"][rows]
    good = [
        one for one in np.unique(kind)
        if (kind == one).sum() >= MANY and np.quantile(np.abs(correlation[kind == one]), 0.1) > -TURNED
    ]  # fmt: skip
    return np.isin(kind, good)


def _against_energies(survey: Survey) -> float | None:
    """How much larger energies vary than the fitted forces say, negative for the wrong sign; None if they say nothing.

    Within one composition, so that element references do not matter; spreads are medians, which single wrong energies
    do not move.
    """
    rows, fitted = np.array(survey.comparisons.rows), np.array(survey.comparisons.energy)
    energy, kind = survey.columns["energy"][rows], survey.columns["composition"][rows]
    known = np.isfinite(fitted) & np.isfinite(energy)
    x, y = [], []
    for one in np.unique(kind[known]):
        group = known & (kind == one)
        if group.sum() > 2:
            x.append(fitted[group] - np.median(fitted[group]))
            y.append(energy[group] - np.median(energy[group]))
    if sum(map(len, x)) < MANY:
        return None
    guess, given = np.concatenate(x), np.concatenate(y)
    if not guess.any() or not given.any():
        return None
    # by rank: a single wrong energy of 10⁴ eV would govern the correlation of the values
    one, other = (np.argsort(np.argsort(values)).astype(float) for values in (guess, given))
    correlation = float(np.corrcoef(one, other)[0, 1])
    spreads = [float(np.median(np.abs(values))) for values in (given, guess)]
    if abs(correlation) < CLEAR or min(spreads) == 0:
        return None
    return float(np.copysign(spreads[0] / spreads[1], correlation))


def _contradiction(scale: float) -> str:
    told = (
        f"energies change {scale:.3g} times as much as the forces say (by pair forces fitted to them), expected about 1"
    )
    if scale < 0:
        sign = "the forces look like gradients, of the wrong sign"
        near = 1 / CONTRADICTION < -scale < CONTRADICTION
        return f"{told}: {sign}" if near else f"{told}: {sign}, and units of energy, length and forces do not fit"
    return f"{told}: the units of energy, length and forces do not belong together{_unit(1 / scale)}"


def _unit(times: float) -> str:
    """The unit of force in which values of eV/Å would be so many times as large, if there is one."""
    sizes = {f"{e}/{length}": ENERGY[e] / LENGTH[length] for e in ENERGY for length in ("Å", "Bohr", "nm")}
    name = min(sizes, key=lambda unit: abs(np.log(sizes[unit] * times)))
    near = abs(np.log(sizes[name] * times)) < np.log(1.6)
    return f"; they look like {name}" if near and name != "eV/Å" else ""

"""What learning a property needs to know of its values: is it a sum over atoms, and what remains to be learnt of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import atomic_masses

from covarium.data.columns import compositions_of, elements_of, label_of
from covarium.data.frame import Frame
from covarium.data.statistics import References, element_references
from covarium.errors import CovariumError


@dataclass(frozen=True)
class PropertyStatistics:
    """y ≈ reduce(scale · e + references) + offset, in the unit of the labels.

    Attributes:
        references: of the elements, zero where they play no part.
        scale: of the model's output.
        offset: of every structure.
        spread: of what is left to learn; the unit of errors in the loss.
    """

    references: References
    scale: float
    offset: float
    spread: float


def sum_or_mean(frames: Sequence[Frame]) -> tuple[Literal["sum", "mean"], str]:
    """Whether a scalar is extensive or intensive, and the reason: which explains it better by composition alone, a sum
    over the atoms or a mean."""
    values = label_of(frames, "property")
    counts = compositions_of(frames).astype(np.float64)
    spread = float(np.sqrt(np.mean((values - values.mean()) ** 2)))
    left = {}
    for how, table in (("sum", counts), ("mean", counts / counts.sum(1, keepdims=True))):
        residual = values - table @ np.linalg.lstsq(table, values, rcond=None)[0]
        left[how] = float(np.sqrt(np.mean(residual**2))) / (spread or 1.0)
    if abs(left["sum"] - left["mean"]) < 1e-6:
        return "mean", "chosen; these compositions do not tell a sum over atoms from a mean"
    reason = f"chosen: composition alone leaves {left['sum']:.3f} of the spread as a sum, {left['mean']:.3f} as a mean"
    return ("sum" if left["sum"] < left["mean"] else "mean"), reason


def property_statistics(
    frames: Sequence[Frame],
    readout: str,
    references: Literal["auto", "isolated", "least_squares", "none"] | Mapping[str, float],
) -> PropertyStatistics:
    """How the values are brought to order one.

    A sum has references of the elements (unless ``none``), a mean and a sum without references the mean of the labels
    as offset, both the standard deviation that is left as scale. Vectors, and lengths of vectors, have the root mean
    square of their components as scale; a spatial extent has Σ‖r − centre of mass‖² times its scale as its mean.

    Args:
        frames: with ``property`` labels of one shape.
        readout: as in ``tasks.Property``.
        references: of a sum; others have none.

    Raises:
        CovariumError: all values are the same, so that there is nothing to learn; references of anything but a sum; a
            sum or mean of vectors; or what ``element_references`` refuses.
    """
    labels = label_of(frames, "property")
    if labels.ndim == 2 and readout != "value":
        raise CovariumError(f"readout '{readout}' gives scalars, but these labels are vectors; theirs is 'value'")
    elements = [int(z) for z in elements_of(frames)]
    none = References(dict.fromkeys(elements, 0.0), "given", [])
    if readout not in ("sum", "mean", "mean_with_zero"):
        if not isinstance(references, str) and any(references.values()):
            raise CovariumError(f"readout '{readout}' has no references of elements; remove task.references")
        return _of_structures(frames, labels, readout, none)
    plain = isinstance(references, str) and readout != "sum"
    found = none if plain else element_references(frames, references, "property")
    counts = compositions_of(frames)
    atoms = counts.sum(axis=1)
    parts = {"sum": np.ones_like(atoms), "mean": atoms, "mean_with_zero": atoms + 1}[readout]
    rest = labels - counts @ np.array([found.energies[z] for z in elements]) / parts
    offset = 0.0 if any(found.energies.values()) else float(rest.mean())
    spread = _positive(float(np.std(rest)), labels)
    return PropertyStatistics(found, spread, offset, spread)


def _of_structures(frames: Sequence[Frame], labels: np.ndarray, readout: str, none: References) -> PropertyStatistics:
    size = _positive(float(np.sqrt(np.mean(labels**2))), labels)
    if labels.ndim == 2 or readout == "length":
        return PropertyStatistics(none, size, 0.0, size)
    extents = []
    for frame in frames:
        mass = atomic_masses[frame.numbers]
        centre = mass @ frame.positions / mass.sum()
        extents.append(float(np.square(frame.positions - centre).sum()))
    scale = _positive(float(abs(labels.mean()) / max(np.mean(extents), 1e-12)), labels)
    return PropertyStatistics(none, scale, 0.0, _positive(float(np.std(labels)), labels))


def _positive(value: float, labels: np.ndarray) -> float:
    if not value > 0:
        raise CovariumError(
            f"there is nothing to learn from {len(labels)} values with mean {labels.mean():g} and standard deviation "
            f"{labels.std():g}; is this the right key?"
        )
    return value

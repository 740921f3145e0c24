"""What a comparison with a published implementation holds, and the error it is measured in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Comparison(NamedTuple):
    """Errors by tensor name, and further requirements as (name, value, allowed)."""

    outputs: dict[str, float]
    gradients: dict[str, float]
    extra: list[tuple[str, float, float]]


def largest(values: Iterable[float], least: float = 0.0) -> float:
    """The maximum, at least ``least``; not a number if one of them is not, which Python's ``max`` may pass over."""
    return float(np.max([least, *values]))


def errors(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray], floor: float) -> dict[str, float]:
    """The error of every tensor of ``reference``; a missing or misshapen one of ours is infinitely wrong.

    Where either side is not a number, neither is the error, and no tolerance is met.
    """
    lowest = largest((floor * np.abs(r).max() for r in reference.values() if r.size), np.finfo(float).tiny)
    result = {}
    for name, ref in reference.items():
        value = ours.get(name)
        if value is None or value.shape != ref.shape:
            result[name] = float("inf")
        elif ref.size:
            result[name] = float(np.abs(value - ref).max()) / largest([np.abs(ref).max()], lowest)
    return result

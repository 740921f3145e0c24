"""What a comparison with a published implementation holds, and the error it is measured in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Comparison(NamedTuple):
    """Errors by tensor name, and further requirements as (name, value, allowed)."""

    outputs: dict[str, float]
    gradients: dict[str, float]
    extra: list[tuple[str, float, float]]


def errors(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray], floor: float) -> dict[str, float]:
    """The error of every tensor of ``reference``; a missing or misshapen one of ours is infinitely wrong."""
    lowest = floor * max((np.abs(r).max() for r in reference.values() if r.size), default=1.0)
    result = {}
    for name, ref in reference.items():
        value = ours.get(name)
        if value is None or value.shape != ref.shape:
            result[name] = float("inf")
        elif ref.size:
            result[name] = float(np.abs(value - ref).max() / max(np.abs(ref).max(), lowest, np.finfo(float).tiny))
    return result

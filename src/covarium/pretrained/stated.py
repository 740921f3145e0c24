"""What a foreign file states, held to what is expected there: anything else is refused by the name of its field."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from covarium.errors import CovariumError

# by the type of an argument's default: what may stand there
KINDS: Mapping[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    list: ((list, tuple), "a list"),
    tuple: ((list, tuple), "a list"),
}


def mapping(field: str, value: object) -> dict[str, Any]:
    """A dictionary.

    Raises:
        CovariumError: it is none.
    """
    if not isinstance(value, Mapping):
        raise CovariumError(f"{field} is {reprlib.repr(value)}; a dictionary is expected")
    return dict(value)


def number(field: str, value: object, *, positive: bool = False) -> float:
    """A finite number, from a tensor or an array of one too.

    Raises:
        CovariumError: it is none, or is not positive where it has to be.
    """
    one = value.item() if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) == 1 else value
    real = math.nan if isinstance(one, bool) or not isinstance(one, Real) else float(one)
    if not math.isfinite(real) or (positive and real <= 0):
        kind = "a positive number" if positive else "a finite number"
        raise CovariumError(f"{field} is {reprlib.repr(value)}; {kind} is expected")
    return real


def table(field: str, value: object) -> dict[int, float]:
    """A number of every element, by atomic number.

    Raises:
        CovariumError: it is no tensor, or one is not finite.
    """
    if not isinstance(value, Tensor):
        raise CovariumError(f"{field} is {reprlib.repr(value)}; a tensor is expected")
    return {z: number(f"{field}[{z}]", energy) for z, energy in enumerate(value.flatten().tolist())}


def typed(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Hold arguments to the types of their defaults; where that is None, anything may stand.

    Raises:
        CovariumError: an argument of another type.
    """
    for key, value in given.items():
        if type(defaults.get(key)) not in KINDS:
            continue
        kinds, named = KINDS[type(defaults[key])]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise CovariumError(f"{key} is {reprlib.repr(value)}; {named} is expected")

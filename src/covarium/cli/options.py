"""Options that several commands share, and the reading of durations."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FEMTOSECONDS = {"fs": 1.0, "ps": 1e3, "ns": 1e6}


class Dtype(StrEnum):
    float32 = "float32"
    float64 = "float64"
    tf32 = "tf32"
    bf16 = "bf16"


def duration(text: str, units: dict[str, float] = SECONDS) -> float:
    """``90s``, ``30m``, ``1h30m`` in the base unit of ``units``.

    Raises:
        BadParameter: not a sum of numbers with units.
    """
    part = rf"(\d+(?:\.\d*)?|\.\d+)\s*({'|'.join(sorted(units, key=len, reverse=True))})"
    compact = text.strip()
    if not re.fullmatch(rf"(?:{part}\s*)+", compact):
        known = ", ".join(units)
        raise BadParameter(
            f"'{text}' is not a duration; write a number and a unit ({known}), e.g. 30{next(iter(units))}"
        )
    total = sum(float(number) * units[unit] for number, unit in re.findall(part, compact))
    if total <= 0:
        raise BadParameter(f"'{text}' must be longer than nothing")
    return total


def simulated(text: str) -> float:
    """``500fs``, ``2ps`` in fs."""
    return duration(text, FEMTOSECONDS)


Model = Annotated[Path, Argument(help="Trained model: a .safetensors file, or the folder of a run.", metavar="MODEL")]
Files = Annotated[list[Path], Argument(help="Structures: what ASE reads, plain or compressed, or npz.", metavar="FILE")]
File = Annotated[Path, Argument(help="Structure: anything ASE reads.", metavar="FILE")]
Device = Annotated[str | None, Option("--device", help="cpu, cuda, cuda:1 … Default: cuda where there is one.")]
Precision = Annotated[Dtype | None, Option("--dtype", help="Precision of the arithmetic. Default: the model's own.")]
Threads = Annotated[int | None, Option("--threads", min=1, help="CPU threads. Default: torch's choice.")]
Memory = Annotated[
    str | None,
    Option("--memory", metavar="SIZE", help="Stay within, e.g. 8GB or 500MiB: edges are worked on in parts that fit."),
]
Compile = Annotated[bool, Option("--compile", help="Compile energy and forces first: a minute or more, then faster.")]
Settings = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Any setting, e.g. model.num_layers=3 or data.keys.energy=E_dft."),
]

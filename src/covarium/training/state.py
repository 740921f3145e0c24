"""Everything a run needs to go on as if it had never stopped, in one safetensors file with a JSON header."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covarium.checkpoint import read_file, write_file
from covarium.errors import CovariumError
from covarium.training.optimiser import Ema, moments, set_moments
from covarium.training.protocols import Task
from covarium.training.ranks import Ranks
from covarium.training.settings import Settings

FILE = "state.safetensors"
KEY = "covarium_state"
# A saved position means something only for the same order of the same data.
FIXED = ("seed", "batch_size", "max_cost", "accumulate")


@dataclass
class Position:
    """Where a run is. ``window`` counts the optimiser steps within the epoch; ``elapsed`` is in seconds.

    ``updates`` counts the steps that were not skipped, ``skipped`` the last ones in a row that were, ``stale`` the
    evaluations since the best. ``running`` holds (sum, count) of each loss since the last row of the log, which was
    that of step ``logged``. Every ``stride``-th validation batch is evaluated; 0 if that is not decided yet.
    ``validation`` is the least number of seconds in which one process would have evaluated all; 0 without a
    time budget.
    ``history`` has one row per evaluation.
    """

    step: int = 0
    epoch: int = 0
    window: int = 0
    updates: int = 0
    skipped: int = 0
    fraction: float = 0.0
    elapsed: float = 0.0
    lr: float = 0.0
    best: float = float("inf")
    best_step: int = 0
    stale: int = 0
    logged: int = -1
    stride: int = 0
    validation: float = 0.0
    running: dict[str, tuple[float, int]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Parts:
    """The things that change while a task is trained."""

    task: Task
    optimiser: torch.optim.AdamW
    ema: Ema
    rng: torch.Generator


def fingerprint(costs: Sequence[int] | np.ndarray) -> dict[str, int]:
    """Enough of the data to tell that others were given: their number, and a checksum of their costs in order."""
    checksum = zlib.crc32(b"[")
    for start in range(0, len(costs), 10_000):  # in parts: the text of all would take more memory than the data
        text = json.dumps([int(cost) for cost in costs[start : start + 10_000]])[1:-1]
        checksum = zlib.crc32(((", " if start else "") + text).encode(), checksum)
    return {"systems": len(costs), "costs": zlib.crc32(b"]", checksum)}


def write(
    folder: Path, parts: Parts, position: Position, settings: Settings, data: Mapping[str, int], ranks: Ranks
) -> None:
    """Save the run; called by all ranks, written by the first. ``data``: the fingerprint.

    Raises:
        CovariumError: the file cannot be written; the former one is then still there.
    """
    states = ranks.gather(_random_states(parts.rng))
    if not ranks.first:
        return
    tensors: dict[str, Tensor] = {}
    for rank, state in enumerate(states):
        tensors |= {f"rng.{rank}.{name}": value for name, value in state.items()}
    tensors |= {f"task.{name}": value for name, value in parts.task.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in parts.ema.average.items()}
    tensors |= {f"adamw.{name}": value for name, value in moments(parts.optimiser, parts.ema.parameters).items()}
    header = {
        "format": 1,
        "position": asdict(position),
        "settings": asdict(settings),
        "data": dict(data),
        "world": ranks.world,
    }
    write_file(folder / FILE, tensors, KEY, header)


def read(
    folder: Path, parts: Parts, settings: Settings, data: Mapping[str, int], ranks: Ranks
) -> tuple[Position, list[str]]:
    """Bring task, averaged weights, optimiser and random numbers to where the run was. ``data``: the fingerprint.

    Returns:
        The position, and a sentence for each setting that differs from those the run was started with.

    Raises:
        CovariumError: no state, a damaged one, or one of another model, other data or another number of processes.
    """
    path = folder / FILE
    if not path.exists():
        raise CovariumError(f"the run in {folder} cannot be resumed: its {FILE} is gone; start a new one")
    tensors, header = read_file(path, KEY)
    if header["format"] != 1:
        raise CovariumError(f"{path} has format {header['format']}, this version of Covarium reads 1; upgrade it")
    if header["world"] != ranks.world:
        raise CovariumError(
            f"{path} belongs to a run of {header['world']} processes, this one has {ranks.world}; "
            f"resume with `torchrun --nproc-per-node {header['world']}`"
        )
    if header["data"] != data:
        raise CovariumError(
            f"{path} belongs to a run on other data: it had {header['data']['systems']} training systems, now there "
            f"are {data['systems']}, and their order and sizes must be the same; give the same files and split"
        )
    notes = _compare(path, header["settings"], json.loads(json.dumps(asdict(settings))))
    _fill(path, parts, tensors)
    _set_random_states(parts.rng, _under(tensors, f"rng.{ranks.rank}."))
    return Position(**header["position"]), notes


def _compare(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changed = [name for name in new if old.get(name) != new[name]]
    for name in changed:
        if name in FIXED:
            raise CovariumError(
                f"{path}: the run was started with {name}={old.get(name)}, now it is {new[name]}; the order of the "
                f"data depends on it, so resume with {name}={old.get(name)} or start a new run"
            )
    return [f"resumed with {name}={new[name]}; the run was started with {old.get(name)}" for name in changed]


def _fill(path: Path, parts: Parts, tensors: Mapping[str, Tensor]) -> None:
    weights, own = _under(tensors, "task."), parts.task.state_dict()
    mine, theirs = ({name: f"{list(t.shape)} {t.dtype}" for name, t in side.items()} for side in (own, weights))
    if mine != theirs:
        name = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))[0]
        raise CovariumError(
            f"{path} belongs to another model: '{name}' is {theirs.get(name)} there and {mine.get(name)} here"
        )
    parts.task.load_state_dict(weights)
    averages = _under(tensors, "ema.")
    if averages.keys() != parts.ema.average.keys():
        raise CovariumError(f"{path} belongs to a run that trained other parts of the model; start a new run")
    for name, average in parts.ema.average.items():
        average.copy_(averages[name])
    set_moments(parts.optimiser, parts.ema.parameters, _under(tensors, "adamw."))


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _random_states(rng: torch.Generator) -> dict[str, Tensor]:
    """The task's generator, and torch's own for layers that draw from them."""
    states = {"task": rng.get_state(), "torch": torch.get_rng_state()}
    if rng.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(rng.device)
    return states


def _set_random_states(rng: torch.Generator, states: Mapping[str, Tensor]) -> None:
    rng.set_state(states["task"].clone())
    torch.set_rng_state(states["torch"].clone())
    if "cuda" in states and rng.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].clone(), rng.device)

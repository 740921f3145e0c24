"""What a run will take, found by really doing its most expensive step."""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from covarium.data.sampler import BalancedSampler
from covarium.errors import CovariumError
from covarium.training.gradients import Gradient, culprits, gradient
from covarium.training.optimiser import Ema, adamw
from covarium.training.protocols import Data, Task, parameters
from covarium.training.ranks import Ranks
from covarium.training.settings import Settings


@dataclass(frozen=True)
class Estimate:
    """Expected needs of a run on one process.

    Attributes:
        seconds_per_step: of a step of mean cost.
        peak_bytes: of the costliest step; on CUDA of torch's allocator, else the most this process ever held, with
            interpreter, libraries and data.
        steps_per_epoch: optimiser steps.
        epochs: passes over the data until the end.
        seconds: until the end, evaluations included.
    """

    seconds_per_step: float
    peak_bytes: int
    steps_per_epoch: int
    epochs: float
    seconds: float


def estimate(task: Task, data: Data, settings: Settings, ranks: Ranks | None = None) -> Estimate:
    """Run two steps on the costliest batches of an epoch; the task and all random numbers are afterwards as before.

    Args:
        task: on the device and in the dtype of the run.
        data: the training data.
        settings: of the run.
        ranks: whose share of each batch is run, from ``announced`` or ``launched``; None for one process. Nothing is
            sent between them, so one of them may do this alone, and what they will send is not in the time.

    Raises:
        CovariumError: the first loss is not finite.
    """
    costs = data.costs()
    batches = _first_epoch(data, settings, ranks or Ranks())
    windows = [batches[k : k + settings.accumulate] for k in range(0, len(batches), settings.accumulate)]
    window_costs = [sum(costs[index] for batch in window for index in batch) for window in windows]
    costliest = max(range(len(windows)), key=lambda k: window_costs[k])
    seconds, peak = _measure(task, data, windows[costliest], settings)
    # a share may be empty
    seconds *= max(sum(window_costs), 1) / len(windows) / max(window_costs[costliest], 1)
    # evaluations take up to a tenth of the run
    per_epoch = seconds * len(windows) / 0.9
    lengths = [
        (settings.epochs or math.inf) * per_epoch,
        (settings.steps or math.inf) * seconds / 0.9,
        settings.time_s or math.inf,
    ]
    return Estimate(seconds, peak, len(windows), min(lengths) / per_epoch, min(lengths))


def costliest_batch(data: Data, settings: Settings, ranks: Ranks | None = None) -> list[int]:
    """Indices of the costliest batch of the first epoch."""
    costs = data.costs()
    return max(_first_epoch(data, settings, ranks or Ranks()), key=lambda batch: sum(costs[index] for index in batch))


def _first_epoch(data: Data, settings: Settings, ranks: Ranks) -> list[list[int]]:
    sampler = BalancedSampler(
        data.costs(), settings.batch_size, settings.seed, max_cost=settings.max_cost, rank=ranks.rank, world=ranks.world
    )
    return sampler.batches(0)


def _measure(task: Task, data: Data, window: list[list[int]], settings: Settings) -> tuple[float, int]:
    """Seconds of the second of two steps, and the peak memory of both."""
    trained = parameters(task)
    one = next(iter(trained.values()))
    cuda = one.device.type == "cuda"
    before = {name: value.detach().clone() for name, value in task.state_dict().items()}
    was_training = task.training
    rng = torch.Generator(device=one.device)
    seconds = 0.0
    if cuda:
        torch.cuda.reset_peak_memory_stats(one.device)
    with torch.random.fork_rng(devices=[one.device] if cuda else []):
        task.train()
        optimiser, ema = adamw(trained, task.no_weight_decay(), settings), Ema(trained, settings.ema_decay)
        for n in range(2):
            start = time.monotonic()
            moved = [data.batch(indices).to(one.device, one.dtype) for indices in window if indices]
            computed = gradient(task, moved, rng, Ranks())
            if n == 0 and not computed.finite:
                _refuse(task, data, [index for indices in window for index in indices], computed, rng)
            for p, value in zip(trained.values(), computed.values, strict=False):  # none when the loss is not finite
                p.grad = value
            optimiser.step()
            optimiser.zero_grad()
            ema.update(n)
            seconds = time.monotonic() - start
    task.load_state_dict(before)
    task.train(was_training)
    return seconds, torch.cuda.max_memory_allocated(one.device) if cuda else most_memory()


def _refuse(task: Task, data: Data, indices: list[int], computed: Gradient, rng: torch.Generator) -> NoReturn:
    """Say what is wrong with a first step from which nothing can be learnt."""
    losses = ", ".join(f"{name} {value:g}" for name, value in computed.losses.items())
    found = culprits(task, data, indices, rng)
    alone = "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    raise CovariumError(
        f"with the initial weights loss or gradient is not finite ({losses}). Caused by: "
        f"{alone or 'no system alone, only the batch as a whole'}. Check these labels and the settings of the model"
    )


def most_memory() -> int:
    """Bytes that this process ever held; the operating system counts in KiB, macOS in bytes.

    On Linux what its parent held at its start is not counted, as ``getrusage`` does.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (held,) = [line.split()[1] for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(held)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

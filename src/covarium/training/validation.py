"""Metrics over a whole set, streamed: sums and counts, so that neither batches nor ranks change them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from covarium.errors import CovariumError, nearest
from covarium.training.protocols import Data, Task, stream
from covarium.training.ranks import Ranks

Sums = dict[str, tuple[float, float]]


def validate(
    task: Task, data: Data, batches: Sequence[Sequence[int]], ranks: Ranks, device: torch.device, dtype: torch.dtype
) -> tuple[dict[str, float], list[str]]:
    """The mean of each metric over all ranks' batches.

    Args:
        task: in evaluation mode.
        data: where the batches' indices point.
        batches: this rank's part.
        ranks: who takes part.
        device: of the task.
        dtype: of the task.

    Returns:
        The metrics, and the first systems (``file, index``) whose metrics are not finite.
    """
    sums: Sums = {}
    bad: list[str] = []
    filled = [indices for indices in batches if indices]
    for indices, batch in zip(filled, stream(data, filled), strict=True):
        new = task.metrics(batch.to(device, dtype))
        _add(sums, new)
        if not _finite(new) and len(bad) < 3:
            singles = [data.batch([index]).to(device, dtype) for index in indices]
            bad += [f"{file}, index {k}" for b in singles if not _finite(task.metrics(b)) for file, k in b.sources]
    total: Sums = {}
    named: list[str] = []
    for part, names in ranks.gather((sums, bad)):
        _add(total, part)
        named += names
    return {name: value / count for name, (value, count) in total.items() if count}, named[:3]


def score(metrics: Mapping[str, float], selection: Mapping[str, float]) -> float:
    """Σ weight · metric, lower is better; infinite when any is not finite.

    Raises:
        CovariumError: ``selection`` names a metric that was not measured.
    """
    for name in selection:
        if name not in metrics:
            hint = nearest(name, metrics)
            raise CovariumError(f"the best model is chosen by '{name}', but validation gave {sorted(metrics)}{hint}")
    total = sum(weight * metrics[name] for name, weight in selection.items())
    return total if math.isfinite(total) else math.inf


def _add(sums: Sums, new: Mapping[str, tuple[float, float]]) -> None:
    for name, (value, count) in new.items():
        old = sums.get(name, (0.0, 0.0))
        sums[name] = (old[0] + value, old[1] + count)


def _finite(metrics: Mapping[str, tuple[float, float]]) -> bool:
    return all(math.isfinite(value) for value, _ in metrics.values())

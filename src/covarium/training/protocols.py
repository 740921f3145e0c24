"""What training knows of the world: a task, its data and who watches. No model and no kind of system is named here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn


class Batch(Protocol):
    """Systems with labels; ``sources`` holds (file, index) of each."""

    @property
    def sources(self) -> list[tuple[str, int]]: ...

    def to(self, device: torch.device, dtype: torch.dtype) -> Self: ...


class Data(Protocol):
    """A set of labelled systems that knows what each costs."""

    def __len__(self) -> int: ...

    def costs(self) -> Sequence[int] | np.ndarray: ...

    def batch(self, indices: Sequence[int]) -> Any: ...  # noqa: ANN401 - a Batch, of the kind the task reads


@runtime_checkable
class Streamed(Protocol):
    """Data that make batches ahead of when they are needed."""

    def stream(self, batches: Iterable[Sequence[int]]) -> Iterator[Any]: ...


def stream(data: Data, batches: Iterable[Sequence[int]]) -> Generator[Any, None, None]:
    """``data.batch`` of each item, made ahead where the data can do that; ``batches`` may be endless."""
    if isinstance(data, Streamed):
        yield from data.stream(batches)
    else:
        yield from map(data.batch, batches)


class Task(Protocol):
    """An ``nn.Module`` that turns a batch into loss terms.

    Calling it returns ``{term: (sum, count)}``: a differentiable sum over the elements of the batch and their number.
    The loss of a step is Σ_term weight · Σ sums / Σ counts, over all batches and ranks of the step, so that it depends
    on neither how the step was cut into batches nor how these were spread over ranks. Randomness comes from ``rng``.

    ``metrics`` gives the same form as plain numbers for validation; ``selection`` weighs them, lower is better.
    """

    @property
    def weights(self) -> Mapping[str, float]: ...

    @property
    def selection(self) -> Mapping[str, float]: ...

    def __call__(self, batch: Any, rng: torch.Generator | None) -> Mapping[str, tuple[Tensor, Tensor]]: ...  # noqa: ANN401

    def metrics(self, batch: Any) -> Mapping[str, tuple[float, float]]: ...  # noqa: ANN401

    def no_weight_decay(self) -> set[str]: ...

    def named_parameters(self) -> Any: ...  # noqa: ANN401 - the signatures of nn.Module

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...  # noqa: ANN401

    @property
    def training(self) -> bool: ...

    def train(self, mode: bool = True) -> Any: ...  # noqa: ANN401


@dataclass(frozen=True)
class Event:
    """What a run says of itself after a step, an evaluation, or when it has something to tell.

    Attributes:
        step: optimiser steps done.
        epoch: passes over the data done.
        fraction: of the run done, 0 to 1.
        elapsed: seconds, former parts of a resumed run included.
        lr: learning rate of the last step.
        losses: mean of each term in the last step, and their weighted sum as ``loss``.
        metrics: of the last evaluation.
        best: lowest selection score so far.
        note: a sentence for the user, or nothing.
    """

    step: int
    epoch: int
    fraction: float
    elapsed: float
    lr: float
    losses: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: float = float("inf")
    note: str = ""

    @property
    def remaining(self) -> float:
        """Seconds to go, by rule of three; infinite before anything is known."""
        return self.elapsed * (1 - self.fraction) / self.fraction if self.fraction > 0 else float("inf")


Progress = Callable[[Event], object]
SaveBest = Callable[[Any, dict[str, Any]], object]


def parameters(task: Task) -> dict[str, nn.Parameter]:
    """The trained parameters by name."""
    return {name: p for name, p in task.named_parameters() if p.requires_grad}

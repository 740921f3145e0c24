"""AdamW with decay where it belongs, the learning rate over a run, and the averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from covarium.errors import CovariumError, nearest
from covarium.layers.irreps.flat_linear import FlatWeight
from covarium.training.settings import Settings

LEAST_WARMUP = 20  # steps, where the length is a time


def adamw(parameters: Mapping[str, nn.Parameter], exempt: set[str], settings: Settings) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101); biases and other vectors do not decay, nor does ``exempt``.

    Matrices that are stored in a vector do.

    Raises:
        CovariumError: ``exempt`` names no parameter.
    """
    for name in exempt:
        if name not in parameters:
            raise CovariumError(f"no_weight_decay names '{name}', which is no parameter{nearest(name, parameters)}")
    vectors = {name for name, p in parameters.items() if p.ndim <= 1 and not isinstance(p, FlatWeight)}
    still = vectors | exempt
    groups = [
        {"params": [p for name, p in parameters.items() if name not in still], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in parameters.items() if name in still], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, fused=True)


def rate(settings: Settings, fraction: float, step: int) -> float:
    """Learning rate when ``fraction`` of the run is done and for the ``step``-th step, counted from 0.

    Linear warm-up times a cosine from ``lr`` to ``min_lr · lr`` (Loshchilov & Hutter 2017, arXiv 1608.03983, Eq. 5).
    With a time budget a warm-up that is a fraction also takes at least 20 steps: the first evaluation alone may use up
    that part of a short budget.
    """
    warm = 1.0
    if settings.warmup >= 1:
        warm = (step + 1) / settings.warmup
    elif settings.warmup > 0:
        warm = fraction / settings.warmup
        if settings.time_s is not None:
            warm = min(warm, (step + 1) / LEAST_WARMUP)
    cosine = 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    return settings.lr * min(warm, 1.0) * (settings.min_lr + (1 - settings.min_lr) * cosine)


class Ema:
    """Exponential moving average of the weights, ē ← d ē + (1 − d) w.

    d is ``decay``, but at most (1 + n)/(10 + n) after n updates, so that the first weights are soon forgotten.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.average = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Take in the weights after the ``n``-th update, counted from 0."""
        d = min(self.decay, (1 + n) / (10 + n)) if self.decay else 0.0
        average = list(self.average.values())
        torch._foreach_lerp_(average, [p.detach() for p in self.parameters.values()], 1 - d)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights stand in the parameters; afterwards the trained ones are back, to the bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, p in self.parameters.items():
            trained = p.clone()
            p.copy_(self.average[name])
            self.average[name].copy_(trained)


def moments(optimiser: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimiser's state as tensors called ``parameter.quantity``."""
    return {
        f"{name}.{quantity}": value
        for name, p in parameters.items()
        for quantity, value in optimiser.state.get(p, {}).items()
    }


def set_moments(
    optimiser: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of ``moments``."""
    for name, p in parameters.items():
        own = ("step", "exp_avg", "exp_avg_sq")
        if f"{name}.step" in tensors:
            optimiser.state[p] = {q: tensors[f"{name}.{q}"].to(p.device, copy=True) for q in own}

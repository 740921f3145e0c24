"""How a task is trained."""

from __future__ import annotations

from dataclasses import dataclass

from covarium.errors import CovariumError

POSITIVE = (
    "epochs", "steps", "time_s", "lr", "batch_size", "max_cost", "accumulate", "clip_norm", "patience", "eval_every",
    "log_every", "save_s", "max_skips",
)  # fmt: skip
NOT_NEGATIVE = ("weight_decay", "warmup", "seed")


@dataclass(frozen=True)
class Settings:
    """Everything that shapes a run. ``epochs``, ``steps`` or ``time_s`` give its length; the first reached ends it.

    Attributes:
        epochs: passes over the training data.
        steps: optimiser steps.
        time_s: wall-time budget of training in seconds, with all evaluations and saving inside it.
        lr: learning rate after the warm-up; the default suits models of default size, larger ones want a tenth of it.
        weight_decay: of matrices, decoupled (Loshchilov & Hutter 2019, arXiv 1711.05101); none on biases, other vectors
            and what the task exempts.
        betas: of AdamW.
        batch_size: systems in a batch, over all ranks together.
        max_cost: a batch holds fewer systems when their costs would exceed this.
        accumulate: batches in an optimiser step.
        warmup: below 1 a fraction of the run (with ``time_s`` at least 20 steps), from 1 on a number of steps; the
            learning rate rises linearly.
        min_lr: where the cosine ends, as a fraction of ``lr``.
        ema_decay: of the averaged weights that are evaluated and saved; 0 for none.
        clip_norm: longest gradient; None for no clipping.
        patience: stop after so many evaluations without a better one; None for never.
        seed: of the order of the data and of the task's randomness.
        eval_every: steps between evaluations; None so that they cost about a tenth of the run at most.
        log_every: steps between rows of the log.
        save_s: seconds between saved states, beside those at each evaluation.
        max_skips: stop after so many steps in a row whose loss or gradient is not finite.

    Raises:
        CovariumError: a value out of bounds, or no length.
    """

    epochs: int | None = None
    steps: int | None = None
    time_s: float | None = None
    lr: float = 4e-3
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 8
    max_cost: int | None = None
    accumulate: int = 1
    warmup: float = 0.05
    min_lr: float = 0.01
    ema_decay: float = 0.995
    clip_norm: float | None = 10.0
    patience: int | None = None
    seed: int = 0
    eval_every: int | None = None
    log_every: int = 10
    save_s: float = 600.0
    max_skips: int = 10

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None and self.time_s is None:
            raise CovariumError("training needs a length: set epochs, steps or time_s")
        bad = [
            (name, "positive") for name in POSITIVE if getattr(self, name) is not None and not getattr(self, name) > 0
        ]
        bad += [(name, "0 or more") for name in NOT_NEGATIVE if not getattr(self, name) >= 0]
        if not 0 <= self.min_lr <= 1:
            bad.append(("min_lr", "between 0 and 1"))
        if not 0 <= self.ema_decay < 1:
            bad.append(("ema_decay", "from 0 to below 1"))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            bad.append(("betas", "two numbers from 0 to below 1"))
        if bad:
            name, rule = bad[0]
            raise CovariumError(f"training setting {name} must be {rule}, got {getattr(self, name)}")

"""The training loop. It knows tasks, data and ranks; no model, and no kind of system."""

from __future__ import annotations

import math
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from covarium.data.sampler import BalancedSampler
from covarium.errors import CovariumError
from covarium.training import state
from covarium.training.gradients import Gradient, culprits, gradient
from covarium.training.interrupt import Interrupt
from covarium.training.log import Log, reached
from covarium.training.optimiser import Ema, adamw, rate
from covarium.training.protocols import Data, Event, Progress, SaveBest, Task, parameters, stream
from covarium.training.ranks import Ranks
from covarium.training.settings import Settings
from covarium.training.validation import score, validate

VALIDATION_SHARE = 0.1  # of the run, at most, unless eval_every says otherwise
FEWEST = 4  # evaluations that this share of a time budget is enough for: at the beginning, at the end, and between
EVALUATION_COST = 0.5  # of a batch, relative to a training pass; 0.33 measured for energies with gradient forces
EVALUATIONS = 100  # of a run, at most, unless eval_every says otherwise


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        best_metric: the lowest selection score.
        best_step: the step it was reached at.
        epochs: whole passes over the data.
        steps: optimiser steps.
        reason: one sentence; after an interruption, with the command that resumes the run.
        interrupted: whether a signal ended it.
        history: one row per evaluation: step, epoch, time, score and the validation metrics.
        spent: seconds of ``step``, ``evaluate`` and ``save``, since the run was last resumed.
        validation: seconds that one process would need to evaluate all validation systems once; 0 without a time
            budget.
    """

    best_metric: float
    best_step: int
    epochs: int
    steps: int
    reason: str
    interrupted: bool
    history: list[dict[str, float]]
    spent: dict[str, float] = field(default_factory=dict)
    validation: float = 0.0

    @property
    def shares(self) -> str:
        """Where the time went, in words."""
        total = sum(self.spent.values()) or 1.0
        names = {"step": "training steps", "evaluate": "validation", "save": "saving"}
        return ", ".join(f"{100 * self.spent[key] / total:.1f} % {name}" for key, name in names.items())

    @property
    def verdict(self) -> str:
        """Where the best model was found; a warning if training found none better than it began with."""
        first = int(self.history[0]["step"]) if self.history else 0
        if self.best_step == first:
            return (
                f"warning: training did not improve on its first evaluation, the best model is that of step {first}; "
                "train longer or lower the learning rate"
            )
        return f"best model: step {self.best_step} of {self.steps}"


def train(
    task: Task,
    data: Data,
    valid: Data,
    settings: Settings,
    out: Path,
    *,
    save_best: SaveBest,
    progress: Progress | None = None,
    resume: bool = False,
    accepted: Callable[[], object] | None = None,
    ranks: Ranks | None = None,
) -> Result:
    """Train ``task`` in place; at the end it holds the averaged weights of the last step, the best are where
    ``save_best`` put them.

    With a length in epochs or steps, a resumed run is the uninterrupted one to the bit (same machine, same number of
    threads and processes). With ``time_s`` the length depends on the clock, so this cannot be: the time already used
    is kept, the learning rate goes on from where it was and reaches its end with the budget.

    Args:
        task: on its device, in its dtype.
        data: to learn from.
        valid: to choose the best weights by.
        settings: see there.
        out: folder of the run, made if missing; ``log.csv`` and ``state.safetensors`` are written there.
        save_best: called with the task holding the averaged weights and a card, on the first rank, at each new best.
        progress: called with an ``Event`` after each step, on the first rank.
        resume: go on from ``out/state.safetensors``, or from step 0 if the run ended before it was first saved.
        accepted: called on the first rank when everything fits and nothing is trained yet.
        ranks: from ``launched``; None for one process.

    Raises:
        CovariumError: nothing to learn from, a run already in ``out``, a state that does not fit, too many steps in a
            row without a finite gradient, or no evaluation with a finite score.
    """
    ranks = ranks or Ranks()
    out.mkdir(parents=True, exist_ok=True)
    if not resume and (out / state.FILE).exists():
        command = resume_command(out, ranks)
        raise CovariumError(f"{out} already holds a run; continue it with `{command}` or choose another --out")
    for name, part in (("training", data), ("validation", valid)):
        if not len(part):
            raise CovariumError(f"there are no {name} systems; give more data or another split")
    # every rank has looked before the first one writes
    ranks.gather(None)
    trainer = Trainer(task, data, valid, settings, out, save_best, progress, ranks)
    if resume:
        trainer.resume()
    if accepted is not None and ranks.first:
        accepted()
    return trainer.run()


def resume_command(out: Path, ranks: Ranks) -> str:
    """What continues the run in ``out``."""
    start = "covarium" if ranks.world == 1 else f"torchrun --nproc-per-node {ranks.world} -m covarium"
    return f"{start} train --resume {shlex.quote(str(out))}"


class Trainer:
    """One run. Whatever it decides (skip, stop, save, evaluate) follows from numbers that all ranks share."""

    def __init__(
        self,
        task: Task,
        data: Data,
        valid: Data,
        settings: Settings,
        out: Path,
        save_best: SaveBest,
        progress: Progress | None,
        ranks: Ranks,
    ) -> None:
        self.task, self.data, self.valid, self.settings, self.out = task, data, valid, settings, out
        self.save_best, self.progress, self.ranks = save_best, progress, ranks
        trained = parameters(task)
        if not trained:
            raise CovariumError("the task has no parameters to train; unfreeze some")
        ranks.share(list(task.state_dict().values()))
        one = next(iter(trained.values()))
        self.device, self.dtype = one.device, one.dtype
        rng = torch.Generator(device=self.device)
        rng.manual_seed(settings.seed + 1_000_003 * ranks.rank)
        optimiser = adamw(trained, task.no_weight_decay(), settings)
        self.parts = state.Parts(task, optimiser, Ema(trained, settings.ema_decay), rng)
        self.position = state.Position()
        costs = data.costs()
        self._fingerprint = state.fingerprint(costs)
        self.sampler = BalancedSampler(
            costs, settings.batch_size, settings.seed,
            max_cost=settings.max_cost, rank=ranks.rank, world=ranks.world,
        )  # fmt: skip
        self.valid_batches = BalancedSampler(
            valid.costs(), settings.batch_size, settings.seed,
            max_cost=settings.max_cost, rank=ranks.rank, world=ranks.world, shuffle=False,
        ).batches(0)  # fmt: skip
        self._epochs: dict[int, list[list[list[int]]]] = {}
        self._ahead: Iterator[Any] = iter(())
        self._eval_every = settings.eval_every or self._steps_between_evaluations()
        self._started = time.monotonic()
        self._evaluated = 0.0  # elapsed at the last evaluation
        self._saved = 0.0
        self._durations = {"step": 0.0, "evaluate": 0.0, "save": 0.0}
        self._spent = dict(self._durations)
        self._first_cost = 0
        self._last_losses: dict[str, float] = {}
        self._log: Log | None = None

    def resume(self) -> None:
        """Go to where the state in ``out`` is; stay at step 0 if the run ended before it had one."""
        if not (self.out / state.FILE).exists() and reached(self.out) == 0:
            self._tell("the run ended before its first saved state: it starts again from step 0")
            return
        self.position, notes = state.read(self.out, self.parts, self.settings, self._fingerprint, self.ranks)
        self._started = time.monotonic() - self.position.elapsed
        self._evaluated = self._saved = self.position.elapsed
        if notes:
            # the run may have been made longer
            self.position.fraction = 0.0
            self.position.fraction = self._fraction()
        for note in notes:
            self._tell(note)

    def run(self) -> Result:
        """Train until the end, early stopping or a signal."""
        with closing(stream(self.data, self._order())) as self._ahead:
            return self._run()

    def _run(self) -> Result:
        position = self.position
        with Interrupt() as interrupt:
            self.task.train()
            while True:
                self._settle()
                if reason := self._reason():
                    break
                self._advance()
                if stopped := self._tick("step", interrupt.signal):
                    self._save()
                    name = signal.Signals(stopped).name
                    command = resume_command(self.out, self.ranks)
                    reason = (
                        f"interrupted by {name} after step {position.step}; the state is saved, resume with: {command}"
                    )
                    return self._result(reason, interrupted=True)
                self._tell()
        if position.best == math.inf:
            raise CovariumError("no evaluation gave a finite score; lower the learning rate or check the labels")
        return self._result(reason, interrupted=False)

    def _settle(self) -> None:
        """What the position calls for: an evaluation, a row of the log, a saved state. A resumed run starts here, with
        whatever the signal did not leave time for."""
        position = self.position
        last = position.history[-1]["step"] if position.history else -1
        # within a time budget the first step comes first: it tells how much validation the budget allows
        begin = last < 0 and (self.settings.time_s is None or position.step > 0)
        evaluate = begin or (last != position.step and position.step > 0 and (self._due() or self._reason() != ""))
        if evaluate:
            self._evaluate()
        if self._log is None and position.history:
            self._open_log()
        if evaluate or (position.logged != position.step and position.step % self.settings.log_every == 0):
            self._write_row(evaluate)
        if evaluate or position.elapsed - self._saved > self.settings.save_s:
            self._save()

    # -- one step

    def _windows(self, epoch: int | None = None) -> list[list[list[int]]]:
        """The optimiser steps of an epoch, of the current one unless another is asked for, each a list of batches."""
        epoch, size = self.position.epoch if epoch is None else epoch, self.settings.accumulate
        if epoch not in self._epochs:
            batches = self.sampler.batches(epoch)
            kept = {k: windows for k, windows in self._epochs.items() if k >= self.position.epoch}
            self._epochs = {**kept, epoch: [batches[k : k + size] for k in range(0, len(batches), size)]}
        return self._epochs[epoch]

    def _order(self) -> Iterator[list[int]]:
        """All batches from the current position on, without end: data that are made ahead do not wait at epochs."""
        epoch, window = self.position.epoch, self.position.window
        while True:
            for batches in self._windows(epoch)[window:]:
                yield from filter(None, batches)
            epoch, window = epoch + 1, 0

    def _advance(self) -> None:
        position, windows = self.position, self._windows()
        window = windows[position.window]
        position.lr = rate(self.settings, self._fraction(ahead=1), position.step)
        if position.step == 0:
            costs = self.data.costs()
            self._first_cost = self.ranks.world * sum(int(costs[index]) for indices in window for index in indices)
        batches = [next(self._ahead).to(self.device, self.dtype) for indices in window if indices]
        computed = gradient(self.task, batches, self.parts.rng, self.ranks)
        if computed.finite:
            self._update(computed)
        else:
            self._skip(computed, [index for indices in window for index in indices])
        position.step += 1
        position.window += 1
        if position.window == len(windows):
            position.epoch, position.window = position.epoch + 1, 0

    def _update(self, computed: Gradient) -> None:
        position, clip = self.position, self.settings.clip_norm
        values = computed.values
        if clip is not None and computed.norm > clip:
            torch._foreach_mul_(values, clip / computed.norm)
        for p, value in zip(self.parts.ema.parameters.values(), values, strict=True):
            p.grad = value
        for group in self.parts.optimiser.param_groups:
            group["lr"] = position.lr
        self.parts.optimiser.step()
        self.parts.optimiser.zero_grad()
        self.parts.ema.update(position.updates)
        position.updates += 1
        position.skipped = 0
        self._last_losses = computed.losses
        for name, loss in computed.losses.items():
            total, count = position.running.get(name, (0.0, 0))
            position.running[name] = (total + loss, count + 1)

    def _skip(self, computed: Gradient, indices: list[int]) -> None:
        """Leave the weights alone, name the systems, and stop when nothing else happens any more."""
        position = self.position
        position.skipped += 1
        found = culprits(self.task, self.data, indices, self.parts.rng)
        named = [name for part in self.ranks.gather(found) for name in part]
        what = "gradient" if computed.values else "loss"
        alone = "; ".join(named) or "no system alone, only the batch as a whole"
        note = f"step {position.step}: the {what} is not finite, the step is skipped. Caused by: {alone}"
        self._tell(note)
        if position.skipped >= self.settings.max_skips:
            raise CovariumError(
                f"{position.skipped} steps in a row had no finite loss and gradient. Last {note}. "
                "Check these labels, or lower the learning rate"
            )

    # -- time

    def _tick(self, what: str, flag: int = 0) -> int:
        """Agree on the time and on ``flag``; note how long ``what`` took."""
        before = self.position.elapsed
        now, agreed = self.ranks.largest([time.monotonic() - self._started, flag], self.device)
        self._durations[what] = now - before
        self._spent[what] += now - before
        self.position.elapsed = now
        self.position.fraction = self._fraction()
        return int(agreed)

    def _fraction(self, ahead: int = 0) -> float:
        """How much of the run is done, or will be after ``ahead`` more steps; it never falls."""
        position, settings = self.position, self.settings
        parts = [position.fraction]
        if settings.epochs is not None:
            parts.append((position.epoch + (position.window + ahead) / len(self._windows())) / settings.epochs)
        if settings.steps is not None:
            parts.append((position.step + ahead) / settings.steps)
        if settings.time_s is not None:
            # the last evaluation and saving belong to the budget
            usable = settings.time_s - sum(self._durations.values())
            parts.append(position.elapsed / usable if usable > 0 else 1.0)
        return min(max(parts), 1.0)

    def _reason(self) -> str:
        """Why the run is over, or nothing."""
        position, settings = self.position, self.settings
        if settings.patience is not None and position.stale >= settings.patience:
            return f"stopped early: not better for {position.stale} evaluations, best at step {position.best_step}"
        if position.fraction < 1:
            return ""
        if settings.epochs is not None and position.epoch >= settings.epochs:
            return f"finished {position.epoch} epochs"
        if settings.steps is not None and position.step >= settings.steps:
            return f"finished {position.step} steps"
        return f"used its {settings.time_s:g} s: {position.step} steps, {position.epoch} whole epochs"

    # -- evaluation

    def _due(self) -> bool:
        """Whether to evaluate after this step."""
        settings, position = self.settings, self.position
        if settings.eval_every is None and settings.epochs is None and settings.steps is None:
            # the one at the end comes on top
            share = VALIDATION_SHARE * (1 - 1 / FEWEST)
            pause = max(self._durations["evaluate"] / share, (settings.time_s or 0) / EVALUATIONS)
            return position.elapsed - self._evaluated >= pause
        return position.step % self._eval_every == 0

    def _steps_between_evaluations(self) -> int:
        """From costs, not from the clock: a resumed run must evaluate at the same steps."""
        total, taken = self._steps_of_run(), self._steps_of_evaluation()
        if not total:
            return max(math.ceil(taken / VALIDATION_SHARE), 1)
        # one of them is at the beginning
        most = math.floor(VALIDATION_SHARE * total * self._stride_of_length() / max(taken, 1e-9)) - 1
        return math.ceil(total / min(max(most, 1), EVALUATIONS))

    def _steps_of_run(self) -> int:
        """0 where only time ends it."""
        settings = self.settings
        lengths = [settings.steps, settings.epochs and settings.epochs * len(self._windows())]
        return min((length for length in lengths if length), default=0)

    def _steps_of_evaluation(self) -> float:
        """That take as long as one evaluation of all validation systems."""
        return EVALUATION_COST * len(self._windows()) * sum(self.valid.costs()) / sum(self.data.costs())

    def _stride_of_length(self) -> int:
        """Every how many-th batch is evaluated in a run of known length, for one evaluation at its beginning and one at
        its end."""
        total = self._steps_of_run()
        if not total or self.settings.eval_every is not None:
            return 1
        stride = math.ceil(2 * self._steps_of_evaluation() / (VALIDATION_SHARE * total))
        return max(min(stride, len(self.valid_batches)), 1)

    def _evaluate(self) -> None:
        """Measure the averaged weights, and save them if they are the best."""
        position = self.position
        batches = self.valid_batches[:: self._validation_stride()]
        self.task.train(False)
        with self.parts.ema.applied():
            metrics, bad = validate(self.task, self.valid, batches, self.ranks, self.device, self.dtype)
            now = score(metrics, self.task.selection)
            row = {"step": position.step, "epoch": position.epoch, "time": position.elapsed, "score": now, **metrics}
            position.stale += 1
            if now < position.best:
                position.best, position.best_step, position.stale = now, position.step, 0
                if self.ranks.first:
                    self.save_best(self.task, {**row, "settings": asdict(self.settings)})
        self.task.train()
        position.history.append(row)
        if bad:
            self._tell(f"step {position.step}: validation metrics are not finite, first for: {'; '.join(bad)}")
        self._tick("evaluate")
        self._evaluated = position.elapsed
        if self.settings.time_s is not None:  # a run without a clock keeps none in its state
            costs = self.valid.costs()
            seen = sum(int(costs[index]) for indices in batches for index in indices)
            whole = float(self._durations["evaluate"] * sum(costs) / max(seen, 1))
            position.validation = min(position.validation or math.inf, whole)

    def _validation_stride(self) -> int:
        """Every how many-th batch is evaluated, so that an evaluation leaves most of a time budget to training.

        Decided once, from the length of the first step.
        """
        position, settings = self.position, self.settings
        if position.stride == 0:
            position.stride = self._stride_of_length()
            if settings.time_s is not None:
                per_cost = self._durations["step"] / max(self._first_cost, 1)
                whole = EVALUATION_COST * per_cost * sum(self.valid.costs())
                allowed = VALIDATION_SHARE * settings.time_s / FEWEST
                by_time = max(min(math.ceil(whole / allowed), len(self.valid_batches)), 1)
                position.stride = max(position.stride, by_time)
            if position.stride > 1:
                self._tell(
                    f"evaluations of all validation systems would take more than {VALIDATION_SHARE:.0%} of this run: "
                    f"every {position.stride}. batch is evaluated during training"
                )
        return position.stride

    # -- what is written and told

    def _save(self) -> None:
        state.write(self.out, self.parts, self.position, self.settings, self._fingerprint, self.ranks)
        self._tick("save")
        self._saved = self.position.elapsed

    def _open_log(self) -> None:
        if self.ranks.first:
            losses = ["loss", *(f"loss_{name}" for name, weight in self.task.weights.items() if weight)]
            first = self.position.history[0]
            metrics = [f"valid_{name}" for name in first if name not in ("step", "epoch", "time")]
            columns = ["step", "epoch", "time", "lr", *losses, *metrics]
            self._log = Log(self.out, columns, last_step=self.position.logged)

    def _write_row(self, evaluated: bool) -> None:
        position = self.position
        row: dict[str, float] = {
            "step": position.step, "epoch": position.epoch, "time": round(position.elapsed, 3), "lr": position.lr
        }  # fmt: skip
        for name, (total, count) in position.running.items():
            row[name if name == "loss" else f"loss_{name}"] = total / count
        if evaluated:
            row |= {f"valid_{k}": v for k, v in position.history[-1].items() if k not in ("step", "epoch", "time")}
        if self._log is not None:
            self._log.row(row)
        position.running.clear()
        position.logged = position.step

    def _tell(self, note: str = "") -> None:
        if self.progress is None or not self.ranks.first:
            return
        position = self.position
        metrics: Mapping[str, Any] = position.history[-1] if position.history else {}
        self.progress(
            Event(
                step=position.step, epoch=position.epoch, fraction=position.fraction, elapsed=position.elapsed,
                lr=position.lr, losses=self._last_losses, metrics=metrics, best=position.best, note=note,
            )
        )  # fmt: skip

    def _result(self, reason: str, *, interrupted: bool) -> Result:
        if self._log is not None:
            self._log.close()
        position = self.position
        return Result(
            best_metric=position.best, best_step=position.best_step, epochs=position.epoch, steps=position.step,
            reason=reason, interrupted=interrupted, history=position.history, spent=self._spent,
            validation=position.validation,
        )  # fmt: skip

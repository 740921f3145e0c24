"""Errors of a token task over labelled samples, in the units of the data.

Besides MAE and MSE over components: the relative error ‖answer − target‖ / ‖target‖ of each sample, averaged (the
"approximation error" of wall-shear stress in Suk et al. 2022, arXiv 2109.04797); of positions it is that of their
change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from covarium.analysis import plots
from covarium.analysis.errors import Table
from covarium.analysis.report import Section
from covarium.data.tokens import TokenDataset, TokenSample
from covarium.errors import CovariumError
from covarium.tasks.tokens import TokenPrediction, TokenRegression

Progress = Callable[[int, int], object]
MAX_COST = 4096  # of a batch


@dataclass(frozen=True)
class TokenEvaluation:
    """Answers beside their targets: name → one array per sample."""

    samples: tuple[TokenSample, ...]
    answers: dict[str, list[np.ndarray]]

    def to_json(self) -> dict[str, Any]:
        """Target → mae, mse, rmse, relative; and the number of samples. Units are those of the data."""
        return {"units": "of the data", **self.summary(), "samples": len(self.samples)}

    def summary(self) -> dict[str, dict[str, float]]:
        """Target → errors."""
        out = {}
        for name, answers in self.answers.items():
            errors = [a - s.targets[name] for a, s in zip(answers, self.samples, strict=True)]
            flat = np.concatenate([error.ravel() for error in errors])
            mse = float((flat**2).mean())
            out[name] = {"mae": float(np.abs(flat).mean()), "mse": mse, "rmse": mse**0.5}
            relative = [
                np.linalg.norm(e) / size
                for e, s in zip(errors, self.samples, strict=True)
                if (size := _size(s, name)) > 0
            ]
            if relative:
                out[name]["relative"] = float(np.mean(relative))
        return out

    def tables(self) -> list[Table]:
        """One row per target."""
        names = ("mae", "mse", "rmse", "relative")
        rows = tuple(
            (name, *(f"{errors[key]:.4g}" if key in errors else "—" for key in names))
            for name, errors in self.summary().items()
        )
        header = ("target", "MAE", "MSE", "RMSE", "relative")
        return [Table(f"Errors over {len(self.samples):,} samples, units of the data", header, rows)]

    def sections(self) -> list[Section]:
        """Errors with a picture for each target."""
        figures = [(self._picture(name), f"Answer against target, {name}.") for name in self.answers]
        return [Section("Errors", tables=self.tables(), figures=figures)]

    def _picture(self, name: str) -> Figure:
        answers, targets = self.answers[name], [s.targets[name] for s in self.samples]
        if name == "positions":
            answers = [a - s.positions for a, s in zip(answers, self.samples, strict=True)]
            targets = [t - s.positions for t, s in zip(targets, self.samples, strict=True)]
        what = "change of position" if name == "positions" else name.removesuffix("s")
        x, y = (np.concatenate([part.ravel() for part in parts]) for parts in (targets, answers))
        return plots.answers(x, y, f"{what} components" if name != "scalars" else what)


def evaluate_tokens(
    task: TokenRegression, samples: Sequence[TokenSample], *, progress: Progress | None = None
) -> TokenEvaluation:
    """Answer for every sample and set it beside its targets.

    Args:
        task: in evaluation mode.
        samples: with all targets of the task.
        progress: called with (samples done, all samples).

    Raises:
        CovariumError: nothing to evaluate, a target is missing, or an answer is not finite.
    """
    if not samples:
        raise CovariumError("nothing to evaluate: the file has no samples")
    for sample in samples:
        for name in task.targets:
            if name not in sample.targets:
                raise CovariumError(f"{sample.where} has no target {name}; it has {', '.join(sample.targets)}")
    answers: dict[str, list[np.ndarray]] = {name: [] for name in task.targets}
    done = 0
    for group, prediction in predict_samples(task, samples):
        ends = np.cumsum([len(sample.positions) for sample in group])[:-1]
        for name in task.targets:
            value = getattr(prediction, name).double().cpu().numpy()
            answers[name] += np.split(value, ends)
        for k, sample in enumerate(group):
            if not all(np.isfinite(answers[name][done + k]).all() for name in task.targets):
                raise CovariumError(f"{sample.where}: the answer is not finite; check the model's training log")
        done += len(group)
        if progress is not None:
            progress(done, len(samples))
    return TokenEvaluation(tuple(samples), answers)


def predict_samples(
    task: TokenRegression, samples: Sequence[TokenSample]
) -> Iterator[tuple[list[TokenSample], TokenPrediction]]:
    """Consecutive samples, of bounded cost together, and the answer for them as one batch."""
    data = TokenDataset(samples)
    one = next(task.model.parameters())
    group: list[int] = []
    filled = 0
    for index, cost in enumerate(data.costs()):
        if group and filled + cost > MAX_COST:
            yield _answered(task, data, group, one)
            group, filled = [], 0
        group.append(index)
        filled += cost
    yield _answered(task, data, group, one)


def _answered(
    task: TokenRegression, data: TokenDataset, group: list[int], one: torch.Tensor
) -> tuple[list[TokenSample], TokenPrediction]:
    batch = data.batch(group).to(one.device, one.dtype)
    return [data.frames[k] for k in group], task.predict(batch.system)


def _size(sample: TokenSample, name: str) -> float:
    """‖target‖; of positions, of their change."""
    target = sample.targets[name]
    return float(np.linalg.norm(target - sample.positions if name == "positions" else target))

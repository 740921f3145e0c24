"""The gradient of one optimiser step, exact over the batches and ranks it is spread on, and who spoils it.

L = Σ_t w_t S_t / N_t with S_t, N_t the sum and count of term t over all batches and ranks of the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from covarium.errors import CovariumError, nearest
from covarium.training.protocols import Batch, Data, Task, parameters
from covarium.training.ranks import Ranks

Terms = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Gradient:
    """Gradients of all parameters, in their order and the same on all ranks; empty when the loss is not finite.

    ``losses`` holds the mean of each term that had data, and their weighted sum as ``loss``.
    """

    values: list[Tensor]
    norm: float
    losses: dict[str, float]

    @property
    def finite(self) -> bool:
        return bool(self.values) and self.norm < float("inf")


def gradient(task: Task, batches: Sequence[Batch], rng: torch.Generator, ranks: Ranks) -> Gradient:
    """Compute the gradient of a step.

    Args:
        task: on its device, in training mode.
        batches: this rank's part of the step; may be empty.
        rng: for the task's randomness.
        ranks: who takes part.

    One batch per rank: the counts are summed over ranks before the one backward pass. Several: the counts of later
    batches are not known yet, so each term has its own backward pass and its own sum of gradients, and they are
    weighted at the end; only one batch's graph is held at a time.
    """
    names = [name for name, weight in task.weights.items() if weight]
    trained = list(parameters(task).values())
    device = trained[0].device
    totals = torch.zeros(2, len(names), dtype=torch.float64, device=device)
    separate: dict[str, list[Tensor]] = {}
    for batch in batches:
        terms = task(batch, rng)
        _check(terms, task.weights)
        for k, name in enumerate(names):
            if name in terms:
                totals[0, k] += terms[name][0].detach()
                totals[1, k] += terms[name][1]
        if len(batches) > 1:
            _add_by_term(separate, terms, trained)
    (totals,) = ranks.sum([totals])
    losses, factors = _losses(names, totals.tolist(), task.weights)
    if not all(abs(loss) < float("inf") for loss in losses.values()):
        return Gradient([], float("nan"), losses)
    if len(batches) > 1:
        values = [torch.zeros_like(p) for p in trained]
        for name, sums in separate.items():
            torch._foreach_add_(values, sums, alpha=factors[name])
    else:
        parts = [factors[name] * terms[name][0] for name in names if batches and name in terms]
        values = _derivative(sum(parts) if parts else 0.0, trained)
    values = ranks.sum(values)
    return Gradient(values, float(torch.nn.utils.get_total_norm(values)), losses)


def _check(terms: Terms, weights: Mapping[str, float]) -> None:
    for name in terms:
        if name not in weights:
            raise CovariumError(f"the task returned a loss term '{name}' that has no weight{nearest(name, weights)}")


def _losses(
    names: Sequence[str], totals: Sequence[Sequence[float]], weights: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Means of the terms that had data with their weighted sum, and the factor w/N of each term's sum."""
    sums, counts = totals
    losses = {name: s / n for name, s, n in zip(names, sums, counts, strict=True) if n}
    losses["loss"] = sum(weights[name] * loss for name, loss in losses.items())
    return losses, {name: weights[name] / n if n else 0.0 for name, n in zip(names, counts, strict=True)}


def _add_by_term(separate: dict[str, list[Tensor]], terms: Terms, trained: Sequence[Tensor]) -> None:
    """Add the gradient of each term's sum to its own place."""
    left = len(terms)
    for name, (total, _) in terms.items():
        left -= 1
        new = _derivative(total, trained, retain_graph=left > 0)
        if name in separate:
            torch._foreach_add_(separate[name], new)
        else:
            separate[name] = new


def _derivative(loss: Tensor | float, trained: Sequence[Tensor], *, retain_graph: bool = False) -> list[Tensor]:
    """Zeros where the loss does not depend on a parameter, so that all ranks update the same ones."""
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return [torch.zeros_like(p) for p in trained]
    found = torch.autograd.grad(loss, trained, retain_graph=retain_graph, allow_unused=True, materialize_grads=True)
    # torch's fused optimiser reads gradients in the order of memory, whatever their strides are
    return [
        g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for g, p in zip(found, trained, strict=True)
    ]


def culprits(task: Task, data: Data, indices: Sequence[int], rng: torch.Generator) -> list[str]:
    """The systems that alone give a loss or gradient that is not finite, as ``file, index``; ``rng`` is left as it was.

    Args:
        task: as it was when the step failed.
        data: where ``indices`` point.
        indices: of this rank's part of the step.
        rng: of the task.
    """
    trained = list(parameters(task).values())
    device, dtype = trained[0].device, trained[0].dtype
    found = []
    for index in indices:
        own = torch.Generator(device=rng.device)
        own.set_state(rng.get_state())
        batch = data.batch([index]).to(device, dtype)
        sums = [total for total, _ in task(batch, own).values()]
        numbers = [*sums, *(_derivative(sum(sums), trained) if sums else [])]
        if not all(bool(torch.isfinite(number).all()) for number in numbers):
            file, frame = batch.sources[0]
            found.append(f"{file}, index {frame}")
    return found

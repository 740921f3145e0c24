"""All checks of a token task in one list: what a contract test asserts and a user reads as a table."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from covarium.analysis.check import Check
from covarium.analysis.equivariance import GROUPS, check_equivariance, deviations
from covarium.data.tokens import TokenDataset, TokenSample
from covarium.systems import Tokens
from covarium.tasks.tokens import TokenPrediction, TokenRegression

GROUP_SAMPLES = 20


def task_group(task: TokenRegression) -> str:
    """The group under which the task is equivariant: centring adds translations to rotations."""
    model = task.model.group
    return {"O(3)": "E(3)", "SO(3)": "SE(3)"}.get(model, model) if task.centre else model


def changes(task: TokenRegression, system: Tokens) -> TokenPrediction:
    """The answer with changes of position in place of positions, beside which they would be lost."""
    prediction = task.predict(system)
    if prediction.positions is None:
        return prediction
    return replace(prediction, positions=prediction.positions - system.positions.double())


def check_tokens(task: TokenRegression, samples: Sequence[TokenSample], *, level: float = 1e-10) -> Iterator[Check]:
    """Every check that fits the task, one by one, in float64 (one compares float32 with it).

    Of a task that centres its samples they are centred first: far from the origin, turning the positions themselves
    would round off more than the level.

    Args:
        task: left as it is; a copy is checked.
        samples: to look at; of several sizes if they differ.
        level: highest relative deviation under the group.
    """
    probe = in_dtype(task, torch.float64)
    data = TokenDataset([replace(s, positions=s.positions - s.positions.mean(axis=0)) for s in samples]
                        if probe.centre else samples)  # fmt: skip
    system = data.batch(range(len(data))).to(_device(probe), torch.float64).system
    group = task_group(probe)
    declared = group in GROUPS
    found = check_equivariance(partial(changes, probe), system, group if declared else "O(3)", GROUP_SAMPLES)
    for name, deviation in found.items():
        note = f"{GROUP_SAMPLES} elements" if declared else "measured, not promised: the model declares no symmetry"
        yield Check(f"{group if declared else 'O(3)'} {name}", deviation.relative, level if declared else None, note)
    if probe.centre or group in ("SE(3)", "E(3)"):
        yield translation(probe, system, level)
    yield permutation(probe, system, level)
    yield batch_equals_single(probe, data, level)
    worst = max(d.absolute for d in deviations(changes(probe, system), changes(probe, system)).values())
    yield Check("repeat", worst, 0.0, "same batch twice")
    yield single_precision(probe, data)


def in_dtype(task: TokenRegression, dtype: torch.dtype) -> TokenRegression:
    """A copy in evaluation mode."""
    return copy.deepcopy(task).to(dtype).eval().requires_grad_(False)


def translation(task: TokenRegression, system: Tokens, level: float = 1e-10) -> Check:
    """Shift every token by the same vector, 65 scales of length; positions that come out shift with it. Rounding of
    the shifted ones counts."""
    shift = task.scaling.length * system.positions.new_tensor([31.0, -17.0, 55.0])
    moved = changes(task, replace(system, positions=system.positions + shift))
    return Check("translation", _worst(moved, changes(task, system)), level, "by 65 scales of length")


def permutation(task: TokenRegression, system: Tokens, level: float = 1e-10) -> Check:
    """Tokens of each sample in another order; networks with rotary encoding or axial grids read the order, and only
    repeat."""
    order = torch.cat([
        part[torch.randperm(len(part), generator=torch.Generator().manual_seed(0))]
        for part in torch.arange(system.num_tokens).split(system.counts.tolist())
    ]).to(system.positions.device)  # fmt: skip
    config = getattr(task.model, "config", None)
    reads_order = any(getattr(config, "rotary", ())) or getattr(config, "axial", None) is not None
    turned = replace(system, **{name: getattr(system, name)[order] for name in ("positions", "vectors", "scalars")})
    expected = changes(task, system)
    picked = {name: value[order] for name in ("positions", "vectors", "scalars")
              if (value := getattr(expected, name)) is not None}  # fmt: skip
    value = _worst(changes(task, turned), TokenPrediction(**picked))
    if reads_order:
        return Check("permutation", value, None, "the model reads the order of tokens")
    return Check("permutation", value, level)


def batch_equals_single(task: TokenRegression, data: TokenDataset, level: float = 1e-10) -> Check:
    """Samples together and one by one."""
    device = _device(task)
    together = changes(task, data.batch(range(len(data))).to(device, torch.float64).system)
    alone = [changes(task, data.batch([k]).to(device, torch.float64).system) for k in range(len(data))]
    joined = {
        name: torch.cat([getattr(p, name) for p in alone])
        for name in ("positions", "vectors", "scalars")
        if getattr(together, name) is not None
    }
    return Check("batch = single", _worst(together, TokenPrediction(**joined)), level, f"{len(data)} samples")


def single_precision(task: TokenRegression, data: TokenDataset, level: float = 1e-3) -> Check:
    """Relative deviation of answers in float32 from those in float64; of positions, of their change."""
    half = in_dtype(task, torch.float32)
    batch = data.batch(range(len(data)))
    one, two = (
        half.evaluate(batch.to(_device(task), torch.float32).system),
        task.evaluate(batch.to(_device(task), torch.float64).system),
    )
    worst = max(float((one[name].double() - two[name]).abs().max() / two[name].abs().max()) for name in two)
    return Check("float32 against float64", worst, level)


def _worst(one: TokenPrediction, other: TokenPrediction) -> float:
    return max(d.relative for d in deviations(one, other).values())


def _device(task: TokenRegression) -> torch.device:
    return next(task.model.parameters()).device

"""The fit of log weights: closed form where there is one, training in between, and the file it is kept in."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from covarium import checkpoint
from covarium.data.spin_samples import SpinSamples
from covarium.errors import CovariumError
from covarium.models.spin_transformer import Config, SpinTransformer, deepened
from covarium.systems.spin_field import SpinField
from covarium.tasks.effective_action import EffectiveAction, independent_acceptance
from covarium.training import Settings, train


def teacher(layers: int, seed: int = 0) -> EffectiveAction:
    model, rng = SpinTransformer(Config(4, layers)).double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.W += 0.1 * torch.randn(model.W.shape, generator=rng, dtype=torch.float64)
        model.J += torch.randn(model.J.shape, generator=rng, dtype=torch.float64)
        model.E0.fill_(-31.0)
    return EffectiveAction(model, physics={"beta": 20.0})


def samples(task: EffectiveAction, count: int, seed: int) -> SpinSamples:
    field = SpinField.random(count, 4, torch.Generator().manual_seed(seed))
    return SpinSamples(field, task.log_weight(field.spins))


def test_a_linear_teacher_is_found_exactly() -> None:
    task = teacher(0)
    data = samples(task, 300, 1)
    learnt = EffectiveAction(SpinTransformer(Config(4, 0)).double())
    learnt.refit(data)
    assert learnt.mse(data) < 1e-20
    assert (learnt.model.J - task.model.J).abs().max() < 1e-10
    assert abs(float(learnt.model.E0 - task.model.E0)) < 1e-10


def test_couplings_of_effective_spins_are_found_exactly() -> None:
    task = teacher(2)
    data = samples(task, 300, 1)
    learnt = EffectiveAction(SpinTransformer(Config(4, 2)).double())
    with torch.no_grad():
        learnt.model.W.copy_(task.model.W)
    learnt.refit(data)
    assert learnt.mse(data) < 1e-18


def test_refit_never_makes_it_worse_and_survives_what_samples_do_not_span() -> None:
    data = samples(teacher(1), 400, 2)
    learnt = teacher(0, seed=5)
    before = learnt.mse(data)
    learnt.refit(data)
    assert learnt.mse(data) < before
    few = data.part(0, 3)  # fewer samples than couplings
    learnt.refit(few)
    assert learnt.mse(few) < 1e-18


def test_training_one_layer_more_lowers_the_error(tmp_path: Path) -> None:
    # the first layer's attention is positive for aligned spins, so that the pupil starts on the right side
    expert = teacher(0, seed=3)
    expert.model = deepened(expert.model)
    with torch.no_grad():
        expert.model.W[0, 2] = torch.tensor([0.0, 0.3, -0.2, 0.1, 0.0, 0.1])
    data, valid = samples(expert, 1500, 1), samples(expert, 300, 2)
    task = EffectiveAction(SpinTransformer(Config(4, 0)).double())
    task.refit(data)
    linear = task.mse(valid)
    task = EffectiveAction(deepened(task.model))
    assert abs(task.mse(valid) / linear - 1) < 1e-9
    settings = Settings(steps=300, lr=1e-2, batch_size=128, weight_decay=0.0, ema_decay=0.9, clip_norm=1.0)
    train(task, data, valid, settings, tmp_path, save_best=lambda task, card: None)
    task.refit(data)
    assert task.mse(valid) < 0.05 * linear


def test_loss_is_sum_and_count() -> None:
    task = teacher(1)
    data = samples(teacher(0), 10, 1)
    whole = task(data.batch(range(10)), None)["action"]
    parts = [task(data.batch(range(a, b)), None)["action"] for a, b in ((0, 3), (3, 10))]
    assert torch.allclose(whole[0], sum(part[0] for part in parts)) and float(whole[1]) == 10
    assert abs(task.metrics(data.batch(range(10)))["action_mse"][0] / float(whole[0].detach()) - 1) < 1e-12
    assert abs(task.mse(data) - float(whole[0].detach()) / 10) < 1e-9
    assert data.batch([4, 2]).sources == [("samples", 4), ("samples", 2)]


def test_checkpoint(tmp_path: Path) -> None:
    task = teacher(2)
    checkpoint.save(tmp_path / "x.safetensors", task, {"note": 1})
    loaded = checkpoint.load(tmp_path / "x.safetensors").task
    field = SpinField.random(3, 4, torch.Generator().manual_seed(0))
    assert torch.equal(loaded.log_weight(field.spins), task.log_weight(field.spins))
    assert loaded.physics == {"beta": 20.0} and loaded.model.config == task.model.config


def test_samples_refuse_what_does_not_fit() -> None:
    field = SpinField.random(3, 4, torch.Generator())
    with pytest.raises(CovariumError, match="3 spin fields have 2 weights"):
        SpinSamples(field, torch.zeros(2))


def test_acceptance_between_independent_configurations() -> None:
    """Errors that are normally distributed are accepted at erfc(σ/2); a perfect model always, whatever its constant."""
    rng = torch.Generator().manual_seed(0)
    for sigma in (0.3, 1.0):
        off = sigma * torch.randn(100_000, generator=rng, dtype=torch.float64) - 700.0
        assert abs(independent_acceptance(off) - math.erfc(sigma / 2)) < 0.005
    assert abs(independent_acceptance(torch.full((5,), 3.0, dtype=torch.float64)) - 1) < 1e-12
    few = torch.tensor([0.0, -1.0, 0.5], dtype=torch.float64)
    pairs = [min(a, b) for a, b in itertools.combinations(few.exp().tolist(), 2)]
    assert abs(independent_acceptance(few) - sum(pairs) / 3 / float(few.exp().mean())) < 1e-12

"""Learning rate, decay and averaged weights against their formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_task import toy_task

from covarium.errors import CovariumError
from covarium.training import Settings
from covarium.training.optimiser import Ema, adamw, moments, rate, set_moments


def test_rate_warms_up_and_ends_on_its_fraction():
    settings = Settings(steps=1000, lr=2.0, warmup=0.1, min_lr=0.25)
    assert rate(settings, 0.05, 50) == pytest.approx(0.5 * 2 * (0.25 + 0.75 * 0.5 * (1 + math.cos(math.pi * 0.05))))
    assert rate(settings, 1.0, 999) == pytest.approx(0.5)
    in_steps = Settings(steps=1000, lr=2.0, warmup=100)
    assert rate(in_steps, 0.0, 24) == pytest.approx(0.5)
    assert rate(Settings(steps=10, lr=2.0, warmup=0, min_lr=1), 0.0, 0) == 2.0


def test_with_a_time_budget_the_warmup_takes_steps_too():
    settings = Settings(time_s=30.0, lr=2.0, warmup=0.05, min_lr=1.0)
    # the first evaluation used up a quarter of the run
    assert [rate(settings, 0.25, step) for step in (0, 9, 19, 20)] == pytest.approx([0.1, 1.0, 2.0, 2.0])
    # many quick steps: the fraction holds
    assert rate(settings, 0.01, 500) == pytest.approx(0.4)
    assert rate(Settings(time_s=30.0, lr=2.0, warmup=0, min_lr=1.0), 0.25, 0) == 2.0
    assert rate(Settings(steps=30, lr=2.0, warmup=0.05, min_lr=1.0), 0.25, 0) == 2.0


@given(st.floats(0, 1), st.floats(0, 1))
def test_rate_falls_after_the_warmup(a, b):
    settings = Settings(steps=1, warmup=0.1)
    low, high = sorted((0.1 + 0.9 * a, 0.1 + 0.9 * b))
    assert rate(settings, high, 0) <= rate(settings, low, 0)


def test_only_matrices_decay():
    task = toy_task()
    names = dict(task.named_parameters())
    optimiser = adamw(names, task.no_weight_decay(), Settings(steps=1, weight_decay=0.1))
    decayed = {id(p) for g in optimiser.param_groups for p in g["params"] if g["weight_decay"] > 0}
    assert {n for n, p in names.items() if id(p) in decayed} == {"net.0.weight", "net.2.weight", "idle.weight"}
    with pytest.raises(CovariumError, match=r"'net\.4\.weigth', which is no parameter; did you mean"):
        adamw(names, {"net.4.weigth"}, Settings(steps=1))


def test_average_follows_its_recursion_and_gives_the_weights_back():
    task = toy_task()
    names = dict(task.named_parameters())
    ema = Ema(names, 0.9)
    expected = names["net.0.weight"].detach().clone()
    for n in range(30):
        with torch.no_grad():
            names["net.0.weight"].add_(0.1)
        ema.update(n)
        d = min(0.9, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * names["net.0.weight"].detach()
    torch.testing.assert_close(ema.average["net.0.weight"], expected, rtol=1e-13, atol=0)
    trained = {name: p.detach().clone() for name, p in names.items()}
    with ema.applied():
        torch.testing.assert_close(names["net.0.weight"].detach(), expected, rtol=1e-13, atol=0)
    assert all(torch.equal(p, trained[name]) for name, p in names.items())


def test_without_average_the_weights_themselves_are_kept():
    names = dict(toy_task().named_parameters())
    ema = Ema(names, 0.0)
    with torch.no_grad():
        names["net.0.weight"].mul_(1.7)
    ema.update(0)
    assert torch.equal(ema.average["net.0.weight"], names["net.0.weight"])


def test_moments_come_back():
    task = toy_task()
    names = dict(task.named_parameters())
    optimisers = [adamw(names, set(), Settings(steps=1)) for _ in range(2)]
    for p in names.values():
        p.grad = torch.ones_like(p)
    optimisers[0].step()
    set_moments(optimisers[1], names, moments(optimisers[0], names))
    first, second = (moments(optimiser, names) for optimiser in optimisers)
    assert len(first) == 3 * len(names) and first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "values",
    [{}, {"steps": 0}, {"time_s": -1.0}, {"steps": 1, "lr": float("nan")}, {"steps": 1, "ema_decay": 1.0}]
    + [{"steps": 1, "betas": (0.9,)}, {"steps": 1, "min_lr": 2.0}, {"steps": 1, "warmup": -1.0}],
)
def test_settings_out_of_bounds_are_refused(values):
    with pytest.raises(CovariumError, match=f"{'length' if not values else list(values)[-1]}"):
        Settings(**values)

"""The gradient of a step does not depend on how the step was cut, and spoilt systems are named."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_task import ToyData, toy_task

from covarium.errors import CovariumError
from covarium.models import MODELS
from covarium.systems import atom_graph
from covarium.training import Ranks
from covarium.training.gradients import culprits, gradient
from covarium.training.optimiser import adamw
from covarium.training.settings import Settings


def batches(data, *cuts):
    return [data.batch(cut).to("cpu", torch.float64) for cut in cuts]


def test_equals_backward_of_the_mean():
    data, task = ToyData(7), toy_task()
    (batch,) = batches(data, range(7))
    terms = task(batch, None)
    loss = sum(task.weights[name] * total / count for name, (total, count) in terms.items())
    loss.backward()
    computed = gradient(task, [batch], torch.Generator(), Ranks())
    assert computed.losses["loss"] == pytest.approx(loss.item(), rel=1e-14)
    for p, value in zip(task.parameters(), computed.values, strict=True):
        torch.testing.assert_close(value, torch.zeros_like(p) if p.grad is None else p.grad, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("cuts", [([0, 1, 2], [3, 4, 5, 6]), ([0], [1], [2, 3, 4, 5, 6]), ([6], [0, 1, 2, 3, 4, 5])])
def test_accumulation_is_exact_for_unequal_batches(cuts):
    data, task = ToyData(7), toy_task()
    whole = gradient(task, batches(data, range(7)), torch.Generator(), Ranks())
    parts = gradient(task, batches(data, *cuts), torch.Generator(), Ranks())
    assert parts.losses == pytest.approx(whole.losses, rel=1e-13)
    for a, b in zip(whole.values, parts.values, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-14)


def test_a_term_without_weight_is_refused():
    task = toy_task()
    task.weights = {"energy": 1.0, "force": 1.0}
    with pytest.raises(CovariumError, match=r"'forces' that has no weight; did you mean 'force'"):
        gradient(task, batches(ToyData(3), range(3)), torch.Generator(), Ranks())


def test_a_rank_without_systems_takes_part():
    task = toy_task()
    computed = gradient(task, [], torch.Generator(), Ranks())
    assert computed.finite and computed.norm == 0


def test_bad_label_is_named():
    data, task = ToyData(6), toy_task()
    data.energy[4] = torch.tensor(float("nan"), dtype=torch.float64)
    rng = torch.Generator()
    before = rng.get_state()
    assert not gradient(task, batches(data, range(6)), rng, Ranks()).finite
    assert culprits(task, data, range(6), rng) == ["clusters.xyz, index 4"]
    assert torch.equal(rng.get_state(), before)


def test_bad_gradient_of_a_finite_loss_is_named():
    class Root(type(toy_task())):
        def forward(self, batch, rng):
            # the derivative of a root at zero is infinite
            energy, _ = self._errors(batch, rng)
            shift = (energy.detach() + batch.energy) * (batch.energy == 0)
            return {"energy": ((energy - shift).abs().sqrt().sum(), torch.tensor(1.0))}

    torch.manual_seed(3)
    data, task = ToyData(6), Root().double()
    data.energy[2] = torch.tensor(0.0, dtype=torch.float64)
    computed = gradient(task, batches(data, range(6)), torch.Generator(), Ranks())
    assert computed.losses["loss"] < float("inf") and not computed.finite
    assert culprits(task, data, range(6), torch.Generator()) == ["clusters.xyz, index 2"]


class OfModel(nn.Module):
    """A loss of energies and forces."""

    weights = {"loss": 1.0}

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch, rng):
        moved = replace(batch, positions=batch.positions.detach().requires_grad_())
        energy = self.model(moved, rng).energy
        (slope,) = torch.autograd.grad(energy.sum(), moved.positions, create_graph=True)
        return {"loss": (energy.square().sum() + slope.square().sum(), torch.tensor(1.0))}


@pytest.mark.parametrize("name", [name for name, (model, _) in MODELS.items() if model.system == "atoms"])
def test_a_step_of_the_optimiser_is_that_of_its_slow_form(name):
    """Whatever the strides are in which gradients come: the fused form does not look at them."""
    torch.manual_seed(0)
    rng, (model, config) = np.random.default_rng(0), MODELS[name]
    task = OfModel(model(replace(config(), num_layers=1)).double())
    batch = atom_graph(rng.choice([1, 8], 30), rng.uniform(0, 7, (30, 3)), task.model.spec)
    values = gradient(task, [batch], torch.Generator(), Ranks()).values
    twin = copy.deepcopy(task)
    ours = adamw(dict(task.named_parameters()), frozenset(), Settings(steps=1, lr=1e-2))
    plain = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.0, foreach=False, fused=False)
    for group in ours.param_groups:
        group["weight_decay"] = 0.0
    for p, q, value in zip(task.parameters(), twin.parameters(), values, strict=True):
        p.grad, q.grad = value, value.contiguous().clone()
    ours.step()
    plain.step()
    for p, q in zip(task.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-12)

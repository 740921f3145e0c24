"""The gradient of a step does not depend on how the step was cut, and spoilt systems are named."""

import pytest
import torch
from toy_task import ToyData, toy_task

from covarium.errors import CovariumError
from covarium.training import Ranks
from covarium.training.gradients import culprits, gradient


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

"""Local moves with exact weights: move by move equal to diagonalising, and the right distribution."""

import numpy as np
import pytest
import torch

from covarium.analysis.autocorrelation import estimate
from covarium.physics.double_exchange import DoubleExchange
from covarium.simulation import exact_chain
from covarium.simulation.exact_chain import ExactChains, tune
from covarium.systems.spin_field import SpinField


def diagonalising(model: DoubleExchange, chains: ExactChains, spins: torch.Tensor, rng: torch.Generator):
    """The same moves, decided by a diagonalisation each; the least distance of a decision from the border."""
    spins, closest = spins.clone(), np.inf
    weight = model.log_weight(model.spectrum(spins))
    for sites in chains.blocks:
        noise = torch.randn(len(sites), len(spins), 3, generator=rng, dtype=spins.dtype)
        threshold = torch.rand(len(sites), len(spins), generator=rng, dtype=spins.dtype).log()
        for k, site in enumerate(sites):
            moved = spins.clone()
            new = spins[:, site] + chains.step * noise[k]
            moved[:, site] = new / new.norm(dim=-1, keepdim=True)
            other = model.log_weight(model.spectrum(moved))
            closest = min(closest, float((threshold[k] - (other - weight)).abs().min()))
            take = threshold[k] < other - weight
            spins, weight = torch.where(take[:, None, None], moved, spins), torch.where(take, other, weight)
    return spins, closest


@pytest.mark.parametrize(
    "model",
    [DoubleExchange(4, 1, 1, 0, 20), DoubleExchange(3, 1, 4, -1.2, 10), DoubleExchange(2, 1, 2, 0.5, 60)],
    ids=["half filling", "odd, doped", "two by two"],
)
def test_every_decision_is_that_of_a_diagonalisation(model: DoubleExchange) -> None:
    spins = SpinField.random(5, model.size, torch.Generator().manual_seed(0)).spins
    chains = ExactChains(model, 0.8)
    expected, closest = diagonalising(model, chains, spins, torch.Generator().manual_seed(1))
    assert closest > 1e-7  # else the comparison would say nothing
    found = chains.run(spins, 1, torch.Generator().manual_seed(1))
    assert torch.equal(found.spins[-1], expected)
    assert 0.05 < found.acceptance < 0.95


@pytest.mark.parametrize(("beta", "told"), [(20.0, 5e-9), (120.0, 2e-8), (1e4, 1e-5)])
def test_ratios_are_as_exact_as_the_pages_say(beta: float, told: float) -> None:
    model, rng = DoubleExchange(4, beta=beta), torch.Generator().manual_seed(0)
    chains, spins = ExactChains(model, 0.8), SpinField.random(300, 4, rng).spins
    moved = spins.clone()
    moved[:, 5] = SpinField.random(300, 4, rng).spins[:, 5]
    before, after = model.spectrum(spins), model.spectrum(moved)
    z = chains.nodes[:, None]
    ratio = (torch.log((z - after[:, None]) / (z - before[:, None])).sum(-1) * chains.weights).sum(-1).imag
    error = float((ratio - (model.log_weight(after) - model.log_weight(before))).abs().max())
    assert error < told <= 1e-9 * beta * model.bound


def test_the_resolvent_stays_that_of_the_spins() -> None:
    model = DoubleExchange(4, 1, 1, 0, 20)
    chains, spins = ExactChains(model, 0.8), SpinField.random(3, 4, torch.Generator().manual_seed(0)).spins
    g, rng = chains.resolvent(spins), torch.Generator().manual_seed(1)
    for _ in range(20):
        for sites in chains.blocks:
            chains._block(g, spins, sites, rng)
    assert (g - chains.resolvent(spins)).abs().max() < 1e-12


def test_groups_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, spins = DoubleExchange(3), SpinField.random(4, 3, torch.Generator().manual_seed(0)).spins
    monkeypatch.setattr(exact_chain, "BLOCK", 9)
    whole = ExactChains(model, 0.5)
    g, moved = whole.resolvent(spins), spins.clone()
    whole._block(g, moved, list(range(9)), torch.Generator().manual_seed(3))
    assert torch.equal(whole.run(spins, 1, torch.Generator().manual_seed(3)).spins[0], moved)
    before = spins.clone()
    whole.run(spins, 2, torch.Generator())
    assert torch.equal(spins, before), "what was given stays as it was"


def test_distribution_is_that_of_the_weight() -> None:
    """Against independent spins that are weighted by W: no Markov chain in the reference."""
    model, rng = DoubleExchange(2, 1.0, 3.0, -0.6, 3.0), torch.Generator().manual_seed(0)
    free = SpinField.random(100_000, 2, rng).spins
    spectrum = model.spectrum(free)
    w = torch.softmax(model.log_weight(spectrum), 0)
    exact = {name: float((w * values).sum()) for name, values in model.observables(free, spectrum).items()}
    noise = {
        name: float((w.square() * (v - exact[name]).square()).sum().sqrt())
        for name, v in model.observables(free, spectrum).items()
    }
    spins, step = tune(model, SpinField.random(32, 2, rng).spins, 100, rng)
    seen = ExactChains(model, step).run(spins, 400, rng).spins
    flat = seen.flatten(0, 1)
    for name, values in model.observables(flat, model.spectrum(flat)).items():
        found = estimate(values.view(400, 32).T.numpy())
        assert abs(found.mean - exact[name]) < 4 * np.hypot(found.error, noise[name]), name
        assert np.hypot(found.error, noise[name]) < 0.04 * float(values.std())


def test_tuning_finds_half() -> None:
    model, rng = DoubleExchange(4, 1, 2, 0, 20), torch.Generator().manual_seed(0)
    spins, step = tune(model, SpinField.random(8, 4, rng).spins, 100, rng)
    assert 0.35 < ExactChains(model, step).run(spins, 10, rng).acceptance < 0.65

"""Self-learning Monte Carlo: reversible proposals, exact corrections, and the distribution of the exact weight."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from covarium.analysis.autocorrelation import estimate
from covarium.models.spin_transformer import Config, SpinTransformer
from covarium.physics.double_exchange import DoubleExchange
from covarium.simulation.self_learning import Corrected, HeatBath, Walkers, drawn
from covarium.systems.spin_field import SpinField
from covarium.tasks.effective_action import EffectiveAction


def langevin(x: float) -> float:
    return 1 / math.tanh(x) - 1 / x


def start(kernel, count: int, size: int, seed: int = 0) -> tuple[Walkers, torch.Generator]:
    rng = torch.Generator().manual_seed(seed)
    spins = SpinField.random(count, size, rng).spins
    return Walkers(spins, kernel.weight(spins)), rng


def couplings(size: int, strength: float) -> Tensor:
    """Of all ranges and both signs, different for every pair: nothing is symmetric by accident."""
    k = strength * torch.randn(size**2, size**2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (k + k.T).fill_diagonal_(0)


@pytest.mark.parametrize("chains", [1, 2, 7])
def test_the_start_is_left_as_it_is(chains: int) -> None:
    """What is refused stays where it was, so nobody may move it."""
    linear = HeatBath(couplings(2, 0.8), 1)
    walkers, rng = start(linear, chains, 2)
    before = walkers.spins.clone()
    frozen = Corrected(linear, lambda spins: torch.full((len(spins),), -math.inf, dtype=torch.float64))
    for kernel in (linear, Corrected(linear, linear.weight), frozen):
        kernel(walkers, rng)
        assert torch.equal(walkers.spins, before)


def test_one_chain_is_corrected() -> None:
    """Proposals from K = 0.8 in a single chain, corrected to K = 2.0."""
    k = torch.zeros(4, 4, dtype=torch.float64)
    k[0, 1] = k[1, 0] = 1.0
    target = HeatBath(2.0 * k, 1)
    kernel = Corrected(HeatBath(0.8 * k, 1), target.weight)
    walkers, rng = start(kernel, 1, 2)
    seen = []
    for _ in range(6000):
        walkers = kernel(walkers, rng)
        seen.append((walkers.spins[:, 0] * walkers.spins[:, 1]).sum(-1))
    found = estimate(torch.stack(seen[20:]).T.numpy())
    assert found.error < 0.01 < langevin(2.0) - langevin(0.8)  # so that the uncorrected one would be seen
    assert abs(found.mean - langevin(2.0)) < 4 * found.error


@pytest.mark.parametrize("strength", [1e-8, 0.3, 3.0, 80.0])
def test_drawn_spins_follow_their_field(strength: float) -> None:
    rng, count = torch.Generator().manual_seed(0), 200_000
    field = torch.tensor([0.36, -0.48, 0.8], dtype=torch.float64) * strength
    uniform = torch.rand(count, 1, generator=rng, dtype=torch.float64)
    spins = drawn(field.expand(count, 3), uniform, torch.randn(count, 3, generator=rng, dtype=torch.float64))
    assert (spins.norm(dim=-1) - 1).abs().max() < 1e-12
    along = spins @ field / strength
    mean = langevin(strength) if strength > 1e-3 else strength / 3
    assert abs(float(along.mean()) - mean) < 4 * float(along.std()) / count**0.5
    second = 1 - 2 * mean / strength if strength > 1e-3 else 1 / 3
    assert abs(float(along.square().mean()) - second) < 4 * float(along.square().std()) / count**0.5
    across = spins - along[:, None] * field / strength
    assert (across.mean(0).abs() < 5 * across.std(0) / count**0.5 + 1e-12).all()


def test_two_spins_in_closed_form() -> None:
    """⟨S₁·S₂⟩ = coth K − 1/K; the other two sites are free."""
    k = torch.zeros(4, 4, dtype=torch.float64)
    k[0, 1] = k[1, 0] = 1.7
    kernel = HeatBath(k, 1)
    walkers, rng = start(kernel, 2000, 2)
    seen = []
    for _ in range(40):
        walkers = kernel(walkers, rng)
        seen.append((walkers.spins[:, 0] * walkers.spins[:, 1]).sum(-1))
    found = estimate(torch.stack(seen[5:]).T.numpy())
    assert abs(found.mean - langevin(1.7)) < 4 * found.error < 0.01


def test_a_correction_turns_one_distribution_into_another() -> None:
    """Proposals from K = 0.8, corrected to K = 2.0, and through a third model in between."""

    def bond(strength: float) -> Tensor:
        k = torch.zeros(4, 4, dtype=torch.float64)
        k[0, 1] = k[1, 0] = strength
        return k

    middle = Corrected(HeatBath(bond(0.8), 1), HeatBath(bond(1.5), 1).weight, 2)
    for below in (HeatBath(bond(0.8), 1), middle):
        kernel = Corrected(below, HeatBath(bond(2.0), 1).weight)
        walkers, rng = start(kernel, 2000, 2)
        seen, accepted = [], []
        for _ in range(60):
            walkers, fraction = kernel.step(walkers, rng)
            accepted.append(fraction)
            seen.append((walkers.spins[:, 0] * walkers.spins[:, 1]).sum(-1))
        found = estimate(torch.stack(seen[10:]).T.numpy())
        assert abs(found.mean - langevin(2.0)) < 4 * found.error < 0.01
        assert 0.5 < np.mean(accepted) < 0.99
        assert (walkers.log_weight - kernel.weight(walkers.spins)).abs().max() < 1e-12


class OneWay(HeatBath):
    """The same updates over the sites in one direction only: it keeps the distribution and is not reversible."""

    def __call__(self, walkers: Walkers, rng: torch.Generator) -> Walkers:
        spins = walkers.spins.transpose(0, 1).contiguous()
        for site in range(len(spins)):
            uniform = torch.rand(spins.shape[1], 1, generator=rng, dtype=spins.dtype)
            normal = torch.randn(spins.shape[1], 3, generator=rng, dtype=spins.dtype)
            spins[site] = drawn(self._field(spins, site), uniform, normal)
        moved = spins.transpose(0, 1).contiguous()
        return Walkers(moved, self.weight(moved))


def asymmetry(kernel, prepare, steps: int) -> float:
    """Largest of ⟨f(S) g(S')⟩ − ⟨g(S) f(S')⟩ over pairs of functions, in standard errors; zero in detailed balance."""
    walkers, rng = start(prepare, 4000, 2)
    for _ in range(20):
        walkers = prepare(walkers, rng)
    walkers = Walkers(walkers.spins, kernel.weight(walkers.spins))

    def functions(spins: Tensor) -> Tensor:
        gram = spins @ spins.mT
        return torch.stack([gram[:, 0, 1], gram[:, 2, 3], gram[:, 0, 3], gram[:, 1, 2].square(), gram[:, 0, 2]])

    flux = []
    for _ in range(steps):
        before = functions(walkers.spins)
        walkers = kernel(walkers, rng)
        after = functions(walkers.spins)
        flux.append(before[:, None] * after[None] - after[:, None] * before[None])
    each = torch.stack(flux).mean(0)  # per chain: chains are independent, steps are not
    score = each.mean(-1) / (each.std(-1) / each.shape[-1] ** 0.5).clamp(min=1e-300)
    return float(score.triu(1).abs().max())


def test_detailed_balance_of_the_proposals() -> None:
    k = couplings(2, 0.8)
    linear = HeatBath(k, 1)
    assert asymmetry(linear, linear, 25) < 4
    assert asymmetry(OneWay(k, 1), linear, 25) > 8  # so the measure would notice


def test_detailed_balance_of_corrected_proposals() -> None:
    k, target = couplings(2, 0.5), HeatBath(couplings(2, 0.8), 1)
    kernel = Corrected(HeatBath(k, 1), target.weight, 2)
    assert asymmetry(kernel, target, 25) < 4


MODEL = DoubleExchange(4, 1.0, 1.0, 0.0, 5.0)


@pytest.fixture(scope="module")
def expected() -> dict[str, tuple[float, float]]:
    """Means and their errors from independent spins weighted by W: no Markov chain."""
    spins = SpinField.random(30_000, 4, torch.Generator().manual_seed(9)).spins
    spectrum = torch.cat([MODEL.spectrum(part) for part in spins.split(4096)])
    w = torch.softmax(MODEL.log_weight(spectrum), 0)
    means = {}
    for name, values in MODEL.observables(spins, spectrum).items():
        mean = float((w * values).sum())
        means[name] = mean, float((w.square() * (values - mean).square()).sum().sqrt())
    return means


def guessed(layers: int) -> EffectiveAction:
    """A bad model: on its own it would order the spins, which the exact weight does not at this temperature."""
    task = EffectiveAction(SpinTransformer(Config(4, layers)).double())
    with torch.no_grad():
        task.model.J[:2] = torch.tensor([-0.2, -0.1] if layers else [-0.3, -0.2])
        task.model.W += 0.02 * torch.randn(task.model.W.shape, generator=torch.Generator().manual_seed(1))
    return task


def off(below, expected: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Deviations of self-learning on 4 × 4 from what is expected, in standard errors, all of which are small."""
    kernel = Corrected(below, lambda spins: MODEL.log_weight(MODEL.spectrum(spins)))
    walkers, rng = start(kernel, 256, 4)
    seen: dict[str, list[Tensor]] = {}
    accepted = []
    for step in range(110):
        walkers, fraction = kernel.step(walkers, rng)
        if step >= 15:
            accepted.append(fraction)
            for name, values in MODEL.observables(walkers.spins, MODEL.spectrum(walkers.spins)).items():
                seen.setdefault(name, []).append(values)
    assert 0.3 < np.mean(accepted) < 0.9
    found = {}
    for name, (mean, error) in expected.items():
        series = torch.stack(seen[name])
        one = estimate(series.T.numpy())
        both = math.hypot(one.error, error) + 1e-12
        assert both < 0.04 * float(series.std()) + 2e-12, name
        found[name] = abs(one.mean - mean) / both
    return found


@pytest.mark.parametrize("layers", [0, 2])
def test_same_distribution_on_4_by_4(layers: int, expected: dict[str, tuple[float, float]]) -> None:
    """A model fitted by nothing but guesses proposes; the exact weight makes the distribution right all the same."""
    below = HeatBath(guessed(0).model.couplings().detach(), 1)
    if layers:
        below = Corrected(below, guessed(layers).log_weight, 2)
    assert max(off(below, expected).values()) < 4


class Misreported(HeatBath):
    """Says that its weight is a tenth weaker than it is."""

    def weight(self, spins: Tensor) -> Tensor:
        return 0.9 * super().weight(spins)


def test_a_tenth_of_the_correction_would_be_missed(expected: dict[str, tuple[float, float]]) -> None:
    """So the statistics of the test above are tight enough to fail."""
    assert max(off(Misreported(guessed(0).model.couplings().detach(), 1), expected).values()) > 5


def test_a_perfect_model_is_always_accepted() -> None:
    linear = HeatBath(couplings(2, 0.4), 1)
    kernel = Corrected(linear, lambda spins: linear.weight(spins) + 3.0)
    walkers, rng = start(kernel, 50, 2)
    walkers, fraction = kernel.step(walkers, rng)
    assert fraction == 1.0


def test_staying_is_no_success() -> None:
    linear = HeatBath(couplings(2, 0.4), 1)
    frozen = Corrected(linear, lambda spins: torch.full((len(spins),), -math.inf, dtype=torch.float64))
    walkers, rng = start(linear, 50, 2)
    moved, fraction = Corrected(frozen, linear.weight).step(walkers, rng)
    assert fraction == 0.0 and torch.equal(moved.spins, walkers.spins)

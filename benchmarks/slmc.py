"""Independent samples per CPU second: self-learning Monte Carlo beside local updates with the exact weight.

    python benchmarks/slmc.py [SIZE ...]

Local updates are the fair opponent: no diagonalisation per move (a contour of resolvents, delayed Woodbury updates), a
step tuned to half acceptance, many chains together. What they would cost with a diagonalisation per move stands beside.
Couplings of the linear model come from samples of the local updates, then once more from self-learning itself.
CPU time is that of the updates alone, in one thread; fits are a closed form. Order of 10 minutes on a quiet core; sizes
may also be run one by one, each with a record of its own.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from record import write_record

from covarium.analysis.autocorrelation import Estimate, estimate
from covarium.analysis.lattice_plots import difference
from covarium.data.spin_samples import SpinSamples
from covarium.models.spin_transformer import Config, SpinTransformer
from covarium.physics.double_exchange import DoubleExchange
from covarium.simulation.exact_chain import ExactChains, tune
from covarium.simulation.self_learning import Corrected, HeatBath, Walkers
from covarium.systems.spin_field import SpinField
from covarium.tasks.effective_action import EffectiveAction
from covarium.workflows.slmc_results import SLOW, Sampled

LOCAL_CHAINS, CHAINS = 32, 256
WARMUP, SWEEPS = 150, {4: 300, 6: 200, 8: 120}
STEPS = 40
HEAT_BATHS = (1, 3)  # sweeps of the linear model in one proposal


def measured(physics: DoubleExchange, spins: list[torch.Tensor]) -> dict[str, Estimate]:
    """Autocorrelation of [T] × [C, N, 3]."""
    seen = [physics.observables(one, physics.spectrum(one)) for one in spins]
    return {name: estimate(torch.stack([one[name] for one in seen]).T.numpy()) for name in SLOW}


def row(size: int, method: str, one: Sampled, plain: Sampled) -> dict[str, object]:
    """One line of the record; the gain is that over ``plain`` for the observable that profits least, the difference the
    largest of the means from its."""
    numbers: dict[str, object] = {
        "size": size, "method": method, "acceptance": one.accepted.mean, "cpu_ms": 1e3 * one.cpu_s,
    }  # fmt: skip
    for name in SLOW:
        found = one.estimates[name]
        numbers |= {f"tau_{name}": found.tau, f"tau_error_{name}": found.tau_error, f"per_s_{name}": one.rate(name)}
    gain, error = one.gain(plain) if one.estimates is not plain.estimates else (plain.cpu_s / one.cpu_s, 0.0)
    off = max(abs(difference(one.estimates[name], plain.estimates[name])) for name in SLOW)
    return numbers | {"least_gain": gain, "gain_error": error, "difference_in_errors": off}


def local(physics: DoubleExchange, rng: torch.Generator) -> tuple[torch.Tensor, Sampled, Sampled]:
    """Local updates: spins [T, C, N, 3], what they gave, and what they would with a diagonalisation per move."""
    size = physics.size
    spins, step = tune(physics, SpinField.random(LOCAL_CHAINS, size, rng).spins, WARMUP, rng)
    chains = ExactChains(physics, step)
    seen, accepted, cpu_s = [], [], 0.0
    for _ in range(SWEEPS[size] // 10):
        before = time.process_time()
        done = chains.run(spins, 10, rng)
        cpu_s += (time.process_time() - before) / (SWEEPS[size] * LOCAL_CHAINS)
        spins = done.spins[-1]
        seen.append(done.spins)
        accepted.append(done.acceptance)
    before = time.process_time()
    for _ in range(10):
        physics.spectrum(spins)
    slow_s = (time.process_time() - before) / (10 * LOCAL_CHAINS) * size**2
    trail = torch.cat(seen)
    fraction, estimates = estimate(np.array([accepted])), measured(physics, list(trail))
    return trail, Sampled(None, fraction, cpu_s, estimates), Sampled(None, fraction, slow_s, estimates)


def learning(
    physics: DoubleExchange, task: EffectiveAction, spins: torch.Tensor, heat_baths: int, rng: torch.Generator
) -> tuple[list[torch.Tensor], list[torch.Tensor], Sampled]:
    """Self-learning with the linear model: spins and log weights after each step, and what they gave."""
    below = HeatBath(task.model.couplings().detach(), heat_baths)
    kernel = Corrected(below, lambda s: physics.log_weight(physics.spectrum(s)))
    walkers = Walkers(spins, kernel.weight(spins))
    for _ in range(10):
        walkers, _ = kernel.step(walkers, rng)
    seen, weights, accepted = [], [], []
    before = time.process_time()
    for _ in range(STEPS):
        walkers, fraction = kernel.step(walkers, rng)
        seen.append(walkers.spins)
        weights.append(walkers.log_weight)
        accepted.append(fraction)
    cpu_s = (time.process_time() - before) / (STEPS * len(spins))
    return seen, weights, Sampled(0, estimate(np.array([accepted])), cpu_s, measured(physics, seen))


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for size in [int(word) for word in sys.argv[1:]] or list(SWEEPS):
        physics, rng = DoubleExchange(size, 1.0, 1.0, 0.0, 20.0), torch.Generator().manual_seed(0)
        trail, plain, slow = local(physics, rng)
        rows += [row(size, "local", plain, plain), row(size, "local, diagonalising", slow, plain)]
        task = EffectiveAction(SpinTransformer(Config(size, 0)).double())
        few = trail[::3].flatten(0, 1)
        task.refit(SpinSamples(SpinField(few, size), physics.log_weight(physics.spectrum(few))))
        start = trail[-1][torch.arange(CHAINS) % LOCAL_CHAINS]
        seen, weights, _ = learning(physics, task, start, 3, rng)
        task.refit(SpinSamples(SpinField(torch.cat(seen), size), torch.cat(weights)))
        for heat_baths in HEAT_BATHS:
            seen, _, found = learning(physics, task, seen[-1], heat_baths, rng)
            rows.append(row(size, f"self-learning, linear, {heat_baths} sweeps", found, plain))
    note = "t = 1, J = 1, half filling, beta = 20; tau in sweeps of local updates or steps of self-learning; one thread"
    write_record("-".join(["slmc", *sys.argv[1:]]), rows, note=note)


if __name__ == "__main__":
    main()

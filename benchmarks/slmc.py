"""Independent samples per CPU second: self-learning Monte Carlo beside local updates with the exact weight.

    python benchmarks/slmc.py [SIZE ...]

Local updates are the fair opponent: no diagonalisation per move (a contour of resolvents, delayed Woodbury updates), a
step tuned to half acceptance, many chains together. What they would cost with a diagonalisation per move stands beside.
Couplings of the linear model come from samples of the local updates, then once more from self-learning itself.
CPU time is that of the updates alone, in one thread; fits are a closed form. Order of 10 minutes on a quiet core.
"""

from __future__ import annotations

import sys
import time

import torch
from record import write_record

from covarium.analysis.autocorrelation import estimate
from covarium.data.spin_samples import SpinSamples
from covarium.models.spin_transformer import Config, SpinTransformer
from covarium.physics.double_exchange import DoubleExchange
from covarium.simulation.exact_chain import ExactChains, tune
from covarium.simulation.self_learning import Corrected, HeatBath, Walkers
from covarium.systems.spin_field import SpinField
from covarium.tasks.effective_action import EffectiveAction

LOCAL_CHAINS, CHAINS = 32, 256
WARMUP, SWEEPS = 150, {4: 300, 6: 200, 8: 120}
STEPS = 40
HEAT_BATHS = (1, 3)  # sweeps of the linear model in one proposal
SHOWN = ("staggered", "magnetisation", "energy", "neighbours")


def measured(physics: DoubleExchange, spins: list[torch.Tensor]) -> dict[str, object]:
    """Autocorrelation of [T] × [C, N, 3]."""
    seen = [physics.observables(one, physics.spectrum(one)) for one in spins]
    return {name: estimate(torch.stack([one[name] for one in seen]).T.numpy()) for name in SHOWN}


def row(size: int, method: str, acceptance: float, cpu_s: float, estimates: dict, plain: dict | None) -> dict:
    """One line of the record; gains are those over ``plain``."""
    rates = {name: 1 / (2 * estimates[name].tau * cpu_s) for name in SHOWN}
    numbers = {"size": size, "method": method, "acceptance": acceptance, "cpu_ms": 1e3 * cpu_s}
    for name in SHOWN:
        numbers |= {f"tau_{name}": estimates[name].tau, f"per_s_{name}": rates[name]}
    numbers["least_gain"] = 1.0 if plain is None else min(rates[n] / plain[f"per_s_{n}"] for n in SHOWN)
    return numbers


def local(physics: DoubleExchange, rng: torch.Generator) -> tuple[torch.Tensor, dict, dict]:
    """Local updates: spins [T, C, N, 3], the row, and the row with a diagonalisation per move."""
    size = physics.size
    spins, step = tune(physics, SpinField.random(LOCAL_CHAINS, size, rng).spins, WARMUP, rng)
    chains = ExactChains(physics, step)
    before = time.process_time()
    done = chains.run(spins, SWEEPS[size], rng)
    cpu_s = (time.process_time() - before) / (SWEEPS[size] * LOCAL_CHAINS)
    before = time.process_time()
    physics.spectrum(spins)
    slow_s = (time.process_time() - before) / LOCAL_CHAINS * size**2
    estimates = measured(physics, list(done.spins))
    plain = row(size, "local", done.acceptance, cpu_s, estimates, None)
    return done.spins, plain, row(size, "local, diagonalising", done.acceptance, slow_s, estimates, plain)


def learning(
    physics: DoubleExchange, task: EffectiveAction, spins: torch.Tensor, heat_baths: int, rng: torch.Generator
) -> tuple[list[torch.Tensor], list[torch.Tensor], float, float]:
    """Self-learning with the linear model: spins and log weights after each step, acceptance, CPU seconds of one."""
    below = HeatBath(task.model.couplings().detach(), heat_baths)
    kernel = Corrected(below, lambda s: physics.log_weight(physics.spectrum(s)))
    walkers = Walkers(spins, kernel.weight(spins))
    for _ in range(10):
        walkers, _ = kernel.step(walkers, rng)
    seen, weights, accepted = [], [], 0.0
    before = time.process_time()
    for _ in range(STEPS):
        walkers, fraction = kernel.step(walkers, rng)
        seen.append(walkers.spins)
        weights.append(walkers.log_weight)
        accepted += fraction / STEPS
    return seen, weights, accepted, (time.process_time() - before) / (STEPS * len(spins))


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for size in [int(word) for word in sys.argv[1:]] or [4, 6, 8]:
        physics, rng = DoubleExchange(size, 1.0, 1.0, 0.0, 20.0), torch.Generator().manual_seed(0)
        trail, plain, slow = local(physics, rng)
        rows += [plain, slow]
        task = EffectiveAction(SpinTransformer(Config(size, 0)).double())
        few = trail[::3].flatten(0, 1)
        task.refit(SpinSamples(SpinField(few, size), physics.log_weight(physics.spectrum(few))))
        start = trail[-1][torch.arange(CHAINS) % LOCAL_CHAINS]
        seen, weights, _, _ = learning(physics, task, start, 3, rng)
        task.refit(SpinSamples(SpinField(torch.cat(seen), size), torch.cat(weights)))
        for heat_baths in HEAT_BATHS:
            seen, _, accepted, cpu_s = learning(physics, task, seen[-1], heat_baths, rng)
            method = f"self-learning, linear, {heat_baths} sweeps"
            rows.append(row(size, method, accepted, cpu_s, measured(physics, seen), plain))
    note = "t = 1, J = 1, half filling, beta = 20; tau in sweeps of local updates or steps of self-learning; one thread"
    write_record("slmc", rows, note=note)


if __name__ == "__main__":
    main()

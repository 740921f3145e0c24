"""Markov chains that can be stopped at any moment and go on to the bit: exact local updates, and self-learning ones.

A run of chains is cut into segments; between them its state is spins, log weights and the random generator, and
everything measured so far stands in the same file, which is replaced at once or not at all.

Letters: C chains, N sites, T measurements so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from covarium.checkpoint import read_file, write_file
from covarium.errors import CovariumError
from covarium.physics.double_exchange import DoubleExchange
from covarium.simulation.exact_chain import ROUNDS, STEP, ExactChains, tune_once
from covarium.simulation.self_learning import Corrected, Walkers
from covarium.training.interrupt import Interrupt

KEY = "covarium_chains"
SAVE_S = 10.0  # seconds between saved states

Progress = Callable[[str, int, int, dict[str, float]], object]


class Stopped(Exception):
    """A signal asked the run to end; what was done is saved."""


@dataclass
class Chains:
    """What a run of chains has come to.

    Attributes:
        spins: [C, N, 3] now.
        log_weight: [C] exact, of these.
        series: name → [T, C] measurements; ``accepted`` [segments, 1], the fraction accepted in each.
        samples: [S, C, N, 3] configurations kept, and their log weights [S, C].
        done: segments, warm-up included.
        seconds: CPU time of the measured updates alone.
        step: width of local moves.
    """

    spins: Tensor
    log_weight: Tensor
    series: dict[str, list[Tensor]] = field(default_factory=dict)
    samples: list[Tensor] = field(default_factory=list)
    sample_weights: list[Tensor] = field(default_factory=list)
    done: int = 0
    seconds: float = 0.0
    step: float = 0.0

    def measured(self) -> dict[str, Tensor]:
        """name → [C, T]."""
        return {name: torch.cat(parts).T.contiguous() for name, parts in self.series.items()}

    def add(self, name: str, values: Tensor) -> None:
        self.series.setdefault(name, []).append(values)


Segment = Callable[[Chains, torch.Generator], dict[str, float]]


def run(
    path: Path, start: Callable[[torch.Generator], Chains], segment: Segment, segments: int, seed: int,
    show: Callable[[int, int, dict[str, float]], object],
) -> Chains:  # fmt: skip
    """Chains after ``segments`` segments, from where ``path`` has them.

    Args:
        path: state and measurements; written every few seconds and at the end.
        start: makes the first state.
        segment: advances the chains in place, and says what to show.
        segments: how many.
        seed: of the random numbers.
        show: called with (done, all, values) after each segment.

    Raises:
        Stopped: by a signal, after saving.
    """
    rng = torch.Generator().manual_seed(seed)
    chains = _read(path, rng) if path.exists() else start(rng)
    if chains.done >= segments:
        return chains
    saved = time.monotonic()
    with Interrupt() as interrupt:
        while chains.done < segments:
            values = segment(chains, rng)
            chains.done += 1
            show(chains.done, segments, values)
            if interrupt.signal or chains.done == segments or time.monotonic() - saved > SAVE_S:
                _write(path, chains, rng)
                saved = time.monotonic()
            if interrupt.signal:
                raise Stopped
    return chains


def local_segment(physics: DoubleExchange, warmup: int, sweeps: int, every: int) -> Segment:
    """Exact local updates: the first ``ROUNDS`` segments warm up; each of the others makes ``sweeps`` sweeps, measures
    after each one and keeps every ``every``-th configuration."""

    def segment(chains: Chains, rng: torch.Generator) -> dict[str, float]:
        if chains.done < ROUNDS:
            step = chains.step if chains.done else STEP
            # a copy, not a view of all sweeps: it is what a file gives back
            spins, chains.step = tune_once(physics, chains.spins, step, warmup, rng)
            chains.spins = spins.clone()
            return {"step": chains.step}
        before = time.process_time()
        moved = ExactChains(physics, chains.step).run(chains.spins, sweeps, rng)
        chains.seconds += time.process_time() - before
        _accepted(chains, moved.acceptance)
        chains.spins = moved.spins[-1].clone()
        for number, spins in enumerate(moved.spins, start=(chains.done - ROUNDS) * sweeps):
            _measure(chains, physics, spins)
            if number % every == 0:
                _keep(chains, spins)
        return {"accepted": moved.acceptance}

    return segment


def learning_segment(physics: DoubleExchange, kernel: Corrected, warmup: int, *, every: int = 0) -> Segment:
    """One step of self-learning Monte Carlo; the first ``warmup`` are not measured.

    Every ``every``-th of the others leaves a configuration; none does where it is 0.
    """

    def segment(chains: Chains, rng: torch.Generator) -> dict[str, float]:
        before = time.process_time()
        walkers, accepted = kernel.step(Walkers(chains.spins, chains.log_weight), rng)
        spent = time.process_time() - before
        chains.spins, chains.log_weight = walkers.spins, walkers.log_weight
        if chains.done >= warmup:
            chains.seconds += spent
            _accepted(chains, accepted)
            _measure(chains, physics, chains.spins)
            if every and (chains.done - warmup) % every == 0:
                _keep(chains, chains.spins)
        return {"accepted": accepted}

    return segment


def _measure(chains: Chains, physics: DoubleExchange, spins: Tensor) -> None:
    spectrum = physics.spectrum(spins)
    chains.log_weight = physics.log_weight(spectrum)
    chains.add("log_weight", chains.log_weight[None])
    for name, values in physics.observables(spins, spectrum).items():
        chains.add(name, values[None])


def _accepted(chains: Chains, fraction: float) -> None:
    chains.add("accepted", torch.tensor([[fraction]], dtype=torch.float64))


def _keep(chains: Chains, spins: Tensor) -> None:
    chains.samples.append(spins[None].clone())
    chains.sample_weights.append(chains.log_weight[None].clone())


def _write(path: Path, chains: Chains, rng: torch.Generator) -> None:
    tensors = {"spins": chains.spins, "log_weight": chains.log_weight, "rng": rng.get_state()}
    tensors |= {f"series.{name}": torch.cat(parts) for name, parts in chains.series.items()}
    if chains.samples:
        tensors |= {"samples": torch.cat(chains.samples), "sample_weights": torch.cat(chains.sample_weights)}
    header = {"format": 3, "done": chains.done, "seconds": chains.seconds, "step": chains.step}
    write_file(path, tensors, KEY, header)


def _read(path: Path, rng: torch.Generator) -> Chains:
    mapped, header = read_file(path, KEY)
    # a copy starts where torch puts new memory; the last bit of a vectorised sum depends on that
    tensors = {name: tensor.clone() for name, tensor in mapped.items()}
    if header.pop("format") != 3:
        raise CovariumError(f"{path} was written by another version of Covarium; start a new run")
    rng.set_state(tensors["rng"])
    prefix = "series."
    series = {name.removeprefix(prefix): [value] for name, value in tensors.items() if name.startswith(prefix)}
    samples, weights = ([tensors[name]] if name in tensors else [] for name in ("samples", "sample_weights"))
    return Chains(tensors["spins"], tensors["log_weight"], series, samples, weights, **header)

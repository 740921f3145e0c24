"""Self-learning Monte Carlo of the double-exchange model, from exact local updates to a report.

    plain/      local updates with the exact weight  → first linear fit
    collect/    self-learning with that linear model → samples, split into training, validation, test
    fit-l/      the linear model again (l = 0), then one more attention layer at a time, each from the one before
    measure-l/  self-learning with each of them: acceptance, observables, autocorrelation

Every stage leaves files that are complete or absent, and finds where it was when the run is resumed; apart from clocks
a resumed run is the uninterrupted one to the bit (same machine and threads).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from covarium import __version__, checkpoint
from covarium.analysis.autocorrelation import estimate
from covarium.config import read_yaml, to_yaml
from covarium.data.spin_samples import SpinSamples
from covarium.errors import CovariumError
from covarium.files import held, replace_text
from covarium.models.spin_transformer import SpinTransformer, deepened
from covarium.simulation.exact_chain import ROUNDS
from covarium.simulation.self_learning import Corrected, HeatBath, Kernel
from covarium.systems.spin_field import SpinField
from covarium.tasks.effective_action import EffectiveAction, independent_acceptance
from covarium.training import Event, train
from covarium.training.state import FILE as STATE
from covarium.workflows.device import use_threads
from covarium.workflows.loaded import FITTED
from covarium.workflows.slmc_chains import (
    Chains,
    Progress,
    Stopped,
    learning_segment,
    local_segment,
    run,
)
from covarium.workflows.slmc_config import SlmcConfig, configure
from covarium.workflows.slmc_report import write_report
from covarium.workflows.slmc_results import OBSERVABLES, Fitted, Sampled, SlmcOutcome
from covarium.workflows.training_run import CONFIG, refuse_unwritable

CHAINS = "chains.safetensors"
RESULTS = "results.json"
SWEEPS = 10  # local sweeps between saved states


def resumed_config(folder: Path) -> SlmcConfig:
    """The configuration that the run in ``folder`` was started with.

    Raises:
        CovariumError: the folder holds no run.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CovariumError(f"'{folder}' holds no run to resume: it has no {CONFIG}")
    return configure(None, read_yaml(path), ())


def slmc(config: SlmcConfig, out: Path, *, progress: Progress, resume: bool = False) -> SlmcOutcome:
    """Run all stages, write ``results.json`` and the report.

    Args:
        config: from ``configure``.
        out: folder, made if missing.
        progress: called with (stage, done, all, values).
        resume: go on with what ``out`` holds.

    Raises:
        CovariumError: the folder holds a run and ``resume`` is False, or another process works there.
    """
    refuse_unwritable(out)
    use_threads(config.threads)
    with held(out):
        if not resume:
            refuse_used(out)
        header = [f"Written by covarium {__version__}. The same run again: covarium slmc --config {CONFIG} --out DIR"]
        text = to_yaml(config, header)
        replace_text(out / CONFIG, text)
        try:
            outcome = Stages(config, out, progress).run()
        except Stopped:
            return SlmcOutcome(out, config)
        replace_text(out / RESULTS, json.dumps(outcome.to_json(), indent=1) + "\n")
        write_report(outcome, text)
        return outcome


def refuse_used(folder: Path) -> None:
    """
    Raises:
        CovariumError: the folder holds a run already.
    """
    if (folder / CONFIG).exists():
        raise CovariumError(
            f"'{folder}' already holds a run; continue it with `covarium slmc --resume {shlex.quote(str(folder))}`, or "
            "choose another --out"
        )


class Stages:
    """The stages of one run, in order."""

    def __init__(self, config: SlmcConfig, out: Path, progress: Progress) -> None:
        self.config, self.out, self.progress = config, out, progress
        self.physics = config.physics

    def run(self) -> SlmcOutcome:
        plain = self.plain()
        first = self.linear(self.samples_of(plain))
        train_set, valid, test = self.collect(plain, first)
        linear = self.linear(train_set)
        task, fits, tasks = linear, [], []
        for layers in range(self.config.model.layers + 1):
            task = self.fit(task, layers, train_set, valid) if layers else self.saved(task, 0)
            count = sum(p.numel() for p in task.model.parameters())
            accepted = independent_acceptance(task.deviations(test))
            fits.append(Fitted(layers, count, task.mse(train_set), task.mse(test), accepted))
            tasks.append(task)
        measured = [self.measure(task, linear, layers, test) for layers, task in enumerate(tasks)]
        local = self.summary(plain, None, self.plain_segments() - ROUNDS, self.config.plain.chains * SWEEPS)
        return SlmcOutcome(self.out, self.config, local, tuple(fits), tuple(measured))

    # -- chains

    def plain_segments(self) -> int:
        return ROUNDS - (-self.config.plain.sweeps // SWEEPS)

    def plain(self) -> Chains:
        plain = self.config.plain

        def start(rng: torch.Generator) -> Chains:
            spins = SpinField.random(plain.chains, self.physics.size, rng).spins
            return Chains(spins, torch.zeros(plain.chains, dtype=torch.float64))

        segment = local_segment(self.physics, plain.warmup, SWEEPS, plain.every)
        return self._chains("plain", start, segment, self.plain_segments(), 0)

    def collect(self, plain: Chains, task: EffectiveAction) -> tuple[SpinSamples, SpinSamples, SpinSamples]:
        """Samples by self-learning with the first linear model; the test part comes last."""
        sizes, proposal = self.config.samples, self.config.proposal
        total = sizes.train + sizes.valid + sizes.test
        steps = proposal.warmup - (-total // proposal.chains) * sizes.every
        segment = learning_segment(self.physics, self.kernel(task, task), proposal.warmup, every=sizes.every)
        chains = self._chains("collect", lambda _: self._spread(plain.spins), segment, steps, 1)
        samples = self.samples_of(chains)
        ends = (sizes.train, sizes.train + sizes.valid, len(samples))
        return samples.part(0, ends[0]), samples.part(ends[0], ends[1]), samples.part(ends[1], ends[2])

    def measure(self, task: EffectiveAction, linear: EffectiveAction, layers: int, test: SpinSamples) -> Sampled:
        proposal = self.config.proposal
        segment = learning_segment(self.physics, self.kernel(task, linear), proposal.warmup)
        steps = proposal.warmup + proposal.steps
        start = test.system.spins[-proposal.chains :]
        chains = self._chains(f"measure-{layers}", lambda _: self._spread(start), segment, steps, 2 + layers)
        return self.summary(chains, layers, proposal.steps, proposal.chains)

    def kernel(self, task: EffectiveAction, linear: EffectiveAction) -> Corrected:
        """Self-learning with ``task``; attention corrects proposals of the linear model."""
        below: Kernel = HeatBath(linear.model.couplings().detach(), self.config.proposal.sweeps)
        if task.model.config.num_layers:
            below = Corrected(below, task.log_weight, self.config.proposal.corrections)
        return Corrected(below, self._exact)

    def samples_of(self, chains: Chains) -> SpinSamples:
        """One chain after the other, so that parts of the samples are parts of the chains.

        They share no chain but the one that an end cuts through, whose samples on both sides of it are related.
        """
        spins, weights = torch.cat(chains.samples).transpose(0, 1), torch.cat(chains.sample_weights).T
        return SpinSamples(SpinField(spins.flatten(0, 1), self.physics.size), weights.flatten())

    def summary(self, chains: Chains, layers: int | None, segments: int, measurements: int) -> Sampled:
        """Means with errors; ``measurements`` are made in each of the measured ``segments``."""
        series = chains.measured()
        estimates = {name: estimate(series[name].numpy()) for name in OBSERVABLES if name in series}
        accepted = estimate(series["accepted"].numpy())
        return Sampled(layers, accepted, chains.seconds / (segments * measurements), estimates)

    def _exact(self, spins: Tensor) -> Tensor:
        return self.physics.log_weight(self.physics.spectrum(spins))

    def _spread(self, spins: Tensor) -> Chains:
        """As many chains as asked for, started from ``spins`` in turn; those started alike soon differ."""
        count = self.config.proposal.chains
        chosen = spins[torch.arange(count) % len(spins)].clone()
        return Chains(chosen, self._exact(chosen))

    def _chains(self, stage: str, start: Any, segment: Any, segments: int, number: int) -> Chains:  # noqa: ANN401
        folder = self.out / stage
        folder.mkdir(exist_ok=True)
        seed = self.config.seed + 1_000_003 * (number + 1)
        return run(
            folder / CHAINS, start, segment, segments, seed,
            lambda done, total, values: self.progress(stage, done, total, values),
        )  # fmt: skip

    # -- fits

    def linear(self, samples: SpinSamples) -> EffectiveAction:
        """The best linear model of the samples, in closed form."""
        model = SpinTransformer(self.config.effective(0)).double()
        task = EffectiveAction(model, physics=self.config.lattice.model_dump())
        task.refit(samples)
        return task

    def fit(self, start: EffectiveAction, layers: int, samples: SpinSamples, valid: SpinSamples) -> EffectiveAction:
        """One more layer; couplings are fitted anew to the effective spins before and after the training."""
        task = EffectiveAction(deepened(start.model), physics=start.physics)
        folder = self.out / f"fit-{layers}"
        if (folder / FITTED).exists():
            loaded: EffectiveAction = checkpoint.load(folder / FITTED).task
            return loaded
        task.refit(samples)
        settings = self.config.settings
        best = folder / "best.safetensors"

        def show(event: Event) -> None:
            values = {"MSE": event.losses.get("action", float("nan")), "best": event.best}
            self.progress(f"fit-{layers}", event.step, settings.steps or event.step, values)

        result = train(
            task, samples, valid, settings, folder, resume=(folder / STATE).exists(), progress=show,
            save_best=lambda trained, card: checkpoint.save(best, trained, _without_clock(card)),
        )  # fmt: skip
        if result.interrupted:
            raise Stopped
        found: EffectiveAction = checkpoint.load(best).task
        found.refit(samples)
        return self.saved(found, layers)

    def saved(self, task: EffectiveAction, layers: int) -> EffectiveAction:
        folder = self.out / f"fit-{layers}"
        folder.mkdir(exist_ok=True)
        checkpoint.save(folder / FITTED, task, {"covarium": __version__})
        return task


def _without_clock(card: Mapping[str, Any]) -> dict[str, Any]:
    # so that the same run gives the same file
    return {name: value for name, value in card.items() if name != "time"}

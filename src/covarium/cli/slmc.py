"""``covarium slmc``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import BadParameter, Option

from covarium.cli.options import Settings

if TYPE_CHECKING:
    from covarium.workflows.slmc_config import SlmcConfig
    from covarium.workflows.slmc_results import Sampled, SlmcOutcome


def slmc(
    out: Annotated[Path | None, Option(help="Folder of the run.")] = None,
    config: Annotated[Path | None, Option(help="YAML file, e.g. config.resolved.yaml of another run.")] = None,
    settings: Settings = None,
    resume: Annotated[Path | None, Option(metavar="RUN", help="Continue the run in this folder.")] = None,
    seed: Annotated[int | None, Option(min=0, help="Of spins, moves and fits. Default: 0.")] = None,
    threads: Annotated[int | None, Option("--threads", min=1, help="CPU threads. Default: 1.")] = None,
) -> None:
    """Self-learning Monte Carlo of electrons and spins on a lattice: sample, fit, propose, correct, compare.

    Ends with a report: acceptance against layers, observables beside exact local updates, and what a sample costs.
    """
    from covarium.cli.console import progressing, say
    from covarium.workflows.slmc import resumed_config
    from covarium.workflows.slmc import slmc as run
    from covarium.workflows.slmc_config import configure

    if (out is None) == (resume is None):
        raise BadParameter("give --out DIR for a new run, or --resume RUN to continue one")
    if resume is not None:
        if any((config, settings, seed is not None, threads)):
            raise BadParameter("--resume takes no other option: the run goes on as it was started")
        resolved, folder = resumed_config(resume), resume
    else:
        given: dict[str, Any] = {k: v for k, v in {"seed": seed, "threads": threads}.items() if v is not None}
        resolved, folder = configure(config, given, settings or []), out or Path()
    _show_plan(resolved, folder)
    with progressing() as progress:
        outcome = run(resolved, folder, progress=progress, resume=resume is not None)
    if outcome.interrupted:
        say(f"\nInterrupted; everything done is saved. Continue with:\n  {outcome.resume_command}")
        return
    _show_outcome(outcome)


def _show_plan(config: SlmcConfig, folder: Path) -> None:
    from covarium.cli.console import findings

    c, lattice = config, config.lattice
    findings("What is going to be done", [
        ("lattice", f"{lattice.size} × {lattice.size}, periodic", ""),
        ("model", f"t {lattice.hopping:g}, J {lattice.hund:g}, μ {lattice.chemical_potential:g}, "
                  f"β {lattice.inverse_temperature:g}", "double exchange"),
        ("plain", f"{c.plain.chains} chains, {c.plain.warmup} + {c.plain.sweeps} sweeps",
         "local updates, exact weight"),
        ("samples", f"{c.samples.train} training, {c.samples.valid} validation, {c.samples.test} test",
         "by self-learning with the linear model"),
        ("fits", f"0 … {c.model.layers} attention layers, {c.settings.steps} steps each", ""),
        ("self-learning", f"{c.proposal.chains} chains, {c.proposal.warmup} + {c.proposal.steps} steps",
         "for each depth"),
        ("folder", str(folder), ""),
    ])  # fmt: skip


def _show_outcome(outcome: SlmcOutcome) -> None:
    from covarium.cli.console import findings, say, table
    from covarium.workflows.slmc_report import facts, few_chains, name, too_short

    assert outcome.plain is not None
    plain = outcome.plain
    shown = plain.slow[0]
    rows = [("plain", "", "", *_numbers(plain, shown), "1")]
    for fit, s in zip(outcome.fits, outcome.measured, strict=True):
        gain = "{:.1f} ± {:.1f}".format(*s.gain(plain))
        rows.append((name(s), str(fit.parameters), f"{fit.test_mse:.4f}", *_numbers(s, shown), gain))
    table("Each depth", ("model", "parameters", "test MSE", "acceptance", "CPU ms", f"τ {shown}", "gain"), rows)
    findings("", [(key, value, "") for key, value in facts(outcome).items()])
    for line in (*few_chains(outcome), *too_short(outcome)):
        say(line)
    say(f"\nreport: {outcome.report}")


def _numbers(s: Sampled, observable: str) -> tuple[str, str, str]:
    return f"{s.accepted.mean:.3f}", f"{1e3 * s.cpu_s:.3f}", f"{s.estimates[observable].tau:.2f}"

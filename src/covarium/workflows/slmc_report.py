"""The report of a self-learning run: how well each depth proposes, whether the answers agree, what it costs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from covarium import __version__
from covarium.analysis import lattice_plots as plots
from covarium.analysis import report
from covarium.analysis.autocorrelation import Estimate
from covarium.analysis.errors import Table
from covarium.analysis.report import Section
from covarium.workflows.slmc_config import PlainSection
from covarium.workflows.slmc_results import Fitted, Sampled, SlmcOutcome
from covarium.workflows.training_run import CONFIG

ENOUGH = 10.0  # autocorrelation times; shorter chains bias times and errors by tenths


def write_report(outcome: SlmcOutcome, config: str) -> None:
    """Everything in one HTML file.

    Args:
        outcome: of a finished run.
        config: text of ``config.resolved.yaml``.
    """
    plain, fits, measured = outcome.plain, outcome.fits, outcome.measured
    assert plain is not None
    lattice = outcome.config.lattice
    sections = [
        Section("Summary", text=summary(outcome), facts=facts(outcome)),
        _acceptance(fits, measured),
        _scaling(fits),
        _observables(plain, measured),
        _efficiency(plain, measured),
        Section("Next", text=["The same run again, with another lattice:"], commands=[next_command(outcome)]),
        Section("Configuration", code=config, folded=True),
    ]  # fmt: skip
    title = f"Self-learning Monte Carlo: double exchange on {lattice.size} × {lattice.size}"
    where = (
        f"t = {lattice.hopping:g}, J = {lattice.hund:g}, μ = {lattice.chemical_potential:g}, "
        f"β = {lattice.inverse_temperature:g}; covarium {__version__}"
    )
    report.write(outcome.report, title, sections, subtitle=where)


def next_command(outcome: SlmcOutcome) -> str:
    """The same on a lattice two sites larger, from wherever it is typed."""
    config, size = shlex.quote(str((outcome.folder / CONFIG).absolute())), outcome.config.lattice.size + 2
    return f"covarium slmc --config {config} --set lattice.size={size} --out DIR"


def facts(outcome: SlmcOutcome) -> dict[str, str]:
    """The numbers to remember."""
    plain = outcome.plain
    assert plain is not None
    ends = outcome.measured[0], outcome.measured[-1]
    gain, error = best(outcome).gain(plain)
    return {
        **{f"acceptance, {name(s)}": f"{s.accepted.mean:.1%} ± {s.accepted.error:.1%}" for s in ends},
        "gain over local updates": f"({gain:.1f} ± {error:.1f}) ×",
        "largest difference": f"{worst(outcome):.1f} standard errors",
    }


def summary(outcome: SlmcOutcome) -> list[str]:
    plain = outcome.plain
    assert plain is not None
    comparisons = len(outcome.measured) * sum(e.fluctuates for e in plain.estimates.values())
    expected = math.sqrt(2 * math.log(max(comparisons, 2)))
    return [
        f"Most samples per CPU second: {name(best(outcome))}; the gain is that of the observable that profits least.",
        f"{comparisons} means were compared with plain Monte Carlo; the largest of so many differences is expected at "
        f"about {expected:.1f} standard errors.",
        *few_chains(outcome),
        *too_short(outcome),
    ]


def few_chains(outcome: SlmcOutcome) -> list[str]:
    """That the gain is over local updates which are dearer than they need be."""
    count, usual = outcome.config.plain.chains, PlainSection().chains
    if count >= usual:
        return []
    return [
        f"The gain is over {count} chain{'s' if count > 1 else ''} of local updates: each sweep of a chain costs more "
        f"CPU time than with {usual} chains together, and the gain looks larger than it would beside those; set "
        f"plain.chains to {usual} or more for one to be compared with others."
    ]


def too_short(outcome: SlmcOutcome) -> list[str]:
    """What to doubt: chains of so few autocorrelation times that neither times nor errors can be trusted."""
    plain = outcome.plain
    assert plain is not None
    lengths = [(plain, outcome.config.plain.sweeps, "plain.sweeps")]
    lengths += [(sampled, outcome.config.proposal.steps, "proposal.steps") for sampled in outcome.measured]
    found = []
    for sampled, length, key in lengths:
        slowest = max((sampled.estimates[key] for key in plain.slow), key=lambda one: one.tau)
        tau = slowest.tau
        if slowest.vague:
            found.append(
                f"Not to be trusted: so few measurements of {name(sampled)} tell autocorrelation times, and errors "
                f"with them, to within {slowest.tau_error / tau:.0%} only; raise {key} or {key.split('.')[0]}.chains."
            )
        elif length < ENOUGH * tau:
            found.append(
                f"Not to be trusted: chains of {name(sampled)} last {length / tau:.0f} autocorrelation times; "
                f"raise {key} to {ENOUGH * tau:.0f} or more, and the warm-up with it."
            )
    return found


def name(sampled: Sampled) -> str:
    """``plain``, ``linear``, ``2 layers``."""
    if sampled.layers is None:
        return "plain"
    return "linear" if sampled.layers == 0 else f"{sampled.layers} layer{'s' if sampled.layers > 1 else ''}"


def best(outcome: SlmcOutcome) -> Sampled:
    """The self-learning that gains most."""
    plain = outcome.plain
    assert plain is not None
    return max(outcome.measured, key=lambda sampled: sampled.gain(plain))


def worst(outcome: SlmcOutcome) -> float:
    """Largest difference of a mean from plain Monte Carlo, in standard errors."""
    plain = outcome.plain
    assert plain is not None
    return max(abs(plots.difference(s.estimates[key], plain.estimates[key])) for s in outcome.measured for key in
               plain.estimates)  # fmt: skip


def _acceptance(fits: Sequence[Fitted], measured: Sequence[Sampled]) -> Section:
    rows = tuple(
        (name(s), str(f.parameters), f"{f.train_mse:.4f}", f"{f.test_mse:.4f}", _with_error(s.accepted),
         f"{f.independent:.3f}", f"{math.exp(-math.sqrt(f.test_mse)):.3f}")
        for f, s in zip(fits, measured, strict=True)
    )  # fmt: skip
    header = ("model", "parameters", "MSE, training", "MSE, test", "acceptance", "independent", "exp(−√MSE)")
    figure = plots.acceptance([f.layers for f in fits], [s.accepted for s in measured], [f.test_mse for f in fits])
    text = [
        "Fraction of proposals that the exact weight accepts. Independent: the fraction that the errors on test "
        "samples give for proposals that remember nothing of their start.",
    ]
    caption = "Fraction of proposals that the exact weight accepts, and the estimate from the error of the fit."
    return Section(
        "Acceptance against layers", text=text, tables=[Table("", header, rows)], figures=[(figure, caption)]
    )


def _scaling(fits: Sequence[Fitted]) -> Section:
    used = [fit.layers >= 2 for fit in fits]
    chosen = [fit for fit in fits if fit.layers >= 2]
    law = plots.power_law([f.parameters for f in chosen], [f.test_mse for f in chosen]) if len(chosen) > 1 else None
    figure = plots.scaling([f.parameters for f in fits], [f.test_mse for f in fits], used, law)
    text = "Error on test samples; the linear model and one layer are left out of the power law, as published."
    found = {} if law is None else {"exponent": f"{law.exponent:.2f} ± {law.exponent_error:.2f}"}
    return Section("Error against parameters", facts=found, figures=[(figure, text)])


def _observables(plain: Sampled, measured: Sequence[Sampled]) -> Section:
    all_of_them = [plain, *measured]
    rows = tuple((name(s), *(_with_error(s.estimates[key]) for key in plain.estimates)) for s in all_of_them)
    header = ("method", *plain.estimates)
    figure = plots.observables(plain.estimates, [(name(s), s.estimates) for s in measured])
    text = "Self-learning minus plain Monte Carlo with local exact updates; grey: two standard errors."
    return Section("Observables", tables=[Table("Means ± standard errors", header, rows)], figures=[(figure, text)])


def _efficiency(plain: Sampled, measured: Sequence[Sampled]) -> Section:
    all_of_them = [plain, *measured]
    times = tuple(
        (name(s), f"{1e3 * s.cpu_s:.3f}", *(_tau(s.estimates[key]) for key in plain.slow)) for s in all_of_them
    )
    rates = tuple(
        (
            name(s),
            *(f"{s.rate(key):,.1f}" for key in plain.slow),
            "1" if s is plain else "{:.1f} ± {:.1f}".format(*s.gain(plain)),
        )
        for s in all_of_them
    )
    tables = [
        Table("Autocorrelation times τ", ("method", "CPU ms", *plain.slow), times),
        Table("Independent samples per CPU second", ("method", *plain.slow, "gain"), rates),
    ]
    figure = plots.efficiency([name(s) for s in all_of_them], {k: [s.rate(k) for s in all_of_them] for k in plain.slow})
    text = [
        "One measurement is a sweep of local updates, or one step of self-learning, of one chain. τ is the integrated "
        "autocorrelation time in measurements, ½ when they are independent. The gain is that of the observable that "
        "profits least; its error is that of both times.",
    ]
    caption = "Independent samples per CPU second, 1/(2τ · CPU seconds); both methods with many chains in one process."
    return Section("Efficiency", text=text, tables=tables, figures=[(figure, caption)])


def _tau(one: Estimate) -> str:
    return f"{one.tau:.2f} ± {one.tau_error:.2f}"


def _with_error(one: Estimate) -> str:
    """The error with two digits, and as many of the mean as it leaves."""
    if not one.fluctuates:
        return f"{one.mean:.6g}"
    digits = max(0, 1 - math.floor(math.log10(one.error)))
    return f"{one.mean:.{digits}f} ± {one.error:.{digits}f}"

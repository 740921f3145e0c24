"""Pictures of self-learning Monte Carlo: acceptance, scaling, observables, efficiency. See ``analysis.plots``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from covarium.analysis.autocorrelation import Estimate
from covarium.analysis.plots import BLUE, GREEN, GREY, ORANGE, PINK, STYLE
from covarium.errors import CovariumError


@dataclass(frozen=True)
class PowerLaw:
    """y = prefactor · x^(−exponent) through points, by least squares of the logarithms."""

    prefactor: float
    exponent: float
    exponent_error: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.prefactor * x**-self.exponent


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit; the error of the exponent follows from the scatter of the points, and is 0 for two.

    Raises:
        CovariumError: fewer than two points.
    """
    if len(x) < 2:
        raise CovariumError(f"a power law needs at least two points, got {len(x)}")
    u, v = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    centred = u - u.mean()
    slope = float(centred @ v / (centred @ centred))
    rest = v - v.mean() - slope * centred
    freedom = len(u) - 2
    error = math.sqrt(float(rest @ rest) / freedom / float(centred @ centred)) if freedom else 0.0
    return PowerLaw(math.exp(float(v.mean()) - slope * float(u.mean())), -slope, error)


@mpl.rc_context(STYLE)
def acceptance(layers: Sequence[int], measured: Sequence[Estimate], mse: Sequence[float]) -> Figure:
    """Acceptance of self-learning against the number of layers, and exp(−√MSE)."""
    figure, ax = _figure("acceptance", 5.6, 3.4)
    means, errors = [one.mean for one in measured], [one.error for one in measured]
    ax.errorbar(layers, means, errors, fmt="o-", color=BLUE, capsize=2, label="measured")
    ax.plot(layers, np.exp(-np.sqrt(mse)), "s--", color=ORANGE, markersize=4, label="exp(−√MSE)")
    ax.set(xlabel="attention layers (0: linear model)", ylabel="acceptance", ylim=(0, 1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower right")
    return figure


@mpl.rc_context(STYLE)
def scaling(parameters: Sequence[int], mse: Sequence[float], fitted: Sequence[bool], law: PowerLaw | None) -> Figure:
    """Test error against the number of parameters; points that the power law does not use are hollow."""
    figure, ax = _figure("scaling", 5.6, 3.4)
    x, y, used = np.asarray(parameters, dtype=float), np.asarray(mse), np.asarray(fitted)
    ax.plot(x[used], y[used], "o", color=BLUE, label="two layers and more")
    ax.plot(x[~used], y[~used], "o", markerfacecolor="none", color=GREY, label="linear and one layer")
    if law is not None:
        line = np.geomspace(x[used].min(), x[used].max(), 20)
        label = f"∝ parameters^(−{law.exponent:.2f} ± {law.exponent_error:.2f})"
        ax.plot(line, law(line), color=ORANGE, linestyle="--", label=label)
    ax.set(xscale="log", yscale="log", xlabel="parameters", ylabel="mean squared error of log W")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(ScalarFormatter())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.set_xticks(x, [f"{value:g}" for value in x])
    ax.legend()
    return figure


@mpl.rc_context(STYLE)
def observables(plain: Mapping[str, Estimate], learnt: Sequence[tuple[str, Mapping[str, Estimate]]]) -> Figure:
    """Self-learning minus plain Monte Carlo, in units of the error of the difference."""
    names = [name for name in plain if plain[name].fluctuates]
    figure, ax = _figure("observables", 6.4, 0.7 + 0.5 * len(names))
    ax.axvspan(-2, 2, color=GREY, alpha=0.18, linewidth=0)
    ax.axvline(0, color=GREY, linewidth=1)
    for number, (label, estimates) in enumerate(learnt):
        off = [difference(estimates[name], plain[name]) for name in names]
        rows = np.arange(len(names)) + 0.12 * (number - (len(learnt) - 1) / 2)
        colour, marker = (BLUE, ORANGE, GREEN, PINK, GREY)[number % 5], "o^sDvPX"[number % 7]
        ax.plot(off, rows, marker, color=colour, markersize=4.5, label=label)
    ax.set_yticks(range(len(names)), names)
    limit = max(3.5, *(abs(difference(e[name], plain[name])) + 0.5 for _, e in learnt for name in names))
    ax.set(xlim=(-limit, limit), ylim=(len(names) - 0.5, -0.5), xlabel="difference / its standard error")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@mpl.rc_context(STYLE)
def efficiency(labels: Sequence[str], rates: Mapping[str, Sequence[float]]) -> Figure:
    """Independent samples per CPU second of each method, an observable each."""
    figure, ax = _figure("efficiency", 6.4, 3.4)
    width = 0.8 / len(rates)
    for number, (name, values) in enumerate(rates.items()):
        x = np.arange(len(labels)) + width * (number - (len(rates) - 1) / 2)
        ax.bar(x, values, 0.92 * width, color=(BLUE, ORANGE, GREEN, PINK)[number % 4], label=name)
    ax.set_xticks(range(len(labels)), labels)
    ax.set(yscale="log", ylabel="independent samples per CPU second")
    ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def difference(one: Estimate, other: Estimate) -> float:
    """In units of its standard error; 0 where nothing fluctuates and the means agree to rounding."""
    if not one.fluctuates and not other.fluctuates and math.isclose(one.mean, other.mean, rel_tol=1e-10):
        return 0.0
    return (one.mean - other.mean) / math.hypot(one.error, other.error)


def _figure(label: str, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", label=label)
    FigureCanvasAgg(figure)
    return figure, figure.subplots()

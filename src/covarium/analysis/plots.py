"""Pictures of errors, training, dynamics and relaxation, for reports and papers.

Every function returns a matplotlib Figure made without pyplot, so nothing global changes; ``render`` makes it bytes.
Colours are told apart by colour-blind readers (M. Okabe and K. Ito, 2008; viridis), and hold on white and on black.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from ase.data import atomic_numbers
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from covarium.analysis.errors import Evaluation
from covarium.analysis.totals import Total
from covarium.errors import CovariumError

INK = "#24292f"  # of all text and lines; reports replace it by the colour of their own text
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
GREY = "#8c959f"
# the darkest part of viridis vanishes on black
DENSITY = LinearSegmentedColormap.from_list("density", mpl.colormaps["viridis"](np.linspace(0.22, 0.95, 64)))
MAX_POINTS = 40_000
TOKEN_METRICS = ("valid_positions", "valid_vectors", "valid_scalars")
STYLE: dict[Any, Any] = {  # matplotlib's own type lists every parameter there is
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "path",
}


def render(figure: Figure, kind: Literal["svg", "png"] = "svg", *, dpi: int = 160, transparent: bool = False) -> bytes:
    """The picture as a file's bytes; the same figure gives the same bytes.

    Args:
        figure: from any function of this module.
        kind: ``svg`` or ``png``.
        dpi: pixels per inch of a png, and of the point clouds inside an svg.
        transparent: no white background.
    """
    buffer = io.BytesIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": figure.get_label()}):
        metadata: dict[str, str | None] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=dpi, transparent=transparent, metadata=metadata)
    return buffer.getvalue()


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Columns of a csv file with a header as float64; cells that are empty or not numbers become NaN.

    Raises:
        CovariumError: the file is missing or has no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise CovariumError(f"cannot read {path}: {error.strerror}") from error
    if not rows:
        raise CovariumError(f"{path} has no rows to plot")
    return {name: np.array([_float(row[name]) for row in rows]) for name in rows[0] if name is not None}


def _float(cell: str | None) -> float:
    try:
        return float(cell) if cell else float("nan")
    except ValueError:
        return float("nan")


@mpl.rc_context(STYLE)
def parity(evaluation: Evaluation) -> Figure:
    """Predicted against labelled energy per atom and force components, coloured by the density of points."""
    # without the references, which hide everything else in the fifth digit
    predicted, labels = evaluation.energies_per_atom()
    force, force_labels = evaluation.forces()
    errors = evaluation.errors()
    panels = [name for name, data in (("energy", labels), ("forces", force_labels)) if len(data)]
    if not panels:
        raise CovariumError("a parity plot needs energy or force labels, and the frames have neither")
    figure, axes = new_figure(f"parity {panels}", 4.1 * len(panels), 4.0, 1, len(panels))
    for ax, name in zip(axes, panels, strict=True):
        if name == "energy":
            factor, unit = (1.0, "eV/atom") if np.abs(labels).max() > 1 else (1e3, "meV/atom")
            _parity(ax, factor * labels, factor * predicted, unit, _times(factor, errors["energy_per_atom"]))
            ax.set(title="Energy per atom − element references")
            ax.set(xlabel=f"label ({unit})", ylabel=f"prediction ({unit})")
        else:
            _parity(ax, force_labels.ravel(), force.ravel(), "eV/Å", errors["forces"])
            ax.set(title="Force components", xlabel="label (eV/Å)", ylabel="prediction (eV/Å)")
    return figure


@mpl.rc_context(STYLE)
def property_parity(
    labels: np.ndarray, predicted: np.ndarray, name: str, unit: str, errors: Mapping[str, Any]
) -> Figure:
    """Predicted against labelled values of a property, or components of it; mae and rmse are told as given."""
    figure, (ax,) = new_figure(f"property {name}", 4.1, 4.0, 1, 1)
    _parity(ax, labels.ravel(), predicted.ravel(), unit, errors)
    of = f" ({unit})" if unit else ""
    ax.set(title=name, xlabel=f"label{of}", ylabel=f"prediction{of}")
    return figure


@mpl.rc_context(STYLE)
def answers(targets: np.ndarray, predicted: np.ndarray, what: str) -> Figure:
    """Predicted [n] against target [n] of anything, coloured by the density of points."""
    figure, (ax,) = new_figure(f"answers {what}", 4.1, 4.0, 1, 1)
    total = Total()
    total.add(predicted - targets)
    _parity(ax, targets, predicted, "", total.errors())
    ax.set(title=what, xlabel="target", ylabel="answer")
    return figure


@mpl.rc_context(STYLE)
def parity_per_element(evaluation: Evaluation) -> Figure:
    """Predicted against labelled force components, a panel for each element."""
    elements = evaluation.per_element()
    if not elements:
        raise CovariumError("force parity per element needs force labels, and the frames have none")
    columns = min(3, len(elements))
    lines = -(-len(elements) // columns)
    figure, axes = new_figure(f"elements {list(elements)}", 2.95 * columns, 2.95 * lines, lines, columns)
    for ax, (symbol, found) in zip(axes, elements.items(), strict=False):
        predicted, labels = evaluation.forces(atomic_numbers[symbol])
        _parity(ax, labels.ravel(), predicted.ravel(), "eV/Å", found["forces"], compact=True)
        ax.set_title(f"{symbol} ({found['atoms']:,} atoms)")
    for ax in axes[len(elements) :]:
        ax.set_axis_off()
    figure.supxlabel("force label (eV/Å)", fontsize=10, color=INK)
    figure.supylabel("force prediction (eV/Å)", fontsize=10, color=INK)
    return figure


@mpl.rc_context(STYLE)
def force_error_against_magnitude(evaluation: Evaluation) -> Figure:
    """Length of the force error of each atom against the length of its labelled force, with median and quartiles."""
    predicted, labels = evaluation.forces()
    size, error = np.linalg.norm(labels, axis=1), np.linalg.norm(predicted - labels, axis=1)
    keep = (size > 0) & (error > 0)
    if not keep.any():
        raise CovariumError("no atom has both a labelled force and a force error")
    size, error = size[keep], error[keep] * 1e3
    figure, (ax,) = new_figure("force error", 5.6, 3.9, 1, 1)
    _cloud(ax, np.log10(size), np.log10(error), size, error)
    ax.set(xlabel="labelled force on the atom (eV/Å)", ylabel="length of the force error (meV/Å)")
    _logarithmic(ax, "x", size)
    _logarithmic(ax, "y", error)
    order = np.argsort(size)
    bins = [part for part in np.array_split(order, min(12, max(1, len(order) // 10))) if len(part)]
    middle = [np.median(size[part]) for part in bins]
    low, median, high = np.array([np.percentile(error[part], (25, 50, 75)) for part in bins]).T
    ax.plot(middle, median, color=ORANGE, marker="o", markersize=3.5, zorder=3, label="median")
    for values, label in ((low, "quartiles"), (high, None)):
        ax.plot(middle, values, color=ORANGE, linestyle="--", linewidth=1.3, zorder=3, label=label)
    ax.legend(loc="upper left")
    return figure


@mpl.rc_context(STYLE)
def learning_curves(log: Mapping[str, np.ndarray]) -> Figure:
    """Loss and validation errors over the optimiser steps of a run, in panels of one unit each.

    Args:
        log: columns of ``log.csv``: ``step``, ``loss`` and any validation metrics in eV and Å.

    Raises:
        CovariumError: there is nothing to plot.
    """
    wanted = (
        ("Loss", "loss", 1.0, lambda n: n == "loss" or n.startswith("loss_")),
        ("Energy, validation", "meV/atom", 1e3, lambda n: "energy" in n and "per_atom" in n and "mae" in n),
        ("Forces, validation", "meV/Å", 1e3, lambda n: "forces" in n and "mae" in n),
        ("Stress, validation", "meV/Å³", 1e3, lambda n: "stress" in n and "mae" in n),
        ("Property, validation", "unit of the labels", 1.0, lambda n: "property" in n and "mae" in n),
        ("Tokens, validation", "MSE", 1.0, lambda n: n.startswith(TOKEN_METRICS) and n.endswith("_mse")),
    )
    panels = [(title, unit, f, [n for n in log if rule(n) and _seen(log[n])]) for title, unit, f, rule in wanted]
    panels = [panel for panel in panels if panel[3]]
    if not panels or "step" not in log:
        raise CovariumError(f"no learning curve in columns {', '.join(log) or 'none'}; expected step, loss and metrics")
    figure, axes = new_figure("learning", 3.5 * len(panels), 3.3, 1, len(panels))
    for ax, (title, unit, factor, names) in zip(axes, panels, strict=True):
        for name, colour in zip(names, (BLUE, ORANGE, GREEN, PINK), strict=False):
            keep = np.isfinite(log[name])
            marker = "o" if keep.sum() < 40 else ""
            ax.plot(log["step"][keep], factor * log[name][keep], color=colour, marker=marker, markersize=3, label=name)
        values = factor * np.concatenate([log[name] for name in names])
        values = values[np.isfinite(values)]
        _logarithmic(ax, "y", values)
        best = float(values.min())
        ax.set(title=title, xlabel="step", ylabel=unit if unit in ("loss", "MSE") else f"MAE ({unit})")
        if unit != "loss":
            ax.axhline(best, color=GREY, linestyle=":", linewidth=1)
            ax.text(0.98, 0.95, f"best {best:.3g} {unit}", ha="right", va="top", transform=ax.transAxes)
        elif len(names) > 1:
            ax.legend()
    return figure


@mpl.rc_context(STYLE)
def energy_drift(time: np.ndarray, energy: np.ndarray, atoms: int) -> Figure:
    """Change of the total energy in a run at constant energy: with its drift, and its size on a logarithmic axis.

    Args:
        time: [T] fs.
        energy: [T] total energy, eV.
        atoms: number of atoms.

    Raises:
        CovariumError: fewer than three moments, or values that are not finite.
    """
    if len(time) < 3 or len(time) != len(energy):
        raise CovariumError(f"a drift needs three or more times with an energy each, got {len(time)} and {len(energy)}")
    if not (np.isfinite(time).all() and np.isfinite(energy).all()):
        raise CovariumError("times or energies of the run are not finite; the simulation failed before its end")
    t, change = (time - time[0]) / 1e3, (energy - energy[0]) * 1e3 / atoms
    slope, start = np.polyfit(t, change, 1)
    figure, (top, bottom) = new_figure("drift", 6.4, 4.6, 2, 1, sharex=True)
    many = len(t) > 5000
    top.plot(t, change, color=BLUE, linewidth=0.9, label="total energy", rasterized=many)
    label = f"drift {slope:+.3g} meV/atom/ps"
    top.plot(t[[0, -1]], start + slope * t[[0, -1]], color=ORANGE, linestyle="--", linewidth=1.6, label=label)
    top.set_ylabel("E − E₀ (meV/atom)")
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    size = np.abs(change)
    bottom.plot(t[size > 0], size[size > 0], color=BLUE, linewidth=0.7, rasterized=many)
    _logarithmic(bottom, "y", size[size > 0])
    bottom.set(xlabel="time (ps)", ylabel="|E − E₀| (meV/atom)")
    return figure


@mpl.rc_context(STYLE)
def dynamics(rows: Mapping[str, np.ndarray]) -> Figure:
    """Potential and total energy, temperature and, where it was logged, volume along a simulation.

    Args:
        rows: columns of its log by name, two rows or more.
    """
    panels = [(("potential_ev", "total_ev"), "energy − first (eV)"), (("temperature_k",), "temperature (K)")]
    if np.ptp(rows.get("volume_a3", np.zeros(1))) > 0:
        panels.append((("volume_a3",), "volume (Å³)"))
    figure, axes = new_figure("dynamics", 6.4, 1.9 * len(panels) + 0.6, len(panels), 1, sharex=True)
    time = rows["time_fs"] / 1e3
    for ax, (names, label) in zip(axes, panels, strict=True):
        for name, colour in zip(names, (BLUE, ORANGE), strict=False):
            values = rows[name] - (rows[name][0] if name.endswith("_ev") else 0.0)
            kind = name.removesuffix("_ev") if len(names) > 1 else None
            ax.plot(time, values, color=colour, linewidth=0.9, label=kind, rasterized=len(time) > 5000)
        ax.set_ylabel(label)
        if len(names) > 1:
            ax.legend(ncols=2)
    axes[-1].set_xlabel("time (ps)")
    return figure


@mpl.rc_context(STYLE)
def relaxation(energy: np.ndarray, fmax: np.ndarray, target: float | None = None) -> Figure:
    """Energy above the last one (eV) and largest force (eV/Å) at each step of a relaxation.

    Args:
        energy: [T] eV.
        fmax: [T] eV/Å.
        target: where the relaxation was to stop, eV/Å.
    """
    figure, (top, bottom) = new_figure("relaxation", 6.4, 4.2, 2, 1, sharex=True)
    steps = np.arange(len(energy))
    marker = "o" if len(steps) < 60 else ""
    top.plot(steps, energy - energy[-1], color=BLUE, marker=marker, markersize=3)
    top.set_ylabel("E − E(last) (eV)")
    bottom.plot(steps, fmax, color=GREEN, marker=marker, markersize=3, label="largest force")
    if target is not None:
        bottom.axhline(target, color=ORANGE, linestyle="--", linewidth=1.2, label=f"target {target:g} eV/Å")
        bottom.legend()
    bottom.set(xlabel="step", ylabel="force (eV/Å)")
    _logarithmic(bottom, "y", fmax)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def scaling(atoms: np.ndarray, seconds: np.ndarray, memory: np.ndarray) -> Figure:
    """Seconds of a step and bytes of memory over the number of atoms, each beside the straight proportion."""
    figure, (left, right) = new_figure("scaling", 9.0, 3.6, 1, 2)
    for ax, values, name in ((left, 1e3 * seconds, "ms / step"), (right, memory / 2**20, "memory (MiB)")):
        ax.plot(atoms, values, color=BLUE, marker="o", markersize=4)
        ax.plot(atoms, values[-1] * atoms / atoms[-1], color=GREY, linestyle="--", linewidth=1)
        ax.set(xlabel="atoms", ylabel=name)
        _logarithmic(ax, "x", atoms)
        _logarithmic(ax, "y", values)
    return figure


def new_figure(
    label: str, width: float, height: float, rows: int, columns: int, *, sharex: bool = False
) -> tuple[Figure, Sequence[Axes]]:
    """A figure outside pyplot, with its axes row by row; ``label`` tells it from others in one page."""
    figure = Figure(figsize=(width, height), layout="constrained", label=label)
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharex=sharex).ravel())


def _times(factor: float, errors: Mapping[str, float]) -> dict[str, float]:
    return {name: factor * value for name, value in errors.items()}


def _parity(
    ax: Axes, labels: np.ndarray, predicted: np.ndarray, unit: str, errors: Mapping[str, float], *,
    compact: bool = False,
) -> None:  # fmt: skip
    """Points, which may be a sample, and the mae and rmse of all."""
    low, high = float(min(labels.min(), predicted.min())), float(max(labels.max(), predicted.max()))
    pad = 0.05 * (high - low) or 1.0
    limits = (low - pad, high + pad)
    ax.plot(limits, limits, color=GREY, linewidth=1, zorder=1)
    _cloud(ax, labels, predicted, labels, predicted)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    mae, rmse = errors["mae"], errors["rmse"]
    if unit.startswith("eV"):
        mae, rmse, unit = 1e3 * mae, 1e3 * rmse, "m" + unit
    text = f"MAE {mae:.3g} {unit}" if compact else f"MAE {mae:.3g} {unit}\nRMSE {rmse:.3g} {unit}"
    ax.text(0.04, 0.96, text, transform=ax.transAxes, va="top")


def _cloud(ax: Axes, u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Points (x, y), coloured by their density in the coordinates (u, v); many points are thinned, evenly in order."""
    if len(x) < 100:
        ax.scatter(x, y, s=14, color=BLUE, linewidths=0, alpha=0.8, zorder=2)
        return
    counts, u_edges, v_edges = np.histogram2d(u, v, bins=80)
    a = np.clip(np.searchsorted(u_edges, u, side="right") - 1, 0, 79)
    b = np.clip(np.searchsorted(v_edges, v, side="right") - 1, 0, 79)
    for axis in (0, 1, 0, 1):  # neighbouring bins share, or single bins show as squares
        counts = np.apply_along_axis(np.convolve, axis, counts, (0.25, 0.5, 0.25), "same")
    density = np.log1p(counts[a, b])
    chosen = np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).astype(int)
    chosen = chosen[np.argsort(density[chosen], kind="stable")]
    # an image, since tens of thousands of vector points make a report of many megabytes
    ax.scatter(x[chosen], y[chosen], s=5, c=density[chosen], cmap=DENSITY, linewidths=0, zorder=2, rasterized=True)


def _logarithmic(ax: Axes, which: Literal["x", "y"], values: np.ndarray) -> None:
    """A logarithmic axis with plain numbers on its ticks, if all values are positive."""
    if not len(values) or not (values > 0).all():
        return
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    decades = float(np.log10(values.max() / values.min()))
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.7 else (1.0,)))
    if decades < 6:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _seen(column: np.ndarray) -> bool:
    return bool(np.isfinite(column).any())

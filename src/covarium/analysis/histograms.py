"""Histograms of labelled structures."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from ase.data import chemical_symbols
from matplotlib.figure import Figure

from covarium.analysis.plots import BLUE, STYLE, new_figure

BINS = 60
FENCE = 5.0  # times the distance of the quartiles, beyond which values are counted and not drawn


@mpl.rc_context(STYLE)
def histogram(values: np.ndarray, label: str) -> Figure:
    """How often values occur; extreme ones, if they would squeeze the others, are counted beside the axis.

    Args:
        values: [n], finite.
        label: of the axis, with its unit.
    """
    figure, (ax,) = new_figure(f"histogram {label}", 4.6, 2.7, 1, 1)
    low, high = np.quantile(values, (0.25, 0.75))
    room = FENCE * (high - low)
    shown = values[(values >= low - room) & (values <= high + room)] if room > 0 else values
    whole = shown.dtype.kind in "iu" and np.ptp(shown) < BINS
    edges = np.arange(shown.min() - 0.5, shown.max() + 1) if whole else _edges(shown)
    heights, _ = np.histogram(shown, edges)
    ax.stairs(heights, edges, fill=True, color=BLUE)
    ax.set(xlabel=label, ylabel="frames", yscale="log" if _uneven(heights) else "linear")
    if len(shown) < len(values):
        text = f"{len(values) - len(shown)} outside: {values.min():.4g} to {values.max():.4g}"
        ax.text(0.98, 0.97, text, ha="right", va="top", transform=ax.transAxes, fontsize=8)
    return figure


@mpl.rc_context(STYLE)
def counted(counts: np.ndarray, edges: np.ndarray, label: str) -> Figure:
    """A histogram of atoms that was counted already; edges in equal ratios get a logarithmic axis.

    Args:
        counts: [bins], not all zero.
        edges: [bins + 1].
        label: of the axis, with its unit.
    """
    figure, (ax,) = new_figure(f"histogram {label}", 4.6, 2.7, 1, 1)
    filled = np.flatnonzero(counts)
    part = slice(max(filled[0] - 1, 0), filled[-1] + 2)
    ax.stairs(counts[part], edges[part.start : part.stop + 1], fill=True, color=BLUE)
    logarithmic = edges[0] > 0 and np.isclose(edges[1] / edges[0], edges[-1] / edges[-2])
    ax.set(xlabel=label, ylabel="atoms", xscale="log" if logarithmic else "linear")
    return figure


@mpl.rc_context(STYLE)
def element_counts(atoms: Mapping[int, int]) -> Figure:
    """Atoms of each element, on a logarithmic axis."""
    elements = sorted(atoms)
    figure, (ax,) = new_figure(f"elements {elements}", max(3.0, 0.35 * len(elements) + 1.5), 2.7, 1, 1)
    ax.bar([chemical_symbols[z] for z in elements], [atoms[z] for z in elements], color=BLUE)
    ax.set(ylabel="atoms", yscale="log")
    ax.grid(visible=False, axis="x")
    return figure


def _edges(values: np.ndarray) -> np.ndarray:
    """Bins over the values; a single value gets a little room."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        return np.linspace(low - 0.5, low + 0.5, 4)
    return np.linspace(low, high, BINS + 1)


def _uneven(counts: np.ndarray) -> bool:
    filled = counts[counts > 0]
    return len(filled) > 1 and filled.max() > 300 * np.median(filled)

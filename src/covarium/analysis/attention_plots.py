"""Heat maps of attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from ase.data import atomic_numbers
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from covarium.analysis.plots import DENSITY, STYLE, new_figure

NAMED = 40  # atoms whose symbols still fit beside a heat map


@mpl.rc_context(STYLE)
def element_pairs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Attention in even shares, the same with equal weights, and the probability of a bond, by target and source.

    Args:
        rows: of ``Totals.pair_rows``.
    """
    symbols = sorted({row["target"] for row in rows} | {row["source"] for row in rows}, key=atomic_numbers.__getitem__)
    panels = {"shares": "attention (even shares)", "even_weights": "equal weights", "bond_probability": "bonded"}
    side = 1.3 + 0.42 * len(symbols)
    figure, axes = new_figure("element pairs", 0.4 + 1.15 * side * len(panels), 0.5 + side, 1, len(panels))
    for ax, (key, title) in zip(axes, panels.items(), strict=True):
        values = np.full((len(symbols),) * 2, np.nan)
        for row in rows:
            values[symbols.index(row["target"]), symbols.index(row["source"])] = row[key]
        _heat(figure, ax, values, numbers=len(symbols) <= 8)
        ax.set(title=title, xlabel="source", xticks=range(len(symbols)), yticks=range(len(symbols)))
        ax.set_xticklabels(symbols)
        ax.set_yticklabels(symbols)
    axes[0].set_ylabel("target, which attends")
    return figure


@mpl.rc_context(STYLE)
def layers_and_heads(found: Mapping[str, Any]) -> Figure:
    """Effective number of neighbours and mean distance of every layer and head.

    Args:
        found: of ``Totals.to_json``.
    """
    panels = {"effective_neighbours": "effective neighbours", "distance": "mean distance (Å)"}
    layers, heads = len(found["layers"]), len(found["distance"][0])
    width, height = 1.6 + 0.5 * heads, 1.2 + 0.4 * layers
    figure, axes = new_figure("layers and heads", width * len(panels), height, 1, len(panels))
    for ax, (key, title) in zip(axes, panels.items(), strict=True):
        _heat(figure, ax, np.array(found[key]), numbers=heads <= 16)
        ax.set(title=title, xlabel="head", xticks=range(heads), yticks=range(layers))
    axes[0].set_ylabel("layer")
    return figure


@mpl.rc_context(STYLE)
def atoms(rollout: np.ndarray, symbols: Sequence[str], label: str) -> Figure:
    """Rollout [n, n] of one structure without the diagonal, which is the residual connection above all."""
    n = len(symbols)
    side = 2.6 + 0.16 * min(n, 36)
    figure, (ax,) = new_figure(f"atoms {label}", side + 0.8, side, 1, 1)
    _heat(figure, ax, np.where(np.eye(n, dtype=bool), np.nan, rollout), numbers=False)
    ax.set(title=label, xlabel="source atom", ylabel="target atom, which attends")
    if n <= NAMED:
        ax.set(xticks=range(n), yticks=range(n))
        ax.set_xticklabels(symbols, fontsize=7)
        ax.set_yticklabels(symbols, fontsize=7)
    return figure


def _heat(figure: Figure, ax: Axes, values: np.ndarray, *, numbers: bool) -> None:
    image = ax.imshow(values, cmap=DENSITY, aspect="auto", interpolation="nearest")
    ax.grid(visible=False)
    figure.colorbar(image, ax=ax, shrink=0.85)
    if not numbers:
        return
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            # fixed colours: they stand on the cell, not on the page
            colour = "#000000" if value > middle else "#ffffff"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)

"""Histograms show every value or say how many they leave out."""

import numpy as np
import pytest

from covarium.analysis.histograms import counted, element_counts, histogram


def drawn(figure) -> tuple[np.ndarray, np.ndarray]:
    (steps,) = figure.axes[0].patches
    heights, edges, _ = steps.get_data()
    return heights, edges


@pytest.mark.parametrize("values", [np.array([3.0]), np.full(7, -1e4), np.arange(50.0), np.array([1, 1, 2, 9])])
def test_every_value_is_in_a_bin(values: np.ndarray) -> None:
    heights, edges = drawn(histogram(values, "x"))
    assert heights.sum() == len(values) and edges[0] <= values.min() and edges[-1] >= values.max()


def test_far_values_are_counted_beside_the_axis() -> None:
    values = np.append(np.random.default_rng(0).normal(size=500), [80.0, -90.0])
    figure = histogram(values, "x")
    heights, edges = drawn(figure)
    assert heights.sum() == 500 and edges[-1] < 10
    assert "2 outside: -90 to 80" in [text.get_text() for text in figure.axes[0].texts]


def test_whole_numbers_have_bins_of_their_own() -> None:
    heights, edges = drawn(histogram(np.array([3, 3, 5]), "atoms"))
    assert heights.tolist() == [2, 0, 1] and edges.tolist() == [2.5, 3.5, 4.5, 5.5]


def test_counts_keep_their_edges_and_get_a_fitting_axis() -> None:
    counts = np.zeros(20, dtype=int)
    counts[[7, 9]] = 5, 2
    figure = counted(counts, np.logspace(-3, 1, 21), "x")
    assert drawn(figure)[0].sum() == 7 and figure.axes[0].get_xscale() == "log"
    assert counted(counts, np.linspace(0, 1, 21), "x").axes[0].get_xscale() == "linear"
    assert len(element_counts({1: 5, 8: 2}).axes[0].patches) == 2

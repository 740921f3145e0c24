"""Pictures of self-learning: they draw, and the law they show is that of the points."""

import numpy as np
import pytest

from covarium.analysis import lattice_plots as plots
from covarium.analysis.autocorrelation import Estimate
from covarium.analysis.plots import render
from covarium.errors import CovariumError

GOOD, OTHER = Estimate(1.0, 0.1, 0.6, 0.05, 100.0), Estimate(1.3, 0.1, 2.0, 0.2, 30.0)
EXACT = Estimate(1.0, 0.0, 0.5, 0.0, 10.0)


def test_power_law_is_found() -> None:
    x = np.array([42.0, 60.0, 78.0, 96.0])
    law = plots.power_law(x, 3.0 * x**-1.25)
    assert abs(law.exponent - 1.25) < 1e-12 and law.exponent_error < 1e-12
    np.testing.assert_allclose(law(x), 3.0 * x**-1.25)
    rng = np.random.default_rng(0)
    noisy = [plots.power_law(x, 3.0 * x**-1.25 * np.exp(0.05 * rng.normal(size=4))) for _ in range(300)]
    scatter = np.std([law.exponent for law in noisy])
    assert abs(np.sqrt(np.mean([law.exponent_error**2 for law in noisy])) / scatter - 1) < 0.2
    with pytest.raises(CovariumError, match="two points"):
        plots.power_law([1.0], [1.0])


def test_difference_is_in_standard_errors() -> None:
    assert abs(plots.difference(OTHER, GOOD) - 0.3 / np.hypot(0.1, 0.1)) < 1e-12
    assert plots.difference(EXACT, EXACT) == 0.0
    rounding = Estimate(1.0 + 2e-16, 7e-17, 0.5, 0.0, 10.0)
    assert plots.difference(EXACT, rounding) == 0.0 and not rounding.fluctuates
    assert plots.difference(GOOD, EXACT) == 0.0 and plots.difference(OTHER, EXACT) > 2


def test_pictures() -> None:
    law = plots.power_law([42, 60], [0.1, 0.08])
    plain = {"energy": GOOD, "density": EXACT}
    for figure in (
        plots.acceptance([0, 1, 2], [GOOD, OTHER, EXACT], [0.4, 0.3, 0.2]),
        plots.scaling([6, 24, 42, 60], [0.2, 0.1, 0.1, 0.08], [False, False, True, True], law),
        plots.scaling([6], [0.2], [False], None),
        plots.observables(plain, [("linear", {"energy": OTHER, "density": EXACT})]),
        plots.efficiency(["plain", "linear"], {"energy": [1.0, 30.0], "staggered": [0.5, 20.0]}),
    ):
        assert len(render(figure)) > 3000
        assert render(figure) == render(figure)

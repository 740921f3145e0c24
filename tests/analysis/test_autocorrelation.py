"""Autocorrelation times of processes whose answer is known."""

import numpy as np
import pytest

from covarium.analysis.autocorrelation import autocorrelation, estimate
from covarium.errors import CovariumError


def autoregressive(a: float, chains: int, length: int, seed: int = 0) -> np.ndarray:
    """x' = a x + noise, stationary from the start, variance 1: ρ(t) = aᵗ, τ = ½ (1 + a)/(1 − a)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=chains)
    series = []
    for _ in range(length):
        x = a * x + np.sqrt(1 - a * a) * rng.normal(size=chains)
        series.append(x)
    return np.array(series).T


@pytest.mark.parametrize("a", [0.0, 0.5, 0.9, -0.4])
def test_autoregression(a: float) -> None:
    series = autoregressive(a, 20, 5000)
    found = estimate(series)
    exact = 0.5 * (1 + a) / (1 - a)
    assert abs(found.tau - exact) < 4 * found.tau_error
    assert found.tau_error < 0.05 * exact
    assert abs(found.mean) < 4 * found.error
    assert abs(found.samples / (100_000 / (2 * exact)) - 1) < 0.1
    rho, variance = autocorrelation(series)
    assert abs(variance - 1) < 0.1
    np.testing.assert_allclose(rho[:5], a ** np.arange(5.0), atol=0.05)


def test_errors_are_honest() -> None:
    """The scatter of means over repetitions is what one run says of itself."""
    runs = [estimate(autoregressive(0.8, 4, 400, seed)) for seed in range(200)]
    scatter = np.std([run.mean for run in runs])
    assert abs(np.mean([run.error for run in runs]) / scatter - 1) < 0.15
    taus = np.array([run.tau for run in runs])
    assert abs(np.mean([run.tau_error for run in runs]) / taus.std() - 1) < 0.35
    assert abs(taus.mean() / 4.5 - 1) < 0.1


@pytest.mark.parametrize(("chains", "length"), [(1, 8), (1, 40), (2, 40), (1, 300)])
def test_errors_of_short_series_do_not_collapse(chains: int, length: int) -> None:
    """No run of independent measurements claims to know its mean much better than their scatter allows."""
    for seed in range(300):
        series = autoregressive(0.0, chains, length, seed)
        naive = series.std(ddof=1) / np.sqrt(series.size)
        assert estimate(series).error > 0.999 * naive, seed
    short, long = (estimate(autoregressive(0.0, chains, n)) for n in (length, 4000))
    assert short.vague == (chains * length < 95) and not long.vague


def test_autocorrelation_equals_its_definition() -> None:
    series = autoregressive(0.7, 3, 50)
    centred = series - series.mean()
    expected = [np.mean([c[: 50 - t] @ c[t:] / (50 - t) for c in centred]) for t in range(50)]
    np.testing.assert_allclose(autocorrelation(series)[0], np.array(expected) / expected[0], atol=1e-12)


def test_constants_and_refusals() -> None:
    still = estimate(np.ones((3, 10)))
    assert (still.mean, still.error, still.samples) == (1.0, 0.0, 30.0)
    with pytest.raises(CovariumError, match="4 measurements"):
        estimate(np.ones((3, 3)))
    broken = np.ones((3, 10))
    broken[1, 7] = np.nan
    with pytest.raises(CovariumError, match="measurement 7 of chain 1"):
        estimate(broken)

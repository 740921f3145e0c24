"""Means of Markov chains with honest errors: integrated autocorrelation times by automatic windowing.

U. Wolff, Comput. Phys. Commun. 156, 143 (2004), with the window of A. Sokal: the first W ≥ 6 τ(W), at least 6.
Letters: C chains, T measurements of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from covarium.errors import CovariumError

WINDOW = 6.0
FEW = 100  # measurements, among which no anticorrelation can be told from accident
BELIEVED = 3.0  # standard errors by which τ must lie below that of independent measurements


@dataclass(frozen=True)
class Estimate:
    """A mean over chains and what it is worth.

    Attributes:
        mean: over all measurements.
        error: its standard error, correlations taken into account.
        tau: integrated autocorrelation time in measurements, ½ for independent ones; less only where the measurements
            are clearly anticorrelated.
        tau_error: its standard error.
        samples: the number of independent measurements that would give the same error.
    """

    mean: float
    error: float
    tau: float
    tau_error: float
    samples: float

    @property
    def fluctuates(self) -> bool:
        """Whether it is more than rounding that makes the measurements differ, as of the density at half filling."""
        return self.error > 1e-12 * abs(self.mean)

    @property
    def vague(self) -> bool:
        """Whether τ, and the error with it, may well be half or twice as large."""
        return self.tau_error > 0.5 * self.tau


def estimate(series: np.ndarray) -> Estimate:
    """Mean and error of measurements [C, T] of independent, equal chains.

    Raises:
        CovariumError: too few measurements, or numbers that are not finite.
    """
    chains, length = series.shape
    if length < 4:
        raise CovariumError(f"an autocorrelation time needs at least 4 measurements of each chain, got {length}")
    if not np.isfinite(series).all():
        chain, time = (int(i) for i in np.argwhere(~np.isfinite(series))[0])
        raise CovariumError(f"measurement {time} of chain {chain} is {series[chain, time]}")
    total = chains * length
    rho, variance = autocorrelation(series)
    if variance == 0:
        return Estimate(float(series.mean()), 0.0, 0.5, 0.0, float(total))
    # τ(W) = ½ + Σ_1^W ρ(t)
    taus = 0.5 + np.concatenate([[0.0], np.cumsum(rho[1:])])
    enough = np.arange(length) >= WINDOW * np.maximum(taus, 1.0)
    window = int(np.argmax(enough)) if enough.any() else length - 1
    # the mean that was subtracted is that of the data: what it takes away (Wolff Eq. 32)
    tau = float(taus[window]) * (1 + (2 * window + 1) / total)
    # less than ½ is anticorrelation, which few measurements show by accident, and with it errors of nearly nothing
    accident = BELIEVED * 0.5 * math.sqrt(max(4 * window, 2.0) / total)
    tau = max(tau, 0.5 / total if total >= FEW and tau < 0.5 - accident else 0.5)
    tau_error = tau * math.sqrt(max(4 * (window + 0.5 - tau), 2.0) / total)
    samples = total / (2 * tau)
    return Estimate(float(series.mean()), math.sqrt(variance / samples), tau, tau_error, samples)


def autocorrelation(series: np.ndarray) -> tuple[np.ndarray, float]:
    """ρ(t) [T] about the common mean of all chains [C, T], averaged over them, and the variance."""
    chains, length = series.shape
    centred = series - series.mean()
    power = np.abs(np.fft.rfft(centred, 2 * length, axis=1)) ** 2
    covariance = np.fft.irfft(power, axis=1)[:, :length].mean(0) / np.arange(length, 0, -1)
    variance = float(covariance[0])
    return (covariance / variance if variance > 0 else np.zeros(length)), variance * chains * length / max(
        chains * length - 1, 1
    )

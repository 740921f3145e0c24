"""What a self-learning run found."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from covarium.analysis.autocorrelation import Estimate
from covarium.workflows.slmc_config import SlmcConfig
from covarium.workflows.training_run import REPORT

OBSERVABLES = ("energy", "density", "magnetisation", "staggered", "neighbours")
SLOW = ("staggered", "magnetisation", "energy", "neighbours")  # those by which efficiency is judged


@dataclass(frozen=True)
class Sampled:
    """What chains of one kind gave.

    Attributes:
        layers: of the effective model; None for plain local updates.
        accepted: fraction of proposals, or of local moves.
        cpu_s: CPU seconds of one measurement of one chain.
        estimates: observable → mean, error, autocorrelation time in measurements.
    """

    layers: int | None
    accepted: Estimate
    cpu_s: float
    estimates: dict[str, Estimate]

    @property
    def slow(self) -> tuple[str, ...]:
        """Of the observables by which efficiency is judged, those that are measured here and not constant."""
        return tuple(name for name in SLOW if name in self.estimates and self.estimates[name].fluctuates)

    def rate(self, name: str) -> float:
        """Independent samples of one observable per CPU second; none where it does not move."""
        found = self.estimates[name]
        return 1.0 / (2 * found.tau * self.cpu_s) if found.fluctuates else 0.0

    def gain(self, plain: Sampled) -> tuple[float, float]:
        """Independent samples per CPU second over those of plain Monte Carlo, and the standard error of that.

        Of the observable that profits least, among those that are not constant in plain Monte Carlo; the error is that
        of its two autocorrelation times.
        """
        name = min(plain.slow, key=lambda name: self.rate(name) / plain.rate(name))
        ratio = self.rate(name) / plain.rate(name)
        own, other = self.estimates[name], plain.estimates[name]
        return ratio, ratio * math.hypot(own.tau_error / own.tau, other.tau_error / other.tau)


@dataclass(frozen=True)
class Fitted:
    """An effective model.

    Attributes:
        layers: of attention.
        parameters: how many.
        train_mse, test_mse: mean squared error of its log weight on training and test samples.
        independent: acceptance between independent configurations, from the errors on test samples.
    """

    layers: int
    parameters: int
    train_mse: float
    test_mse: float
    independent: float


@dataclass(frozen=True)
class SlmcOutcome:
    """What a run found; no numbers after an interruption."""

    folder: Path
    config: SlmcConfig
    plain: Sampled | None = None
    fits: tuple[Fitted, ...] = ()
    measured: tuple[Sampled, ...] = ()

    @property
    def interrupted(self) -> bool:
        return self.plain is None

    @property
    def report(self) -> Path:
        return self.folder / REPORT

    @property
    def resume_command(self) -> str:
        return f"covarium slmc --resume {shlex.quote(str(self.folder))}"

    def to_json(self) -> dict[str, Any]:
        """All numbers of the report."""
        assert self.plain is not None
        return {
            "lattice": self.config.lattice.model_dump(),
            "plain": asdict(self.plain),
            "fits": [asdict(fit) for fit in self.fits],
            "slmc": [asdict(sampled) for sampled in self.measured],
        }

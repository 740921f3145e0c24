"""The task of self-learning Monte Carlo: an effective model whose −energy is the logarithm of an exact weight.

Training lowers the mean squared error of log W + H_eff over samples of W (Nagai & Tomiya 2023, arXiv 2306.11527); the
acceptance then is about exp(−√MSE). Letters: B fields, N sites, R shells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from covarium.data.spin_samples import SpinBatch, SpinSamples
from covarium.models.spin_transformer import SpinTransformer
from covarium.systems.spin_field import LatticeElement, SpinField

CHUNK = 1024  # fields at a time where no gradient is needed


@dataclass(frozen=True)
class ActionPrediction:
    """What an effective model says.

    Attributes:
        log_weight: [B], the constant included.
        spins: [B, N, 3] effective spins.
        size: L.
    """

    log_weight: Tensor
    spins: Tensor
    size: int

    def transform(self, g: LatticeElement) -> ActionPrediction:
        """What the prediction becomes when the field is transformed: the weight stays, the spins go along."""
        return replace(self, spins=g.act(self.spins, self.size))


class EffectiveAction(nn.Module):
    """An effective model and the loss it is fitted by.

    Args:
        model: its energy is in units of the temperature.
        physics: parameters of the exact model that it stands for, for those who read the file.
    """

    weights: Mapping[str, float] = {"action": 1.0}
    selection: Mapping[str, float] = {"action_mse": 1.0}

    def __init__(self, model: SpinTransformer, *, physics: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.model, self.physics = model, dict(physics or {})

    def forward(self, batch: SpinBatch, rng: torch.Generator | None) -> dict[str, tuple[Tensor, Tensor]]:
        error = self.errors(batch)
        return {"action": (error.square().sum(), torch.tensor(len(error), dtype=torch.float64))}

    def metrics(self, batch: SpinBatch) -> dict[str, tuple[float, float]]:
        with torch.no_grad():
            error = self.errors(batch)
        return {"action_mse": (float(error.square().sum()), float(len(error)))}

    def errors(self, batch: SpinBatch) -> Tensor:
        """[B] predicted − exact log weight."""
        return -self.model(batch.system).energy - batch.log_weight

    @torch.no_grad()
    def predict(self, system: SpinField) -> ActionPrediction:
        output = self.model(system)
        return ActionPrediction(-output.energy, output.spins, system.size)

    @torch.no_grad()
    def log_weight(self, spins: Tensor) -> Tensor:
        """[B, N, 3] → [B]."""
        return self.predict(SpinField(spins, self.model.config.size)).log_weight

    @torch.no_grad()
    def refit(self, samples: SpinSamples) -> None:
        """Couplings and constant that are best for the effective spins as they are: linear least squares, exactly."""
        batches = [samples.batch(range(k, min(k + CHUNK, len(samples)))) for k in range(0, len(samples), CHUNK)]
        pairs = torch.cat([self.model(batch.to(dtype=self.model.J.dtype).system).pairs.double() for batch in batches])
        mean = pairs.mean(0), samples.log_weight.mean()
        # gelsd drops directions that the samples do not span
        solution = torch.linalg.lstsq(pairs - mean[0], (samples.log_weight - mean[1])[:, None], driver="gelsd").solution
        self.model.J.copy_(solution[:, 0])
        self.model.E0.copy_(mean[0] @ solution[:, 0] - mean[1])

    @torch.no_grad()
    def deviations(self, samples: SpinSamples) -> Tensor:
        """[n] predicted − exact log weight of all samples."""
        parts = [range(k, min(k + CHUNK, len(samples))) for k in range(0, len(samples), CHUNK)]
        return torch.cat([self.errors(samples.batch(part)) for part in parts])

    def mse(self, samples: SpinSamples) -> float:
        """Mean squared error over all samples."""
        return float(self.deviations(samples).square().mean())

    def no_weight_decay(self) -> set[str]:
        return {f"model.{name}" for name in self.model.no_weight_decay()}

    def describe(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights."""
        return {"kind": "effective_action", "physics": self.physics}

    @classmethod
    def from_description(cls, model: SpinTransformer, description: Mapping[str, Any]) -> Self:
        """The inverse of ``describe``."""
        return cls(model, physics=description["physics"])


def independent_acceptance(deviations: Tensor) -> float:
    """What fraction is accepted when proposals do not remember where they start.

    Args:
        deviations: [n] predicted − exact log weight, of samples of the exact weight alone. A proposed configuration has
            the effective weight instead: it counts r = exp(predicted − exact) times, and min(1, r_start/r) accepts it.
    """
    r = torch.exp(deviations - deviations.max()).sort().values
    n = len(r)
    # the mean of min(r, r') over all pairs: the k-th smallest, from 0, is the smaller one in n − 1 − k of them
    smaller = (r * torch.arange(n - 1, -1, -1).to(r)).sum() * 2 / (n * (n - 1))
    return float(smaller / r.mean())

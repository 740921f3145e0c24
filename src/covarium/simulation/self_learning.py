"""Self-learning Monte Carlo: an effective model proposes, the exact weight decides (Liu 2017, arXiv 1610.03137).

A proposal is made by a chain that is reversible with respect to the effective weight exp(−A): q(S → S') exp(−A(S)) =
q(S' → S) exp(−A(S')). It is accepted with min(1, W(S')/W(S) · exp(A(S') − A(S))), which makes the chain reversible with
respect to W. The step repeats: linear model → attention → exact, each level correcting the one below (the surrogate
transitions of J. S. Liu, *Monte Carlo Strategies in Scientific Computing*, 2001, Sec. 9.4.3). So a local move costs
what it costs in the linear model, whatever the depth of the attention.

A sequence of local updates is reversible when it reads the same backwards; the sweeps here do. Then they are so for
each chain alone, and chains stay independent although they visit the sites together.

Letters: C chains, N sites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LogWeight = Callable[[Tensor], Tensor]  # [C, N, 3] → [C]


@dataclass(frozen=True)
class Walkers:
    """spins [C, N, 3] and the logarithm [C] of the weight that moves them."""

    spins: Tensor
    log_weight: Tensor


class Kernel(Protocol):
    """A move that is reversible with respect to exp(weight)."""

    @property
    def weight(self) -> LogWeight: ...

    def __call__(self, walkers: Walkers, rng: torch.Generator) -> Walkers: ...


class HeatBath:
    """Local updates of exp(½ Σ_ij K_ij S_i·S_j): overrelaxation and heat bath, over all sites and back.

    A spin in the field h = Σ_j K_ij S_j is drawn anew from exp(h·S), or reflected about h (M. Creutz, Phys. Rev. D 36,
    515 (1987)): never refused.

    Args:
        couplings: K [N, N] symmetric, zero on the diagonal, in units of the temperature.
        sweeps: how often overrelaxation and heat bath go over the sites, then heat bath and overrelaxation back.
    """

    def __init__(self, couplings: Tensor, sweeps: int) -> None:
        self.couplings, self.sweeps = couplings, sweeps

    def weight(self, spins: Tensor) -> Tensor:
        return 0.5 * (spins * (self.couplings @ spins)).sum((1, 2))

    def __call__(self, walkers: Walkers, rng: torch.Generator) -> Walkers:
        # sites first: the field at a site is then one product. A copy always: of one chain ``contiguous`` makes none
        spins = walkers.spins.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        sites = range(spins.shape[0])
        for _ in range(self.sweeps):
            for site in sites:
                self._reflect(spins, site)
            for order in (sites, reversed(sites)):
                uniform = torch.rand(*spins.shape[:2], 1, generator=rng, dtype=spins.dtype)
                normal = torch.randn(spins.shape, generator=rng, dtype=spins.dtype)
                for site in order:
                    spins[site] = drawn(self._field(spins, site), uniform[site], normal[site])
            for site in reversed(sites):
                self._reflect(spins, site)
        moved = spins.transpose(0, 1).contiguous()
        moved /= moved.norm(dim=-1, keepdim=True)
        return Walkers(moved, self.weight(moved))

    def _field(self, spins: Tensor, site: int) -> Tensor:
        return (self.couplings[site] @ spins.flatten(1)).view(-1, 3)

    def _reflect(self, spins: Tensor, site: int) -> None:
        field = self._field(spins, site)
        size = field.square().sum(-1, keepdim=True).clamp_(min=1e-24)
        along = 2 * (spins[site] * field).sum(-1, keepdim=True) / size
        spins[site] = torch.addcmul(-spins[site], along, field)


def drawn(field: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
    """Unit vectors from exp(h·S) on the sphere (von Mises–Fisher).

    Args:
        field: h [C, 3].
        uniform: [C, 1] on [0, 1).
        normal: [C, 3] normally distributed; its part across h gives the direction around h.

    Returns:
        [C, 3].
    """
    size = field.norm(dim=-1, keepdim=True).clamp_(min=1e-12)
    # the distribution function of the cosine, inverted; log1p and expm1 hold for weak and for strong fields
    cosine = (torch.log1p((1 - uniform) * torch.expm1(-2 * size)) / size).add_(1).clamp_(-1, 1)
    axis = field / size
    across = torch.addcmul(normal, (normal * axis).sum(-1, keepdim=True), axis, value=-1)
    across *= (1 - cosine.square()).sqrt() / across.norm(dim=-1, keepdim=True)
    return across.addcmul_(cosine, axis)


class Corrected:
    """A kernel for ``weight``, whose proposals come from a kernel for another weight.

    Args:
        below: makes the proposals.
        weight: log weight.
        repeats: proposals in one call.
    """

    def __init__(self, below: Kernel, weight: LogWeight, repeats: int = 1) -> None:
        self.below, self.weight, self.repeats = below, weight, repeats

    def __call__(self, walkers: Walkers, rng: torch.Generator) -> Walkers:
        return self.step(walkers, rng)[0]

    def step(self, walkers: Walkers, rng: torch.Generator) -> tuple[Walkers, float]:
        """The walkers after ``repeats`` proposals, and the fraction accepted of those that differ from their start.

        A kernel that itself refuses may propose to stay: that is no achievement, and needs no weight.
        """
        lower = Walkers(walkers.spins, self.below.weight(walkers.spins))
        accepted = offered = 0.0
        for _ in range(self.repeats):
            proposed = self.below(lower, rng)
            moved = (proposed.spins != walkers.spins).flatten(1).any(1)
            weight = walkers.log_weight.clone()
            if bool(moved.any()):
                weight[moved] = self.weight(proposed.spins[moved])
            log_ratio = weight - walkers.log_weight - (proposed.log_weight - lower.log_weight)
            uniform = torch.rand(log_ratio.shape, generator=rng, dtype=log_ratio.dtype)
            take = moved & (uniform.log() < log_ratio)
            offered += float(moved.sum())
            accepted += float(take.sum())
            spins = torch.where(take[:, None, None], proposed.spins, walkers.spins)
            walkers = Walkers(spins, torch.where(take, weight, walkers.log_weight))
            lower = Walkers(spins, torch.where(take, proposed.log_weight, lower.log_weight))
        return walkers, accepted / offered if offered else 0.0

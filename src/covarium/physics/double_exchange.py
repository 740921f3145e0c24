"""The double-exchange model: electrons that hop between classical spins, integrated out exactly.

H(S) = −t Σ_<ij>σ (c†_iσ c_jσ + h.c.) + (J/2) Σ_i S_i · (c†_i σ c_i) on a periodic square lattice, |S_i| = 1; the weight
of a spin configuration is W(S) = Π_n (1 + exp(−β(E_n − μ))), Nagai & Tomiya 2023, arXiv 2306.11527. Energies are in the
units of t. Matrix index 2·site + electron spin. Spins that do not lie in one plane admit no real form of H, so that the
matrices stay complex.

Letters: B configurations, N sites.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from covarium.errors import CovariumError
from covarium.systems.square_lattice import hopping, sublattice


@dataclass(frozen=True)
class DoubleExchange:
    """Parameters of the model on an L × L lattice, and its exact answers.

    Attributes:
        size: L.
        t: hopping.
        hund: J, coupling of an electron to the spin of its site.
        mu: chemical potential.
        beta: inverse temperature.

    Raises:
        CovariumError: no lattice, no temperature, or an energy that is not finite.
    """

    size: int
    t: float = 1.0
    hund: float = 1.0
    mu: float = 0.0
    beta: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise CovariumError(f"inverse temperature must be positive and finite, got {self.beta}")
        for name in ("t", "hund", "mu"):
            if not math.isfinite(getattr(self, name)):
                raise CovariumError(f"{name} of the double-exchange model must be finite, got {getattr(self, name)}")
        if self.size < 2:
            raise CovariumError(f"a lattice needs at least 2 sites in a row, got size {self.size}")

    @cached_property
    def hopping(self) -> np.ndarray:
        """[N, N]."""
        return hopping(self.size, self.t)

    @property
    def bound(self) -> float:
        """No eigenvalue of H(S) − μ is larger in magnitude, whatever the spins."""
        return float(np.abs(self.hopping).sum(1).max()) + abs(self.hund) / 2 + abs(self.mu)

    @property
    def symmetric(self) -> bool:
        """Whether every spectrum is symmetric about μ: hopping only between sublattices, and half filling."""
        sign = sublattice(self.size)
        return self.mu == 0 and bool((sign[:, None] * self.hopping * sign == -self.hopping).all())

    def hamiltonian(self, spins: Tensor) -> Tensor:
        """[B, N, 3] → [B, 2N, 2N] Hermitian."""
        return hamiltonian(spins, self.hopping, self.hund)

    def spectrum(self, spins: Tensor) -> Tensor:
        """[B, N, 3] → [B, 2N], ascending."""
        return torch.linalg.eigvalsh(self.hamiltonian(spins))

    def log_weight(self, spectrum: Tensor) -> Tensor:
        """[B, 2N] eigenvalues → [B] log W."""
        x = -self.beta * (spectrum - self.mu)
        return (x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))).sum(-1)

    def occupation(self, spectrum: Tensor) -> Tensor:
        """Fermi function of each eigenvalue."""
        return torch.sigmoid(-self.beta * (spectrum - self.mu))

    def observables(self, spins: Tensor, spectrum: Tensor) -> dict[str, Tensor]:
        """Of each configuration, [B] each, and invariant under all symmetries.

        ``energy``: of the electrons per site. ``density``: electrons per site. ``magnetisation``: |Σ_i S_i|/N.
        ``staggered``: |Σ_i ±S_i|²/N², ± alternating, on even lattices only: on others no pattern of signs alternates.
        ``neighbours``: mean of S_i·S_j over bonds.
        """
        n = spins.shape[1]
        occupation = self.occupation(spectrum)
        bonds = torch.from_numpy(hopping(self.size, 1.0) != 0).to(spins)  # of the lattice, also where t = 0
        total = torch.einsum("bic,ij,bjc->b", spins, bonds, spins)
        found = {
            "energy": (spectrum * occupation).sum(-1) / n,
            "density": occupation.sum(-1) / n,
            "magnetisation": spins.mean(1).norm(dim=-1),
            "neighbours": total / bonds.sum(),
        }
        if self.size % 2 == 0:
            sign = torch.from_numpy(sublattice(self.size)).to(spins)
            found["staggered"] = (spins * sign[:, None]).mean(1).square().sum(-1)
        return found


def hamiltonian(spins: Tensor, hopping: np.ndarray, hund: float) -> Tensor:
    """H(S) for any real symmetric hopping.

    Args:
        spins: [B, N, 3].
        hopping: [N, N].
        hund: J.

    Returns:
        [B, 2N, 2N], complex128 for float64.
    """
    count, n, _ = spins.shape
    bands = torch.kron(torch.from_numpy(hopping), torch.eye(2, dtype=torch.float64)).to(spins)
    matrix = torch.complex(bands, torch.zeros_like(bands)).repeat(count, 1, 1)
    up = 2 * torch.arange(n, device=spins.device)
    x, y, z = (0.5 * hund * spins).unbind(-1)
    matrix[:, up, up] += z
    matrix[:, up + 1, up + 1] -= z
    matrix[:, up, up + 1] += torch.complex(x, -y)
    matrix[:, up + 1, up] += torch.complex(x, y)
    return matrix

"""Effective Hamiltonian of a spin lattice by equivariant attention (Nagai & Tomiya 2023, arXiv 2306.11527, 2310.13222).

No official code is public; the layers are those of the papers as written out below. The model without layers is the
linear one of self-learning Monte Carlo (Liu 2017, arXiv 1610.03137).

    S^a = Σ_n W^a_{l,n} A_n S  (a = Q, K, V),  M = ReLU(S^Q S^Kᵀ/√3),  S_i ← (S + M S^V)_i / |(S + M S^V)_i|
    H_eff = E_0 − Σ_n J_n Σ_{pairs in shell n} S_i·S_j

A_n joins the sites that are a shell n apart, A_0 = 1: everything commutes with turning all spins, mirrors included, and
with translations and the point group of the lattice. Energies are in units of the temperature (β H_eff), as only those
enter a weight.

Letters: B fields, N = L² sites, l layers, R coupling shells, r attention shells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from covarium.errors import CovariumError
from covarium.systems.spin_field import SpinField
from covarium.systems.square_lattice import shells


@dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        size: L.
        num_layers: attention layers; 0 is the linear model.
        attention_shells: r, shells of neighbours that a block spin reaches; None for all of the lattice.
        coupling_shells: R, shells of the couplings; None for all.
    """

    size: int = 6
    num_layers: int = 2
    attention_shells: int | None = None
    coupling_shells: int | None = None

    def __post_init__(self) -> None:
        if self.size < 2:
            raise CovariumError(f"model.size must be at least 2, got {self.size}")
        if self.num_layers < 0:
            raise CovariumError(f"model.num_layers must be 0 or more, got {self.num_layers}")
        most = len(shells(self.size)[1]) - 1
        for name in ("attention_shells", "coupling_shells"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise CovariumError(
                    f"model.{name} must lie in 1 … {most} on a lattice of size {self.size}, got {value}"
                )


class SpinOutput(NamedTuple):
    """energy [B] in units of the temperature; spins [B, N, 3], the effective ones; pairs [B, R], their sums S_i·S_j
    over the pairs of each shell."""

    energy: Tensor
    spins: Tensor
    pairs: Tensor


class SpinTransformer(nn.Module):
    """H_eff of a batch of spin fields; ``forward(field, rng) -> SpinOutput``.

    Attributes:
        system: the kind of system it reads, for tables of models.
        W: [l, 3, r + 1] weights of queries, keys and values on each shell, the site itself first.
        J: [R] couplings.
        E0: the constant.
    """

    system = "spins"
    group = "O(3) x lattice"
    shell: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        index, distances = shells(config.size)
        most = len(distances) - 1
        self.attention_shells = config.attention_shells or most
        self.coupling_shells = config.coupling_shells or most
        self.register_buffer("shell", torch.from_numpy(index), persistent=False)
        self.W = nn.Parameter(torch.zeros(config.num_layers, 3, self.attention_shells + 1))
        self.J = nn.Parameter(torch.zeros(self.coupling_shells))
        self.E0 = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            for layer in range(config.num_layers):
                self._start(layer)

    def _start(self, layer: int) -> None:
        """A layer that changes nothing yet: values at zero, but attention M_ij = ReLU(S_i·S_j)/N.

        So values learn at once; all three at zero would be a point without a slope.
        """
        self.W[layer, :2, 0] = 3**0.25 / self.config.size
        self.W[layer, 2] = 0.0

    def forward(self, field: SpinField, rng: torch.Generator | None = None) -> SpinOutput:
        if field.size != self.config.size:
            raise CovariumError(f"this model is of size {self.config.size}, the spin field of size {field.size}")
        spins = field.spins
        for layer in range(self.config.num_layers):
            spins = self._attention(spins, layer)
        pairs = self.pair_sums(spins)
        return SpinOutput(self.E0 - pairs @ self.J, spins, pairs)

    def _attention(self, spins: Tensor, layer: int) -> Tensor:
        b, n, _ = spins.shape
        weights = torch.cat([self.W[layer], self.W.new_zeros(3, 1)], dim=1)
        blocks = weights[:, self.shell.clamp(max=self.attention_shells + 1)].view(3 * n, n)
        # one product for queries, keys and values of all fields
        mixed = (blocks @ spins.transpose(0, 1).reshape(n, 3 * b)).view(3, n, b, 3).transpose(1, 2)
        query, key, value = mixed.unbind(0)
        attention = torch.relu(query @ key.mT / math.sqrt(3))
        spins = torch.baddbmm(spins, attention, value)
        return spins / spins.norm(dim=-1, keepdim=True)

    def pair_sums(self, spins: Tensor) -> Tensor:
        """[B, R]: Σ S_i·S_j over the pairs of each shell, each pair once."""
        n = spins.shape[1]
        of_shell = (self.shell.view(-1, 1) == torch.arange(1, self.coupling_shells + 1, device=spins.device)).to(spins)
        return 0.5 * (spins @ spins.mT).view(-1, n * n) @ of_shell

    def couplings(self) -> Tensor:
        """[N, N] symmetric, J of each pair's shell, zero on the diagonal."""
        table = torch.cat([self.J.new_zeros(1), self.J, self.J.new_zeros(1)])
        return table[self.shell.clamp(max=self.coupling_shells + 1)]

    def no_weight_decay(self) -> set[str]:
        """All of it: weights are couplings, and zero is no better guess than any other value."""
        return {"W", "J", "E0"}


@torch.no_grad()
def deepened(model: SpinTransformer) -> SpinTransformer:
    """The same function with one more layer, which changes nothing yet."""
    c = model.config
    grown = SpinTransformer(Config(c.size, c.num_layers + 1, c.attention_shells, c.coupling_shells)).to(model.J)
    grown.W[: c.num_layers] = model.W
    grown.J.copy_(model.J)
    grown.E0.copy_(model.E0)
    return grown

"""A real task in miniature: energies of points in the plane learnt together with their gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

torch.set_num_threads(1)  # 16 × 16 matrices


@dataclass(frozen=True)
class ToyBatch:
    x: Tensor  # [N, 2]
    owner: Tensor  # [N]
    energy: Tensor  # [B]
    forces: Tensor  # [N, 2]
    sources: list[tuple[str, int]]

    def to(self, device, dtype):
        return replace(self, x=self.x.to(device, dtype))


class ToyData:
    """Clusters of 1 to 5 points with E = Σ sin(x₀) cos(x₁) and its gradient."""

    def __init__(self, count: int, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.sizes = [1 + k % 5 for k in range(count)]
        self.x = [torch.rand(n, 2, generator=rng, dtype=torch.float64) * 3 for n in self.sizes]
        self.energy = [(x[:, 0].sin() * x[:, 1].cos()).sum() for x in self.x]
        self.forces = [torch.stack([-x[:, 0].cos() * x[:, 1].cos(), x[:, 0].sin() * x[:, 1].sin()], 1) for x in self.x]

    def __len__(self) -> int:
        return len(self.x)

    def costs(self) -> list[int]:
        return self.sizes

    def batch(self, indices) -> ToyBatch:
        owner = torch.cat([torch.full((self.sizes[i],), k) for k, i in enumerate(indices)])
        energy = torch.stack([self.energy[i] for i in indices])
        x, forces = (torch.cat([part[i] for i in indices]) for part in (self.x, self.forces))
        return ToyBatch(x, owner, energy, forces, [("clusters.xyz", i) for i in indices])


class ToyTask(nn.Module):
    """Forces are the derivative of the energy, so that the loss has a second derivative in it."""

    weights = {"energy": 1.0, "forces": 3.0}
    selection = {"energy_mae": 1.0, "forces_mae": 1.0}

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
        self.idle = nn.Linear(2, 2)  # no output depends on it
        self.plain_dropout = nn.Dropout(dropout)
        self.dropout = dropout

    def no_weight_decay(self) -> set[str]:
        return {"net.4.weight"}

    def _errors(self, batch, rng):
        with torch.enable_grad():
            x = batch.x.detach().requires_grad_()
            hidden = self.net[:2](x)
            if self.training and self.dropout:
                hidden = hidden * (torch.rand(hidden.shape, generator=rng, dtype=x.dtype) > self.dropout)
                hidden = self.plain_dropout(hidden)
            atoms = self.net[2:](hidden).squeeze(1)
            energy = torch.zeros(len(batch.energy), dtype=x.dtype).index_add(0, batch.owner, atoms)
            (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=self.training)
        return energy.double() - batch.energy, -slope.double() - batch.forces

    def forward(self, batch, rng):
        energy, forces = self._errors(batch, rng)
        return {
            "energy": (energy.square().sum(), torch.tensor(energy.numel(), dtype=torch.float64)),
            "forces": (forces.square().sum(), torch.tensor(forces.numel(), dtype=torch.float64)),
        }

    def metrics(self, batch):
        errors = dict(zip(("energy_mae", "forces_mae"), self._errors(batch, None), strict=True))
        return {name: (float(e.detach().abs().sum()), float(e.numel())) for name, e in errors.items()}


def toy_task(dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> ToyTask:
    torch.manual_seed(3)
    return ToyTask(dropout).to(dtype)

"""Local Metropolis moves with the exact weight of the double-exchange model, many chains at once.

A new spin S' at site a changes H by Δ = (J/2)(S' − S)·σ on that site, and the weight through D(z) = det(1 − Δ g_aa(z))
with the 2 × 2 block g_aa of the resolvent G(z) = (z − H)⁻¹ at the nodes z of a contour (``physics.contour``): no
diagonalisation per move. Accepted moves enter G by the Woodbury formula, first only in the rows of a block of sites,
then, once per block, everywhere (delayed updates). G is made afresh at the start of each call.

Letters: C chains, K nodes, N sites, b sites of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from covarium.physics.contour import contour
from covarium.physics.double_exchange import DoubleExchange

BLOCK = 8  # sites; larger blocks spend more on their own rows, smaller ones more on the whole resolvent
GROUP = 32  # chains whose resolvents are held at a time
ROUNDS, STEP = 10, 0.5  # of tuning, and where it starts


@dataclass(frozen=True)
class Sweeps:
    """What T sweeps did: spins [T, C, N, 3] after each of them, and the fraction of accepted moves."""

    spins: Tensor
    acceptance: float


class ExactChains:
    """Sequential local updates that leave W(S) invariant.

    The logarithm of a ratio is right to within 1e-9 · β · ``model.bound``: the tolerance of the quadrature is relative
    to the largest |log D|. Measured is a tenth of that and less.

    Args:
        model: the physics.
        step: width of a move, S' ∝ S + step·(normal vector); the direction of S' is symmetric about S.
    """

    def __init__(self, model: DoubleExchange, step: float) -> None:
        self.model, self.step = model, step
        z, w = contour(model.beta, model.mu, model.bound, symmetric=model.symmetric)
        self.nodes, self.weights = torch.from_numpy(z), torch.from_numpy(w)
        n = model.size**2
        self.blocks = [part.tolist() for part in np.array_split(np.arange(n), -(-n // BLOCK))]

    def resolvent(self, spins: Tensor) -> Tensor:
        """[C, N, 3] → [C, K, 2N, 2N]."""
        energies, vectors = torch.linalg.eigh(self.model.hamiltonian(spins))
        poles = 1.0 / (self.nodes[:, None] - energies[:, None, :])
        return (vectors[:, None] * poles[:, :, None, :]) @ vectors.mH[:, None]

    def run(self, spins: Tensor, sweeps: int, rng: torch.Generator) -> Sweeps:
        """Visit every site in order, ``sweeps`` times.

        Args:
            spins: [C, N, 3] float64; left as they are.
            sweeps: T.
            rng: of moves and decisions.
        """
        parts, accepted = [], 0.0
        for own in spins.split(GROUP):
            g, own = self.resolvent(own), own.clone()
            seen = []
            for _ in range(sweeps):
                for sites in self.blocks:
                    accepted += self._block(g, own, sites, rng)
                seen.append(own.clone())
            parts.append(torch.stack(seen))
        return Sweeps(torch.cat(parts, dim=1), accepted / (sweeps * spins.shape[0] * spins.shape[1]))

    def _block(self, g: Tensor, spins: Tensor, sites: list[int], rng: torch.Generator) -> float:
        """Moves at ``sites``; returns how many were accepted."""
        count, nodes, b = *g.shape[:2], len(sites)
        first, last = 2 * sites[0], 2 * sites[-1] + 2
        own = g[:, :, first:last, first:last].flatten(0, 1)
        before = spins[:, sites].clone()
        noise = torch.randn(b, count, 3, generator=rng, dtype=spins.dtype)
        threshold = torch.rand(b, count, generator=rng, dtype=spins.dtype).log()
        accepted = 0.0
        for k, site in enumerate(sites):
            old = spins[:, site]
            new = old + self.step * noise[k]
            new = new / new.norm(dim=-1, keepdim=True)
            change = 0.5 * self.model.hund * (new - old)
            delta, size = _pauli(change)[:, None], change.square().sum(-1)[:, None]
            local = own[:, :2, :2].view(count, nodes, 2, 2)
            product = delta @ local
            # det(1 − Δg) of 2 × 2 matrices, det Δ = −|δ|²
            trace = product[..., 0, 0] + product[..., 1, 1]
            determinant = 1.0 - trace - size * _det(local)
            take = threshold[k] < (self.weights * determinant.log()).sum(-1).imag
            accepted += float(take.sum())
            spins[:, site] = torch.where(take[:, None], new, old)
            if k + 1 < b:
                # Δ (1 − gΔ)⁻¹ = (1 − Δg)⁻¹ Δ through the adjugate 1 − tr + Δg; nothing where the move is refused
                adjugate = (1.0 - trace)[..., None, None] * torch.eye(2) + product
                factor = torch.where(take[:, None], 1.0 / determinant, 0.0)[..., None, None]
                kick = (factor * (adjugate @ delta)).flatten(0, 1)
                # only the sites that are still to come
                own = torch.baddbmm(own[:, 2:, 2:], own[:, 2:, :2] @ kick, own[:, :2, 2:])
        self._spread(g, 0.5 * self.model.hund * (spins[:, sites] - before), first, last)
        return accepted

    def _spread(self, g: Tensor, changes: Tensor, first: int, last: int) -> None:
        """Bring the changes [C, b, 3] of a block into the whole resolvent, G += G_:b (1 − V g)⁻¹ V G_b:."""
        count, _, size, _ = g.shape
        b = changes.shape[1]
        v = torch.zeros(count, b, 2, b, 2, dtype=g.dtype)
        at = torch.arange(b)
        v[:, at, :, at, :] = _pauli(changes).transpose(0, 1)
        v = v.reshape(count, 1, 2 * b, 2 * b)
        own = g[:, :, first:last, first:last]
        t = torch.linalg.solve(torch.eye(2 * b, dtype=g.dtype) - v @ own, v.expand_as(own))
        flat = g.flatten(0, 1)
        columns = flat[:, :, first:last].contiguous() @ t.flatten(0, 1)
        flat.baddbmm_(columns, flat[:, first:last].clone())


def tune(model: DoubleExchange, spins: Tensor, sweeps: int, rng: torch.Generator) -> tuple[Tensor, float]:
    """Warm up, and choose the step at which about half of the moves are accepted.

    Args:
        model: the physics.
        spins: [C, N, 3] to start from.
        sweeps: of the warm-up.
        rng: of the moves.

    Returns:
        The spins at its end, and the step.
    """
    step = STEP
    for _ in range(ROUNDS):
        spins, step = tune_once(model, spins, step, sweeps, rng)
    return spins, step


def tune_once(
    model: DoubleExchange, spins: Tensor, step: float, sweeps: int, rng: torch.Generator
) -> tuple[Tensor, float]:
    """One of the ``ROUNDS`` of ``tune``, which starts with ``STEP``; ``sweeps`` are those of all rounds together."""
    done = ExactChains(model, step).run(spins, max(1, sweeps // ROUNDS), rng)
    return done.spins[-1], float(np.clip(step * np.clip(done.acceptance / 0.5, 0.5, 2.0), 0.02, 5.0))


def _pauli(vectors: Tensor) -> Tensor:
    """v·σ, [..., 3] → [..., 2, 2] complex."""
    x, y, z = vectors.unbind(-1)
    flip, back = torch.complex(x, -y), torch.complex(x, y)
    z = torch.complex(z, torch.zeros_like(z))
    return torch.stack([torch.stack([z, flip], -1), torch.stack([back, -z], -1)], -2)


def _det(m: Tensor) -> Tensor:
    return m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]

"""Geometric tokens: items at places in space, with directions and numbers, in samples of any size.

Letters: N tokens of all samples, B samples, V vectors and S scalars of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from covarium.errors import CovariumError


class TokenOutput(NamedTuple):
    """What a model says of every token: vectors [N, V', 3] that turn with the system, and scalars [N, S']."""

    vectors: Tensor
    scalars: Tensor


class TokenModel(nn.Module):
    """What every model of tokens declares; ``forward(tokens, rng) -> TokenOutput``.

    Attributes:
        system: the kind of system it reads, for tables of models.
        group: under which it is equivariant; ``1`` for none.
    """

    system = "tokens"
    group: str

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that AdamW leaves undecayed, beside biases and vectors."""
        return set()


@dataclass(frozen=True)
class Tokens:
    """A batch of samples, packed one after another.

    Attributes:
        positions: [N, 3].
        vectors: [N, V, 3] directions: velocities, normals; they turn with the system and do not shift.
        scalars: [N, S] numbers that nothing changes: masses, distances.
        batch: [N] int64, the sample of each token, ascending.
        counts: [B] int64 tokens of each sample.
    """

    positions: Tensor
    vectors: Tensor
    scalars: Tensor
    batch: Tensor
    counts: Tensor

    @property
    def num_samples(self) -> int:
        return len(self.counts)

    @property
    def num_tokens(self) -> int:
        return len(self.positions)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tokens:
        """A copy on another device; ``dtype`` applies to what is not an index."""
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        return Tokens(**moved)

    def transform(self, g: Tensor) -> Tokens:
        """The group action: ``g`` is an orthogonal [3, 3] matrix (mirrors included)."""
        g = g.to(self.positions)
        return replace(self, positions=self.positions @ g.T, vectors=self.vectors @ g.T)

    def cost(self) -> int:
        """Relative cost of one pass, for balanced batches."""
        return sum(token_cost(int(n)) for n in self.counts.tolist())

    @staticmethod
    def sample(positions: Tensor, vectors: Tensor | None = None, scalars: Tensor | None = None) -> Tokens:
        """One sample of positions [N, 3], vectors [N, V, 3] and scalars [N, S].

        Raises:
            CovariumError: the shapes do not fit, or there are no tokens.
        """
        n = len(positions)
        vectors = positions.new_zeros(n, 0, 3) if vectors is None else vectors
        scalars = positions.new_zeros(n, 0) if scalars is None else scalars
        if n == 0 or positions.shape != (n, 3) or vectors.shape[::2] != (n, 3) or scalars.shape[:1] != (n,):
            shapes = [list(x.shape) for x in (positions, vectors, scalars)]
            raise CovariumError(f"tokens need positions [N, 3], vectors [N, V, 3], scalars [N, S] with N ≥ 1: {shapes}")
        zeros = torch.zeros(n, dtype=torch.int64, device=positions.device)
        return Tokens(positions, vectors, scalars, zeros, torch.tensor([n], device=positions.device))

    @staticmethod
    def collate(samples: Sequence[Tokens]) -> Tokens:
        """Join samples into one batch.

        Raises:
            CovariumError: nothing to join.
        """
        if not samples:
            raise CovariumError("a batch needs at least one sample, got none")
        counts = torch.cat([s.counts for s in samples])
        batch = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        positions, vectors, scalars = (
            torch.cat([getattr(s, name) for s in samples]) for name in ("positions", "vectors", "scalars")
        )
        return Tokens(positions, vectors, scalars, batch, counts)


def token_cost(tokens: int) -> int:
    """Of a sample: attention over all pairs beside a network on each token; equal at 1000 tokens or so."""
    return tokens + tokens * tokens // 1000

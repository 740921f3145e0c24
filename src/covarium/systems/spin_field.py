"""Classical spins on a periodic square lattice.

Letters: B fields in the batch, N = L² sites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from covarium.algebra.rotations import random_rotations
from covarium.errors import CovariumError
from covarium.systems.square_lattice import POINT_GROUP, permutation


class LatticeElement(NamedTuple):
    """An element of O(3) × (translations and point group of the lattice).

    Attributes:
        spin: [3, 3] orthogonal, acts on every spin alike.
        shift: translation in x and y.
        point: 0 … 7, see ``square_lattice.permutation``.
    """

    spin: Tensor
    shift: tuple[int, int]
    point: int

    def act(self, vectors: Tensor, size: int) -> Tensor:
        """[B, N, 3] vectors on the sites, turned and moved to where their sites go."""
        target = torch.from_numpy(permutation(size, self.shift, self.point)).to(vectors.device)
        return torch.empty_like(vectors).index_copy_(1, target, vectors @ self.spin.to(vectors).T)


def lattice_elements(size: int) -> Callable[[int, torch.Generator], list[LatticeElement]]:
    """Random elements for ``check_equivariance``: uniform on O(3), on translations and on the point group."""

    def sample(count: int, generator: torch.Generator) -> list[LatticeElement]:
        signs = 1 - 2 * torch.randint(2, (count, 1, 1), generator=generator)
        spin = random_rotations(count, generator) * signs
        shifts = torch.randint(size, (count, 2), generator=generator).tolist()
        points = torch.randint(POINT_GROUP, (count,), generator=generator).tolist()
        return [LatticeElement(g, (x, y), p) for g, (x, y), p in zip(spin, shifts, points, strict=True)]

    return sample


@dataclass(frozen=True)
class SpinField:
    """A batch of spin configurations of one lattice.

    Attributes:
        spins: [B, N, 3] unit vectors; site x + L·y.
        size: L.

    Raises:
        CovariumError: the shape does not fit the lattice.
    """

    spins: Tensor
    size: int

    def __post_init__(self) -> None:
        if self.spins.ndim != 3 or tuple(self.spins.shape[1:]) != (self.size**2, 3):
            raise CovariumError(
                f"spins on a lattice of size {self.size} are [fields, {self.size**2}, 3], got {list(self.spins.shape)}"
            )

    @property
    def num_fields(self) -> int:
        return self.spins.shape[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SpinField:
        """A copy on another device or in another precision."""
        return replace(self, spins=self.spins.to(device, dtype))

    def transform(self, g: LatticeElement) -> SpinField:
        """The group action: all spins turned alike, sites moved by a symmetry of the lattice."""
        return replace(self, spins=g.act(self.spins, self.size))

    def cost(self) -> int:
        """Relative cost of one pass, for balanced batches: pairs of sites."""
        return self.num_fields * self.size**4

    @staticmethod
    def collate(fields: Sequence[SpinField]) -> SpinField:
        """Join fields into one batch.

        Raises:
            CovariumError: none, or of different sizes.
        """
        sizes = sorted({field.size for field in fields})
        if len(sizes) != 1:
            raise CovariumError(f"a batch holds spin fields of one size, got sizes {sizes}")
        return SpinField(torch.cat([field.spins for field in fields]), sizes[0])

    @staticmethod
    def random(count: int, size: int, generator: torch.Generator) -> SpinField:
        """Fields of independent spins, uniform on the sphere, float64."""
        spins = torch.randn(count, size**2, 3, generator=generator, dtype=torch.float64)
        return SpinField(spins / spins.norm(dim=-1, keepdim=True), size)

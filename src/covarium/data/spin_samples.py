"""Spin configurations with the logarithm of their exact weight, as a data set.

Letters: B fields, N sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from covarium.errors import CovariumError
from covarium.systems.spin_field import SpinField


@dataclass(frozen=True)
class SpinBatch:
    """Fields with labels.

    Attributes:
        system: B fields.
        log_weight: [B] float64.
        sources: (chain of samples, index in it) of each field, for messages.
    """

    system: SpinField
    log_weight: Tensor
    sources: list[tuple[str, int]]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SpinBatch:
        """A copy on another device; ``dtype`` applies to the spins only."""
        return replace(self, system=self.system.to(device, dtype), log_weight=self.log_weight.to(device))


class SpinSamples:
    """Samples kept in memory.

    Args:
        system: all of them.
        log_weight: [B] float64.
        source: what to call them in messages.

    Raises:
        CovariumError: the numbers of fields and weights differ, or there are none.
    """

    def __init__(self, system: SpinField, log_weight: Tensor, source: str = "samples") -> None:
        if system.num_fields != len(log_weight) or not len(log_weight):
            raise CovariumError(f"{source}: {system.num_fields} spin fields have {len(log_weight)} weights")
        self.system, self.log_weight, self.source = system, log_weight, source

    def __len__(self) -> int:
        return len(self.log_weight)

    def costs(self) -> list[int]:
        """All alike."""
        return [self.system.size**2] * len(self)

    def batch(self, indices: Sequence[int]) -> SpinBatch:
        """The samples with these indices."""
        chosen = torch.as_tensor(indices)
        system = replace(self.system, spins=self.system.spins[chosen])
        return SpinBatch(system, self.log_weight[chosen], [(self.source, int(k)) for k in indices])

    def part(self, first: int, last: int) -> SpinSamples:
        """Samples ``first`` to before ``last``."""
        return SpinSamples(replace(self.system, spins=self.system.spins[first:last]), self.log_weight[first:last],
                           self.source)  # fmt: skip

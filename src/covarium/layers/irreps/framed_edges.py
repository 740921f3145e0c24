"""Edges with their frames, as the SO(2) convolutions of EquiformerV2 and V3 read them.

Letters: E edges, K basis functions, S coefficients (l-primary), R those with |m| ≤ M (m-primary, in the edge frame).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from covarium.layers.streaming import TiledEdges


@dataclass(frozen=True, kw_only=True)
class FramedEdges(TiledEdges):
    """
    Attributes:
        z: elements of source and target, [E] each.
        basis: [E, K].
        into: rotation into the edge frame [E, R, S].
        row_scale: what its R rows are multiplied by in the rotation back.
        envelope: [E], or None.
    """

    z: list[Tensor]
    basis: Tensor
    into: Tensor
    row_scale: tuple[float, ...]
    envelope: Tensor | None

    @cached_property
    def back(self) -> Tensor:
        """[E, S, R]."""
        scaled = max(self.row_scale) > 1
        back = self.into * self.into.new_tensor(self.row_scale).unsqueeze(1) if scaled else self.into
        return back.transpose(1, 2)

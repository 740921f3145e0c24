"""What a compiled graph is asked for, and the refusal where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from covarium.errors import CovariumError

Backend = str | Callable[..., Any]
# the axes of a graph's tensors whose lengths are left open
SIZES = {
    "positions": ("atoms",), "numbers": ("atoms",), "cell": ("graphs",), "pbc": ("graphs",), "batch": ("atoms",),
    "edge_index": (None, "edges"), "shifts": ("edges",), "charge": ("graphs",), "spin": ("graphs",), "tags": ("atoms",),
}  # fmt: skip


class CompilationError(CovariumError):
    """The potential cannot be compiled, or the compiled graph does not say what the potential says."""


class Asked(NamedTuple):
    """What a graph answers; ``trained``: it can be differentiated with respect to the weights."""

    forces: bool
    stress: bool
    trained: bool
    training: bool
    dtype: torch.dtype
    device: torch.device


def counted(sizes: Sequence[int]) -> str:
    return f"{sizes[0]:,} atoms, {sizes[1]:,} edges, {sizes[2]:,} structures"

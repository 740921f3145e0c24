"""What a compiled graph is asked for, and the refusal where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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
    """What a graph answers.

    Attributes:
        forces, stress: asked for; ``rules``: by which rule.
        trained: it can be differentiated with respect to weights, ``which``: to each one.
        training: dropout and the like are as in training; ``mixed``: of each module, where they differ.
    """

    forces: bool
    stress: bool
    trained: bool
    training: bool
    dtype: torch.dtype
    device: torch.device
    which: tuple[bool, ...] = ()
    rules: tuple[str | None, ...] = ()
    mixed: tuple[bool, ...] = ()


class Slot(NamedTuple):
    """Where a module holds a parameter or buffer; the tensor there may be another one at the next call."""

    name: str
    held_in: dict[str, Any]
    key: str

    @property
    def tensor(self) -> Tensor:
        value: Tensor = self.held_in[self.key]
        return value


def slots_of(model: nn.Module) -> list[Slot]:
    """All parameters and buffers, a shared one under every name."""
    return [
        Slot(f"{prefix}.{key}".lstrip("."), held_in, key)
        for prefix, module in model.named_modules()
        for held_in in (module._parameters, module._buffers)
        for key, value in held_in.items()
        if value is not None
    ]


def counted(sizes: Sequence[int]) -> str:
    return f"{sizes[0]:,} atoms, {sizes[1]:,} edges, {sizes[2]:,} structures"

"""Parts of a model that are exact where the rest of it is rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from covarium.algebra.rounding import rounded
from covarium.layers.twin import owner, twin


def unrounded_call(method: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - what the method takes and gives
    """``method(*arguments)`` of a module, or the module itself; in float64, its parameters too, where products are
    rounded."""
    module = owner(method)
    one = next(module.parameters())
    if not rounded(one.device):
        return method(*arguments)
    tensors = [t for t in [*module.parameters(), *module.buffers()] if t.is_floating_point()]
    exact = twin(module, tensors, [t.double() for t in tensors])
    given = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, arguments)
    with torch.autocast(one.device.type, enabled=False):
        return (exact if method is module else getattr(exact, method.__name__))(*given)

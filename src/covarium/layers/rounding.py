"""Parts of a model that are exact where the rest of it is rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from covarium.algebra.rounding import rounded
from covarium.layers.streaming import Method


def unrounded_call(method: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - what the method takes and gives
    """``method(*arguments)`` of a module, or the module itself; in float64, its parameters too, where products are
    rounded."""
    bound = Method(method.forward if isinstance(method, nn.Module) else method)
    one = next(bound.parameters())
    if not rounded(one.device):
        return method(*arguments)
    exact = {
        name: p.double() for name, p in [*bound.named_parameters(), *bound.named_buffers()] if p.is_floating_point()
    }
    given = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, arguments)
    with torch.autocast(one.device.type, enabled=False):
        return functional_call(bound, exact, given)

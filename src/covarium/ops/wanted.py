"""Which gradients a backward pass is to find."""

from __future__ import annotations

from typing import Any

import torch


def wanted(ctx: Any) -> list[bool]:  # noqa: ANN401
    """For each tensor that a function was given, whether this backward pass is to find its gradient;
    ``needs_input_grad`` knows only which it could be. Forces need no gradient of any weight, half of the work of this
    pass."""
    return [node is not None and _runs(node) for node, _ in ctx.next_functions]


def _runs(node: Any) -> bool:  # noqa: ANN401
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:
        # torch does not say this of a leaf whose own gradient is asked for: it is one
        return True

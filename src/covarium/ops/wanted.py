"""What a backward pass is really to find."""

from __future__ import annotations

from typing import Any

import torch


def wanted(ctx: Any) -> list[bool]:  # noqa: ANN401
    """Of which tensors given to a Function this backward pass is to find the gradient.

    ``needs_input_grad`` knows only of which it could be. Forces need no gradient of any weight, half of the work of
    that pass.
    """
    return [node is not None and _runs(node) for node, _ in ctx.next_functions]


def _runs(node: Any) -> bool:  # noqa: ANN401
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:
        # torch does not say this of a leaf whose own gradient is asked for: it is one
        return True

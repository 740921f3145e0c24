"""Where products of float32 may be rounded (TF32, autocast), what must not be is computed in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def rounded(device: torch.device) -> bool:
    """Whether torch may round the factors of products of float32 here and now."""
    return torch.get_float32_matmul_precision() != "highest" or torch.is_autocast_enabled(device.type)


def unrounded(x: Tensor) -> Tensor:
    """x, in float64 if its products would be rounded else. Its derivatives then are exact too, whenever they are
    computed, which a switch at the time of the product would not reach."""
    return x.double() if rounded(x.device) else x

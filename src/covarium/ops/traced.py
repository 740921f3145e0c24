"""Whether operations are being recorded instead of computed."""

from __future__ import annotations

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def traced(x: Tensor) -> bool:
    """Whether x stands for all tensors of its kind: it has sizes, perhaps unknown ones, but no values to ask for."""
    return isinstance(x, FakeTensor)

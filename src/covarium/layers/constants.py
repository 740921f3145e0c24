"""Constants of modules that stay exact when the module changes its dtype."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import nn


class ExactConstants(nn.Module):
    """A module whose float constants are derived from float64 again after every ``.to``.

    A plain buffer made in float32 and moved to float64 keeps its float32 rounding; these do not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: np.ndarray, *, stored: bool = False) -> None:
        """Register ``value`` (float64) as the buffer ``name``, in checkpoints if ``stored``: what is loaded from one
        then takes its place, as published files hold rounded values."""
        self._exact[name] = np.asarray(value, dtype=np.float64)
        self.register_buffer(name, torch.tensor(value, dtype=torch.get_default_dtype()), persistent=stored)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:  # noqa: ANN401
        super()._load_from_state_dict(state_dict, prefix, *rest)
        for name in self._exact.keys() - self._non_persistent_buffers_set:
            if prefix + name in state_dict:
                self._exact[name] = state_dict[prefix + name].double().cpu().numpy()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:  # noqa: ANN401 - torch's own signature
        super()._apply(fn, recurse)
        for name, value in self._exact.items():
            buffer = getattr(self, name)
            if not buffer.is_meta:
                setattr(self, name, torch.from_numpy(value).to(buffer))
        return self

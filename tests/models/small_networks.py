"""What the tests of all models look at: small structures, weights without special values, slopes by differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

WATER = np.array([[0.0, 0.0, 0.0], [0.8, 0.6, 0.1], [-0.7, 0.5, 0.9]])
ON_AXES = np.array([[0.0, 0.0, 0.0], [0.0, 1.1, 0.0], [0.0, -1.0, 0.0], [1.2, 0.0, 0.0]])
Network = TypeVar("Network", bound=nn.Module)


def scattered(make: Callable[[], Network], seed: int, size: float) -> Network:
    """A network in float64 with noise on every weight, so that zeros and ones of its beginning hide nothing."""
    torch.manual_seed(seed)
    network = make().double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p += size * torch.randn(p.shape, dtype=p.dtype)
    return network


def assert_weight_slopes(network: nn.Module, loss: Callable[[], Tensor], names: Iterable[str], rel: float) -> None:
    """The derivative with respect to the weight that matters most in each parameter, by central differences."""
    network.zero_grad()
    loss().backward()
    for name in names:
        weight = network.get_parameter(name)
        index = int(weight.grad.abs().argmax())
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight.view(-1)[index] += step
            values.append(float(loss().detach()))
            with torch.no_grad():
                weight.view(-1)[index] -= step
        slope = (values[0] - values[1]) / 2e-5
        assert slope == pytest.approx(float(weight.grad.view(-1)[index]), rel=rel), name

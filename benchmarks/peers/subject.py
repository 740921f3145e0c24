"""What is measured: one model with its optimiser on fixed inputs, and the clock and memory it is measured with."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Inputs = Mapping[str, np.ndarray]
Outputs = Mapping[str, Tensor]
Terms = Mapping[str, tuple[str, float]]  # quantity: loss, weight


@dataclass
class Subject:
    """
    Attributes:
        model: with all parameters.
        optimiser: of them.
        infer: energy [B], forces [N, 3] and perhaps stress [B, 3, 3], no graph kept.
        loss: the same with a graph, as one number.
        arrange: how the next pass is done, by the command for it; of a peer only training or not.
        variants: other ways to infer, by name.
        compile: takes what computes in the place of single operations, or None, of ours.
        check: error against stored numbers of the authors' code, of a peer that is no package.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    infer: Callable[[], Outputs]
    loss: Callable[[], Tensor]
    arrange: Callable[[Mapping[str, Any]], object] | None = None
    variants: Mapping[str, Callable[[], Outputs]] = field(default_factory=dict)
    compile: Callable[[object], None] | None = None
    check: Callable[[Path], float] | None = None

    def make_moments(self) -> int:
        """As any step but the first finds them; their bytes."""
        for p in self.model.parameters():
            p.grad = torch.zeros_like(p)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return sum(m.nbytes for state in self.optimiser.state.values() for m in state.values() if torch.is_tensor(m))

    def step(self) -> None:
        """One step of training."""
        self.optimiser.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimiser.step()


def weighted(terms: Terms, inputs: Inputs, found: Outputs) -> Tensor:
    """The loss that all sides share: means of absolute or squared errors, or of norms of rows."""
    total = torch.zeros((), dtype=torch.float32, device=found["energy"].device)
    for quantity, (loss, weight) in terms.items():
        label = torch.as_tensor(inputs[quantity], dtype=torch.float32, device=total.device)
        error = found[quantity].to(torch.float32) - label.reshape(found[quantity].shape)
        mean = {"mae": error.abs(), "mse": error.square(), "l2": error.norm(dim=-1)}[loss].mean()
        total = total + weight * mean
    return total


def detached(found: Outputs) -> dict[str, Tensor]:
    """Without a graph."""
    return {name: value.detach() for name, value in found.items()}


def on(device: str, array: np.ndarray) -> Tensor:
    """Real numbers in float32, indices as they are."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else None)


def seconds(function: Callable[[], object], device: str) -> float:
    """CPU seconds of this process; on a GPU those between two events around it."""
    if device == "cpu":
        start = time.process_time()
        function()
        return time.process_time() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def held(device: str) -> int:
    """Bytes in use now; the peak begins again here."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed while building is not in use
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident("VmRSS")


def most(device: str) -> int:
    """Most bytes in use since ``held``."""
    return resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()


def resident(name: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines)[name].split()[0])


def multiply_rate(device: str, size: int = 1024) -> float:
    """FLOP per second of a large product of two float32 matrices, by the faster library that torch has."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    products = [lambda: torch.mm(a, b)]
    if device == "cpu":
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    times = [float(np.median([seconds(product, device) for _ in range(9)][1:])) for product in products]
    return 2 * size**3 / min(times)

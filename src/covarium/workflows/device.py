"""Where the arithmetic is done."""

from __future__ import annotations

import os

import torch

from covarium.errors import CovariumError

# of weights; with tf32 and bf16 products are rounded, see ``arithmetic.arrange``
DTYPES = {"float32": torch.float32, "float64": torch.float64, "tf32": torch.float32, "bf16": torch.float32}


def choose_device(name: str | None = None) -> torch.device:
    """The device called ``name``; None for CUDA where there is one, else the CPU. Under ``torchrun`` each process
    gets the GPU of its local rank.

    Raises:
        CovariumError: no such device here, or the name is none.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CovariumError(f"device '{name}' is unknown; write cpu, cuda or cuda:1") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise CovariumError(
                f"device '{name}' is not available: torch {torch.__version__} sees no CUDA device; use --device cpu, "
                "or install a CUDA build of torch"
            )
        index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
        if index >= count:
            raise CovariumError(f"device '{name}' is not available: there are {count} CUDA devices, counted from 0")
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise CovariumError(f"device '{name}' cannot be used; allowed: cpu, cuda, cuda:1")
    return device


def use_threads(count: int | None) -> None:
    """Give torch ``count`` CPU threads; None leaves its own choice."""
    if count is not None:
        torch.set_num_threads(count)

"""The processes that train together. One process is the plain case: every operation then returns what it was given."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process's number and how many there are. Every method is called by all of them, in the same order."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over the ranks, sent as one message per dtype; new tensors on more than one rank."""
        if self.world == 1:
            return list(tensors)
        out = list(tensors)
        for dtype in {tensor.dtype for tensor in tensors}:
            chosen = [k for k, tensor in enumerate(tensors) if tensor.dtype == dtype]
            flat = torch.cat([tensors[k].reshape(-1) for k in chosen])
            dist.all_reduce(flat)
            for k, part in zip(chosen, flat.split([tensors[k].numel() for k in chosen]), strict=True):
                out[k] = part.view_as(tensors[k])
        return out

    def largest(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The largest of each value over the ranks: how all of them agree on a time or a flag."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401
        """The value of every rank, in order of rank, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors by those of the first rank."""
        for tensor in tensors if self.world > 1 else ():
            dist.broadcast(tensor.detach(), src=0)


def announced() -> Ranks:
    """The number that ``torchrun`` gave this process and how many it started, before they know of each other: nothing
    can be sent between these."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def launched(device: torch.device) -> Iterator[Ranks]:
    """The ranks that ``torchrun`` started this process among, or a single one.

    Args:
        device: ``cuda`` talks through NCCL, anything else through gloo.
    """
    if announced().world == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # torch's optimisers load this at first use, and with it functions whose default arguments keep the process group of
    # that moment for ever: its threads would outlive the interpreter, which then sometimes aborts. So load it before.
    importlib.import_module("torch._dynamo")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()

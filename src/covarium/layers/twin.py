"""A module with other tensors in it, beside the one that there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn


def owner(method: Callable[..., Any]) -> nn.Module:
    """The module that a method is of; a module's own is itself."""
    one: nn.Module = method if isinstance(method, nn.Module) else method.__self__  # type: ignore[attr-defined]
    return one


def twin(module: nn.Module, tensors: Sequence[Tensor], values: Sequence[Tensor]) -> nn.Module:
    """The module with ``values`` in the places of these parameters and buffers, wherever they are in it.

    It is itself left alone, since others may be using it at the same time (torch's ``functional_call`` puts the values
    into it for a while). What does not change is shared; what a twin sets on itself is lost.
    """
    by = {id(tensor): value for tensor, value in zip(tensors, values, strict=True)}
    made: dict[int, nn.Module] = {}

    def of(one: nn.Module) -> nn.Module:
        if id(one) not in made:
            other = made[id(one)] = object.__new__(type(one))
            other.__dict__ = dict(one.__dict__)
            for held in ("_parameters", "_buffers"):
                other.__dict__[held] = {name: by.get(id(t), t) for name, t in one.__dict__[held].items()}
            other.__dict__["_modules"] = {name: None if m is None else of(m) for name, m in one._modules.items()}
        return made[id(one)]

    return of(module)

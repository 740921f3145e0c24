"""Modules over edges, worked on tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from covarium.ops.tiled import Tile, tiled


def streamed(
    module: nn.Module,
    arguments: Callable[..., tuple[Any, ...]],
    tiles: Sequence[Tile],
    whole: Sequence[Tensor],
    sliced: Sequence[Tensor],
) -> Tensor:
    """``module`` on all edges, [N, …], with the memory of one tile; exact through second derivatives.

    Args:
        module: gives one row per target atom.
        arguments: ``arguments(tile, *whole, *rows of sliced)``, what the module is called with on a tile; no random
            numbers may be drawn inside.
        tiles: of the edges.
        whole: tensors that every tile reads; the module's parameters are among them by themselves.
        sliced: tensors [E, …] of which a tile reads its own rows.
    """
    names = [name for name, _ in module.named_parameters()]
    parameters = list(module.parameters())

    def function(tile: Tile, *tensors: Tensor) -> Tensor:
        own = dict(zip(names, tensors, strict=False))
        result: Tensor = functional_call(module, own, arguments(tile, *tensors[len(names) :]))
        return result

    return tiled(function, tiles, [*parameters, *whole], sliced)

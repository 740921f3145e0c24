"""Layers on multivectors [R, m·C, T] and scalars [T, S], equivariant under the group of their space.

Letters: R rows and m fibre elements of the space (K = R m components), C multivector channels, T tokens of all samples
one after another, S scalar channels, H heads, D channels of a head. See ``ops.multivector`` for the order of storage.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from covarium.algebra.spaces import Space


def stored(x: Float[Tensor, "T C K"], space: Space) -> Float[Tensor, "R mC T"]:
    """From components last, in the order of the algebra, to the order of storage."""
    order = torch.from_numpy(space.order).to(x.device)
    return x[..., order].permute(2, 3, 1, 0).reshape(space.rows, -1, x.shape[0])


def unstored(x: Float[Tensor, "R mC T"], space: Space) -> Float[Tensor, "T C K"]:
    """The inverse of ``stored``."""
    place = torch.from_numpy(space.order.ravel().argsort()).to(x.device)
    return components(x, space).flatten(0, 1)[place].permute(2, 1, 0)


def components(x: Float[Tensor, "R mC T"], space: Space) -> Float[Tensor, "R m C T"]:
    """The same numbers with fibre and channels apart."""
    return x.unflatten(1, (space.fibre, -1))

"""Rotations, and the deterministic frame of an edge. Convention of the library: the polar axis is +y."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def edge_frames(unit: Float[Tensor, "E 3"]) -> Float[Tensor, "E 3 3"]:
    """Rotations R with R r̂ = +y, one per unit vector, without angles.

    No single frame is smooth on the whole sphere, so there are two charts, chosen by the sign s of y. With y ≥ 0 it is
    the smallest rotation from r̂ to +y; with y < 0 the half turn diag(1, −1, −1) comes first. Both are polynomials in r̂
    divided by d = 1 + |y| ≥ 1: exact derivatives of every order on each chart, the poles included. Across the border
    y = 0 the frame turns about the edge, which layers that commute with that rotation do not notice.

    Args:
        unit: [E, 3] vectors of length one.

    Returns:
        [E, 3, 3] rotation matrices acting on column vectors.
    """
    x, y, z = unit.unbind(-1)
    s = torch.where(y < 0, -1.0, 1.0).to(unit.dtype)
    d = 1 + s * y
    xx, xz, zz = x * x / d, x * z / d, z * z / d
    rows = [1 - xx, -s * x, -xz, x, y, z, -s * xz, -z, s * (1 - zz)]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def random_rotations(
    count: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "count 3 3"]:
    """Rotations uniform on SO(3), from normalised Gaussian quaternions (K. Shoemake, Graphics Gems III, 1992)."""
    q = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return quaternion_to_matrix(q / q.norm(dim=-1, keepdim=True)).to(dtype)


def quaternion_to_matrix(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a unit quaternion (w, x, y, z)."""
    w, x, y, z = q.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))

"""Attention between multivectors and scalars through one fused dot product (Brehmer 2023, arXiv 2305.18415, Sec. 3;
distance features: de Haan 2023, arXiv 2311.04744, Eq. 9).

Letters: B samples, N items of a sample, H heads, c multivector and s scalar channels of a head, D their features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from covarium.algebra.spaces import PROJECTIVE, Space
from covarium.errors import CovariumError
from covarium.layers.constants import ExactConstants
from covarium.layers.multivector.linear import EquiLinear, Weights
from covarium.ops.gather import gather, scatter_sum
from covarium.systems import Tokens

DISTANCE_EPS = 1e-3


class Items(NamedTuple):
    """How the T tokens form samples.

    Attributes:
        sizes: (B, N), or (B, N₁, N₂) for axial attention; T is their product where ``places`` is None.
        places: [T] place of each token in a grid of B × N, where samples differ in size.
        mask: True where a query may attend to a key, [B or 1, H or 1, N or 1, N].
    """

    sizes: tuple[int, ...]
    places: Int[Tensor, " T"] | None = None
    mask: Bool[Tensor, "*spread"] | None = None

    @staticmethod
    def of(tokens: Tokens, axial: int | None = None) -> Items:
        """The samples of a batch, of any size, or grids with ``axial`` columns.

        Raises:
            CovariumError: the samples are no grids of one size.
        """
        counts = tokens.counts
        batch, longest = len(counts), int(counts.max())
        if axial is not None:
            if bool((counts != longest).any()) or longest % axial:
                sizes = sorted(set(counts.tolist()))
                raise CovariumError(f"model.axial = {axial} needs samples of one size, a multiple of it; got {sizes}")
            return Items((batch, longest // axial, axial))
        if bool((counts == longest).all()):
            return Items((batch, longest))
        real = torch.arange(longest, device=counts.device) < counts.unsqueeze(1)
        return Items((batch, longest), real.flatten().nonzero().squeeze(1), real[:, None, None, :])

    def split(self, x: Float[Tensor, "T H D"], axis: int) -> Float[Tensor, "B N H D"]:
        """Tokens as samples, along one axis of an axial grid."""
        if self.places is not None:
            x = scatter_sum(x, self.places, math.prod(self.sizes))
        x = x.unflatten(0, self.sizes)
        if len(self.sizes) == 3:
            x = (x.transpose(1, 2) if axis == 0 else x).flatten(0, 1)
        return x

    def merge(self, x: Float[Tensor, "B N H D"], axis: int) -> Float[Tensor, "T H D"]:
        """The inverse of ``split``."""
        if len(self.sizes) == 3:
            batch, one, two = self.sizes
            x = x.unflatten(0, (batch, two if axis == 0 else one))
            x = (x.transpose(1, 2) if axis == 0 else x).flatten(0, 1)
        x = x.flatten(0, 1)
        return x if self.places is None else gather(x, self.places)


def attend(
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T G D"],
    v: Float[Tensor, "T G V"],
    items: Items,
    *,
    scale: float,
    axis: int = 1,
) -> Float[Tensor, "T H V"]:
    """Softmax(scale · q·k) v within each sample, by torch's fused kernels.

    Args:
        q: queries.
        k: keys; G = H heads, or one for all (multi-query): then the heads become more queries, and nothing is copied.
        v: values.
        items: the samples.
        scale: of the logits.
        axis: of an axial grid, 0 or 1.

    The fused kernels have first derivatives only; under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` this can be
    derived twice.
    """
    heads, values, width = q.shape[1], v.shape[2], max(q.shape[2], v.shape[2])
    # the fused kernels of the CPU want queries, keys and values of one width
    q, k, v = (items.split(x if x.shape[2] == width else pad(x, (0, width - x.shape[2])), axis) for x in (q, k, v))
    batch, n = q.shape[:2]
    mask = items.mask
    if k.shape[2] < heads:
        q = q.reshape(batch, 1, n * heads, width)
        if mask is not None and mask.shape[1:3] != (1, 1):
            # queries are ordered (item, head)
            mask = mask.expand(batch, heads, n, n).transpose(1, 2).reshape(batch, 1, n * heads, n)
    else:
        q = q.transpose(1, 2)
    out = scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=scale)
    out = out.view(batch, n, heads, width) if k.shape[2] < heads else out.transpose(1, 2)
    return items.merge(out, axis)[..., :values]


class Features(ExactConstants):
    """Queries and keys whose dot product is the invariant attention logit of multivectors.

    The inner product of the algebra; with ``distances`` (projective space) its e123 part is replaced by features
    φ(q)·ψ(k) = −w |p_q − p_k|² of points, with (p, w₀) the trivector scaled by w₀/(w₀² + 1e-3).
    """

    signs: Tensor

    def __init__(self, space: Space, *, distances: bool) -> None:
        super().__init__()
        if distances and space != PROJECTIVE:
            raise CovariumError("distance features are made of the trivectors of projective space")
        self.space, self.distances = space, distances
        metric = space.algebra.metric[space.order]
        self.fibres = int((np.abs(metric).max(axis=0) > 0).sum())
        self.rows = space.rows - 1 if distances else space.rows
        self.constant("signs", metric[: self.rows, : self.fibres])
        self.definite = bool((metric >= 0).all())
        self.count = self.rows * self.fibres + (5 if distances else 0)

    def queries(self, x: Float[Tensor, "R m H c T"], weights: Float[Tensor, "H c"] | None) -> Float[Tensor, "T H D"]:
        """``weights``: of the distance part."""
        parts = [x[: self.rows, : self.fibres].flatten(0, 1)]
        if not self.definite:
            parts[0] = parts[0] * self.signs.flatten()[:, None, None, None]
        if self.distances:
            p, w = self._points(x)
            phi = torch.cat([p.square().sum(0, keepdim=True), w.square(), w * p])
            parts.append(phi if weights is None else phi * weights.unsqueeze(2))
        return tokens_first(torch.cat(parts) if len(parts) > 1 else parts[0])

    def keys(self, x: Float[Tensor, "R m G c T"]) -> Float[Tensor, "T G D"]:
        """The other side of the dot product."""
        parts = [x[: self.rows, : self.fibres].flatten(0, 1)]
        if self.distances:
            p, w = self._points(x)
            parts.append(torch.cat([-w.square(), -p.square().sum(0, keepdim=True), 2 * w * p]))
        return tokens_first(torch.cat(parts) if len(parts) > 1 else parts[0])

    def _points(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Components e0ij [3, …] and e123 [1, …], scaled: rows 4 to 6 are e_ij, row 7 is e123."""
        # copies, or the graph would keep all components for the sake of these four
        w, p = x[7:8, 0].clone(), x[4:7, 1].clone()
        factor = w / (w.square() + DISTANCE_EPS)
        return p * factor, w * factor


def tokens_first(x: Float[Tensor, "F H c T"]) -> Float[Tensor, "T H Fc"]:
    """In two copies that both run along memory: rows into place, then one matrix transposed."""
    rows = x.transpose(0, 1).reshape(-1, x.shape[3])
    return rows.t().contiguous().unflatten(1, (x.shape[1], -1))


class SelfAttention(nn.Module):
    """Queries, keys and values by equivariant linear maps, attention, and a linear map of all heads.

    Widths of a head (official code): factor·C/H multivector channels, at least 1, and factor·S/H scalar ones, at least
    4 (with rotary encoding even and at least 8).

    Args:
        space: of the multivectors.
        channels: of multivectors and scalars, in and out.
        heads: H.
        multi_query: one head of keys and values for all queries.
        distances: see ``Features``.
        factor: of the widths of a head.
        rotary: turn scalar queries and keys by angles proportional to the item's place (Su 2021, arXiv 2104.09864);
            the base of the frequencies, or None.
        extra: more multivector and scalar channels for queries and keys (and, as in the official code, for the values
            unless multi-query), the reinserted inputs.
    """

    def __init__(
        self,
        space: Space,
        channels: tuple[int, int],
        heads: int,
        *,
        multi_query: bool,
        distances: bool,
        factor: int = 2,
        rotary: float | None = None,
        extra: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        mv, s = channels
        self.space, self.heads, self.multi_query = space, heads, multi_query
        self.extra = any(extra)
        self.mv, self.s = max(factor * mv // heads, 1), max(factor * s // heads, 4)
        if rotary is not None:
            self.s = max((self.s + 1) // 2 * 2, 8)
        one, all_heads = (self.mv, self.s), (heads * self.mv, heads * self.s)
        self.qkv_module = nn.ModuleDict()
        if multi_query:
            for name, (out_mv, out_s) in (("q_linear", all_heads), ("k_linear", one), ("v_linear", one)):
                more = (0, 0) if name == "v_linear" else extra
                self.qkv_module[name] = EquiLinear(space, mv + more[0], out_mv, s + more[1], out_s)
        else:
            self.qkv_module["in_linear"] = EquiLinear(
                space, mv + extra[0], 3 * all_heads[0], s + extra[1], 3 * all_heads[1]
            )
        # the official code starts all weights of distances at one
        self.attention = nn.ParameterDict({"log_weights": torch.zeros(heads, 1, self.mv)} if distances else {})
        self.features = Features(space, distances=distances)
        self.pos_encoding = None if rotary is None else RotaryEncoding(self.s, rotary)
        self.out_linear = EquiLinear(space, *(all_heads[0], mv, all_heads[1], s), init="small")

    def forward(
        self,
        x: Float[Tensor, "R mC T"],
        s: Float[Tensor, "T S"],
        items: Items,
        extra: tuple[Tensor, Tensor] | None = None,
        axis: int = 1,
    ) -> tuple[Float[Tensor, "R mC T"], Float[Tensor, "T S"]]:
        """``extra``: reinserted multivectors [R, m·X, T] and scalars [T, Y]; ``axis``: of an axial grid."""
        (qx, qs), (kx, ks), (vx, vs) = self._projected(x, s, extra)
        weights = self.attention["log_weights"].exp().squeeze(1) if self.features.distances else None
        q = self.features.queries(qx, weights)
        k = self.features.keys(kx)
        if self.pos_encoding is not None:
            qs, ks = (self.pos_encoding(part, items, axis) for part in (qs, ks))
        scale = 1 / math.sqrt(self.features.count * self.mv + self.s)
        v = torch.cat([tokens_first(vx.flatten(0, 1)), vs], dim=2)
        out = attend(torch.cat([q, qs], dim=2), torch.cat([k, ks], dim=2), v, items, scale=scale, axis=axis)
        return self.out_linear(*self._joined(out))

    def _projected(self, x: Tensor, s: Tensor, extra: tuple[Tensor, Tensor] | None) -> list[tuple[Tensor, Tensor]]:
        """Queries, keys and values: multivectors [R, m, heads, c, T] and scalars [T, heads, s]."""
        more = (x, s) if extra is None else (self._wider(x, extra[0]), torch.cat([s, extra[1]], dim=1))
        h = self.heads
        if not self.multi_query:
            layer = self._linear("in_linear")
            y, t = layer.using(layer.weights().heads_first(3, h), *more)
            assert t is not None
            mv, scalars = self._parts(y, 3 * h), t.unflatten(1, (3 * h, self.s))
            return list(zip(mv.split(h, dim=2), scalars.split(h, dim=1), strict=True))
        q, k, v = (self._linear(name) for name in ("q_linear", "k_linear", "v_linear"))
        weights = [q.weights().heads_first(1, h), k.weights()]
        if not self.extra:
            weights.append(v.weights())
        y, t = q.using(Weights.join(weights), *more)
        assert t is not None
        heads = [h, *[1] * (len(weights) - 1)]
        mv, scalars = self._parts(y, sum(heads)), t.unflatten(1, (-1, self.s))
        found = list(zip(mv.split(heads, dim=2), scalars.split(heads, dim=1), strict=True))
        if self.extra:
            y, t = v(x, s)
            assert t is not None
            found.append((self._parts(y, 1), t.unflatten(1, (1, self.s))))
        return found

    def _linear(self, name: str) -> EquiLinear:
        layer = self.qkv_module[name]
        assert isinstance(layer, EquiLinear)
        return layer

    def _parts(self, y: Tensor, heads: int) -> Tensor:
        return y.unflatten(1, (self.space.fibre, heads, self.mv))

    def _wider(self, x: Tensor, extra: Tensor) -> Tensor:
        """Channels of both, in each fibre element."""
        m = self.space.fibre
        return torch.cat([x.unflatten(1, (m, -1)), extra.unflatten(1, (m, -1))], dim=2).flatten(1, 2)

    def _joined(self, out: Float[Tensor, "T H V"]) -> tuple[Tensor, Tensor]:
        """Heads as channels: multivectors [R, m·H·c, T] and scalars [T, H·s]."""
        space, width = self.space, self.space.algebra.size * self.mv
        flat = out[..., :width].reshape(out.shape[0], -1).t().contiguous()
        mv = flat.view(self.heads, space.rows, space.fibre, self.mv, -1).permute(1, 2, 0, 3, 4)
        return mv.reshape(space.rows, -1, out.shape[0]), out[..., width:].reshape(out.shape[0], -1)


class RotaryEncoding(ExactConstants):
    """Pairs (i, i + s/2) of scalar channels turned by place · base^(−2i/s)."""

    inv_freq: Tensor

    def __init__(self, channels: int, base: float) -> None:
        super().__init__()
        self.constant("inv_freq", float(base) ** (-np.arange(0, channels, 2) / channels))

    def forward(self, s: Float[Tensor, "T H s"], items: Items, axis: int = 1) -> Float[Tensor, "T H s"]:
        """The place of an item is counted from 0 along its axis of the sample."""
        grid = torch.arange(math.prod(items.sizes), device=s.device)
        if items.places is not None:
            grid = grid[items.places]
        last = items.sizes[-1]
        place = grid // last % items.sizes[1] if len(items.sizes) == 3 and axis == 0 else grid % last
        angles = (place.to(s.dtype).unsqueeze(1) * self.inv_freq).repeat(1, 2).unsqueeze(1)
        one, two = s.chunk(2, dim=2)
        return s * angles.cos() + torch.cat([-two, one], dim=2) * angles.sin()

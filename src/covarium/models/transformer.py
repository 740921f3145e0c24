"""The plain transformer that GATr is measured against: no symmetry, the same tokens (Brehmer 2023, arXiv 2305.18415,
App. C).

Pre-norm blocks, norms without parameters, exact GELU, hidden width twice the channels. Letters: T tokens of all
samples, C channels, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from covarium.errors import CovariumError
from covarium.layers.linear import Linear
from covarium.layers.multivector.attention import Items, RotaryEncoding, attend
from covarium.systems import TokenModel, TokenOutput, Tokens


@dataclass(frozen=True)
class Config:
    """Sizes and switches; defaults are sized for a CPU, the published n-body baseline has 384 channels, 10 blocks, 8
    heads.

    Attributes:
        in_channels: numbers of a token: 3 for its position, 3 for each vector, its scalars.
        out_vectors, out_scalars: what comes out, 3 channels for each vector.
        multi_query: one head of keys and values for all queries.
        head_factor: a head has head_factor · channels / heads channels.
        axial, rotary, rotary_base: see ``covarium.models.gatr.Config``.
    """

    in_channels: int = 3
    out_vectors: int = 1
    out_scalars: int = 0
    hidden_channels: int = 128
    num_blocks: int = 6
    num_heads: int = 4
    multi_query: bool = False
    head_factor: int = 1
    axial: int | None = None
    rotary: tuple[bool, ...] = (False,)
    rotary_base: float = 4096.0

    def __post_init__(self) -> None:
        for name in ("in_channels", "hidden_channels", "num_blocks", "num_heads", "head_factor", "axial"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CovariumError(f"model.{name} must be at least 1, got {value}")
        if min(self.out_vectors, self.out_scalars) < 0 or self.out_channels < 1:
            raise CovariumError(
                f"model.out_vectors and model.out_scalars are 0 or more, one of them more; got {self.out_vectors} and "
                f"{self.out_scalars}"
            )
        if self.hidden_channels < self.num_heads:
            raise CovariumError(f"model.hidden_channels must be at least num_heads = {self.num_heads}")
        if len(self.rotary) != (1 if self.axial is None else 2):
            raise CovariumError(f"model.rotary has one entry per axis, two with model.axial; got {self.rotary}")

    @property
    def out_channels(self) -> int:
        return 3 * self.out_vectors + self.out_scalars

    @staticmethod
    def for_tokens(vectors: int, scalars: int, out_vectors: int, out_scalars: int) -> dict[str, int]:
        """The fields that the data decide."""
        return {"in_channels": 3 + 3 * vectors + scalars, "out_vectors": out_vectors, "out_scalars": out_scalars}


class Attention(nn.Module):
    """Queries, keys and values by linear maps, attention, and a linear map of all heads."""

    def __init__(self, config: Config, rotary: bool) -> None:
        super().__init__()
        c = self.config = config
        self.width = c.head_factor * (c.hidden_channels // c.num_heads)
        if rotary:
            self.width = max((self.width + 1) // 2 * 2, 16)
        everything = c.num_heads * self.width
        widths = (
            {"q_linear": everything, "k_linear": self.width, "v_linear": self.width}
            if c.multi_query
            else {"linear": 3 * everything}
        )
        self.qkv_linear = nn.ModuleDict({name: Linear(c.hidden_channels, width) for name, width in widths.items()})
        self.pos_encoding = RotaryEncoding(self.width, c.rotary_base) if rotary else None
        self.out_linear = Linear(everything, c.hidden_channels)

    def forward(self, x: Float[Tensor, "T C"], items: Items, axis: int) -> Float[Tensor, "T C"]:
        """``axis``: of an axial grid."""
        heads, maps = self.config.num_heads, self.qkv_linear
        # channels come as (channel, head)
        if self.config.multi_query:
            q = maps["q_linear"](x).unflatten(1, (-1, heads)).transpose(1, 2)
            k, v = maps["k_linear"](x).unsqueeze(1), maps["v_linear"](x).unsqueeze(1)
        else:
            q, k, v = maps["linear"](x).unflatten(1, (3, -1, heads)).transpose(2, 3).unbind(1)
        if self.pos_encoding is not None:
            q, k = (self.pos_encoding(part, items, axis) for part in (q, k))
        out = attend(q, k, v, items, scale=1 / math.sqrt(self.width), axis=axis)
        return self.out_linear(out.flatten(1))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: Config, axis: int) -> None:
        super().__init__()
        c = config.hidden_channels
        self.axis = axis
        self.attention = Attention(config, config.rotary[axis if config.axial else 0])
        self.mlp = nn.Sequential(Linear(c, 2 * c), nn.GELU(), Linear(2 * c, c))

    def forward(self, x: Float[Tensor, "T C"], items: Items) -> Float[Tensor, "T C"]:
        x = x + self.attention(layer_norm(x, x.shape[-1:]), items, self.axis)
        return x + self.mlp(layer_norm(x, x.shape[-1:]))


class Transformer(TokenModel):
    """``forward(tokens) -> TokenOutput``; ``network`` takes any numbers. Parameter names are the official ones."""

    group = "1"

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        self.linear_in = Linear(c.in_channels, c.hidden_channels)
        self.blocks = nn.ModuleList(Block(c, axis=(k + 1) % 2) for k in range(c.num_blocks))
        self.linear_out = Linear(c.hidden_channels, c.out_channels)

    def network(self, x: Float[Tensor, "T I"], items: Items) -> Float[Tensor, "T O"]:
        """The network on plain numbers; for axial attention ``items`` have sizes (B, N₁, N₂)."""
        x = self.linear_in(x)
        for block in self.blocks:
            x = block(x, items)
        return self.linear_out(x)

    def forward(self, tokens: Tokens, rng: torch.Generator | None = None) -> TokenOutput:
        """Vectors [N, out_vectors, 3] and scalars [N, out_scalars].

        Raises:
            CovariumError: the tokens have other vectors or scalars than the Config says, or do not fill an axial grid.
        """
        c = self.config
        features = torch.cat([tokens.positions, tokens.vectors.flatten(1), tokens.scalars], dim=1)
        if features.shape[1] != c.in_channels:
            raise CovariumError(
                f"tokens have 3 + 3 · {tokens.vectors.shape[1]} + {tokens.scalars.shape[1]} numbers, the model reads "
                f"model.in_channels = {c.in_channels}"
            )
        out = self.network(features, Items.of(tokens, c.axial))
        return TokenOutput(out[:, : 3 * c.out_vectors].unflatten(1, (c.out_vectors, 3)), out[:, 3 * c.out_vectors :])

"""The geometric algebra transformer in four spaces: E-, P-, iP- and C-GATr.

Brehmer, de Haan, Behrends, Cohen 2023, arXiv 2305.18415 (projective, with join: "iP" here as in the follow-up);
de Haan, Cohen, Brehmer 2023, arXiv 2311.04744 (Euclidean, projective without join, conformal). iP follows the official
code where it differs from the paper, number by number; for the others no official code exists.

Letters: T tokens of all samples, C multivector channels, S scalar channels, K components, R rows and m fibre elements
of the space. Public functions take components last, [T, C, K], in the order of the algebra; inside they come first,
[R, m·C, T], see ``layers.multivector``.

| variant | algebra | product | attention sees | equivariant under |
|---|---|---|---|---|
| E  | Cl(3, 0)    | geometric             | inner product, 8 numbers                | O(3)  |
| P  | Cl(3, 0, 1) | geometric             | inner product, 8 numbers, no distances  | SE(3) |
| iP | Cl(3, 0, 1) | geometric and join    | inner product and distances, 7 + 5      | SE(3) |
| C  | Cl(4, 1)    | geometric             | inner product, 32 numbers, −distance²/2 | E(3)  |

The networks of P and iP commute with all of Pin(3, 0, 1). Their points, trivectors, change sign under a mirror beside
what the embedding of the mirrored position says, so for tokens the mirrors are lost. Attention runs through fused
kernels, which have first derivatives only (see ``layers.multivector.attention.attend``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from covarium.algebra.objects import Conformal, Euclidean, Projective
from covarium.algebra.spaces import CONFORMAL, EUCLIDEAN, PROJECTIVE, Space
from covarium.errors import CovariumError
from covarium.layers.multivector import components, stored, unstored
from covarium.layers.multivector.attention import Items, SelfAttention
from covarium.layers.multivector.bilinear import Activation, GeoMLP
from covarium.layers.multivector.linear import EquiLinear
from covarium.layers.multivector.norm import EquiNorm
from covarium.ops.gather import gather, scatter_sum
from covarium.systems import TokenModel, TokenOutput, Tokens

Variant = Literal["E", "P", "iP", "C"]


class Kind(NamedTuple):
    """A space, whether products include the join, whether attention has distance features, the group for tokens."""

    space: Space
    join: bool
    distances: bool
    group: str


VARIANTS: dict[Variant, Kind] = {
    "E": Kind(EUCLIDEAN, False, False, "O(3)"),
    "P": Kind(PROJECTIVE, False, False, "SE(3)"),
    "iP": Kind(PROJECTIVE, True, True, "SE(3)"),
    "C": Kind(CONFORMAL, False, False, "E(3)"),
}


@dataclass(frozen=True)
class Config:
    """Sizes and switches. Defaults: improved projective, sized for a CPU.

    Attributes:
        variant: see the table above.
        in_mv_channels, in_s_channels: of tokens: 1 + vectors, and scalars.
        out_mv_channels, out_s_channels: of tokens: one per vector that comes out, and scalars.
        multi_query: one head of keys and values for all queries.
        head_factor: a head has head_factor · channels / heads channels.
        activation: of gates and scalars.
        axial: N₂ where samples are grids of N₁ × N₂ tokens, rows one after another; blocks 0, 2, … attend along N₂,
            blocks 1, 3, … along N₁. None for attention between all tokens of a sample.
        rotary: positional encoding along the items; of an axial grid for (N₁, N₂).
        rotary_base: of its frequencies.
        join_reference: ``data``, the mean of the inputs of each sample, or ``canonical``, 1.
        reinsert_mv_channels, reinsert_s_channels: inputs that queries and keys see again in each block.
    """

    variant: Variant = "iP"
    in_mv_channels: int = 1
    out_mv_channels: int = 1
    in_s_channels: int = 0
    out_s_channels: int = 0
    hidden_mv_channels: int = 8
    hidden_s_channels: int = 32
    num_blocks: int = 6
    num_heads: int = 4
    multi_query: bool = True
    head_factor: int = 2
    activation: Activation = "gelu"
    axial: int | None = None
    rotary: tuple[bool, ...] = (False,)
    rotary_base: float = 4096.0
    join_reference: Literal["data", "canonical"] = "data"
    reinsert_mv_channels: tuple[int, ...] = ()
    reinsert_s_channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("in_mv_channels", "out_mv_channels", "hidden_mv_channels", "hidden_s_channels", "num_blocks",
                     "num_heads", "head_factor", "axial"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CovariumError(f"model.{name} must be at least 1, got {value}")
        for name in ("in_s_channels", "out_s_channels"):
            if getattr(self, name) < 0:
                raise CovariumError(f"model.{name} must be 0 or more, got {getattr(self, name)}")
        if len(self.rotary) != (1 if self.axial is None else 2):
            raise CovariumError(f"model.rotary has one entry per axis, two with model.axial; got {self.rotary}")
        for name, allowed in (("mv", self.in_mv_channels), ("s", self.in_s_channels)):
            for channel in getattr(self, f"reinsert_{name}_channels"):
                if not 0 <= channel < allowed:
                    raise CovariumError(
                        f"model.reinsert_{name}_channels must lie below in_{name}_channels = {allowed}, got {channel}"
                    )

    @classmethod
    def published(cls, **sizes: Any) -> Self:  # noqa: ANN401 - fields of Config
        """The sizes of the official n-body network (iP): 10 blocks, 16 multivector and 128 scalar channels, 8 heads."""
        return cls(**({"hidden_mv_channels": 16, "hidden_s_channels": 128, "num_blocks": 10, "num_heads": 8} | sizes))

    @staticmethod
    def for_tokens(vectors: int, scalars: int, out_vectors: int, out_scalars: int) -> dict[str, int]:
        """The fields that the data decide."""
        return {
            "in_mv_channels": 1 + vectors,
            "in_s_channels": scalars,
            "out_mv_channels": max(out_vectors, 1),
            "out_s_channels": out_scalars,
        }


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) (arXiv 2305.18415, Fig. 1)."""

    def __init__(self, config: Config, axis: int) -> None:
        super().__init__()
        c, kind = config, VARIANTS[config.variant]
        self.axis = axis
        self.norm = EquiNorm(kind.space)
        self.attention = SelfAttention(
            kind.space, (c.hidden_mv_channels, c.hidden_s_channels), c.num_heads, factor=c.head_factor,
            multi_query=c.multi_query, distances=kind.distances,
            rotary=c.rotary_base if c.rotary[axis if c.axial else 0] else None,
            extra=(len(c.reinsert_mv_channels), len(c.reinsert_s_channels)),
        )  # fmt: skip
        self.mlp = GeoMLP(kind.space, c.hidden_mv_channels, c.hidden_s_channels, c.activation, join=kind.join)

    def forward(
        self, x: Tensor, s: Tensor, items: Items, reference: Tensor, extra: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """[R, m·C, T] and [T, S]."""
        y, t = self.attention(*self.norm(x, s), items, extra, self.axis)
        x, s = x + y, s + t
        y, t = self.mlp(*self.norm(x, s), reference)
        return x + y, s + t


class GATr(TokenModel):
    """``forward(tokens) -> TokenOutput``; ``network`` takes any multivectors.

    A token's position becomes a point, each of its vectors a plane through it (in the Euclidean space both are
    vectors: centre the positions). Each multivector that comes out is read as a vector, after the token was moved to
    the origin: so that the answer is exactly equivariant without a division. Parameter names are the official ones.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        kind = VARIANTS[c.variant]
        self.space, self.group = kind.space, kind.group
        mv, s = c.hidden_mv_channels, c.hidden_s_channels
        self.linear_in = EquiLinear(kind.space, c.in_mv_channels, mv, c.in_s_channels, s)
        self.blocks = nn.ModuleList(Block(c, axis=(k + 1) % 2) for k in range(c.num_blocks))
        self.linear_out = EquiLinear(kind.space, mv, c.out_mv_channels, s, c.out_s_channels)

    def network(
        self,
        multivectors: Float[Tensor, "T C K"],
        scalars: Float[Tensor, "T S"] | None,
        items: Items,
        reference: Float[Tensor, " T"] | None = None,
    ) -> tuple[Float[Tensor, "T C2 K"], Float[Tensor, "T S2"] | None]:
        """The network on multivectors.

        Args:
            multivectors: components last.
            scalars: None without.
            items: the samples; for axial attention sizes (B, N₁, N₂).
            reference: what the join is multiplied by; None for that of the Config.
        """
        c = self.config
        x = stored(multivectors, self.space)
        if reference is None:
            reference = self._reference(multivectors, items)
        extra = None
        if c.reinsert_mv_channels or c.reinsert_s_channels:
            channels = components(x, self.space)[:, :, list(c.reinsert_mv_channels)].flatten(1, 2)
            empty = multivectors.new_zeros(len(multivectors), 0)
            extra = (channels, empty if scalars is None else scalars[:, list(c.reinsert_s_channels)])
        x, s = self.linear_in(x, scalars)
        for block in self.blocks:
            x, s = block(x, s, items, reference, extra)
        x, s = self.linear_out(x, s)
        return unstored(x, self.space), s

    def _reference(self, multivectors: Tensor, items: Items) -> Tensor:
        """[T]: the e123 component of the mean over tokens and channels of each sample (official code; the paper writes
        the pseudoscalar, which for points is zero), or 1."""
        if self.config.join_reference == "canonical" or not VARIANTS[self.config.variant].join:
            return multivectors.new_ones(len(multivectors))
        own = multivectors[..., self.space.algebra.index[(1, 2, 3)]].mean(1)
        batch, longest = items.sizes[0], math.prod(items.sizes[1:])
        if items.places is None:
            return own.view(batch, longest).mean(1, keepdim=True).expand(batch, longest).reshape(-1)
        sample = items.places // longest
        counts = torch.bincount(sample, minlength=batch).to(own.dtype)
        return gather(scatter_sum(own, sample, batch) / counts, sample)

    def forward(self, tokens: Tokens, rng: torch.Generator | None = None) -> TokenOutput:
        """Vectors [N, out_mv_channels, 3] and scalars [N, out_s_channels].

        Raises:
            CovariumError: the tokens have other vectors or scalars than the Config says, or do not fill an axial grid.
        """
        scalars = tokens.scalars if self.config.in_s_channels else None
        mv, s = self.network(self._embed(tokens), scalars, Items.of(tokens, self.config.axial))
        return TokenOutput(self._read(mv, tokens), mv.new_zeros(len(mv), 0) if s is None else s)

    def _embed(self, tokens: Tokens) -> Tensor:
        """[N, 1 + V, K]."""
        c, found = self.config, (1 + tokens.vectors.shape[1], tokens.scalars.shape[1])
        if found != (c.in_mv_channels, c.in_s_channels):
            raise CovariumError(
                f"tokens have {found[0] - 1} vectors and {found[1]} scalars, the model reads {c.in_mv_channels - 1} "
                f"and {c.in_s_channels} (model.in_mv_channels − 1, model.in_s_channels)"
            )
        p, v = tokens.positions, tokens.vectors
        if c.variant == "E":
            return Euclidean().direction(torch.cat([p.unsqueeze(1), v], dim=1))
        objects = Conformal() if c.variant == "C" else Projective()
        planes = objects.plane(v, (v * p.unsqueeze(1)).sum(-1))
        return torch.cat([objects.point(p).unsqueeze(1), planes], dim=1)

    def _read(self, mv: Tensor, tokens: Tokens) -> Tensor:
        """[N, V', 3]: what is left of a point of weight w at x when its token p is moved to the origin, x − w p, and
        the normal of a plane; both are vectors under the group."""
        p = tokens.positions.unsqueeze(1)
        match self.config.variant:
            case "E":
                return Euclidean().read_direction(mv)
            case "C":
                v, weight, _ = Conformal().parts(mv)
                return v - weight.unsqueeze(2) * p
            case _:
                index = self.space.algebra.index
                normal = mv[..., [index[(1,)], index[(2,)], index[(3,)]]]
                return normal + Projective().read_direction(mv) - mv[..., index[(1, 2, 3)], None] * p

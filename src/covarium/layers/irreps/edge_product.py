"""Depth-wise tensor products with the harmonics of an edge, as SO(2) maps in the frame of that edge.

Where the edge is the polar axis its harmonics have m = 0 only, and a path (l₁, l_Y, l) of the Clebsch–Gordan product
takes m to m if l₁ + l_Y + l is even, to −m (with opposite signs for ±m, so nothing at m = 0) if it is odd. Of the dense
product over (m₁, m_Y, m) one number per path and m is left (cf. Passaro 2023, arXiv 2302.03655).

Letters: E edges, Y harmonics with |Y_l|² = 2l + 1, W weights of a product (one per path and channel), a node (k, m) is
order m of entry k. Features in the frame are lists over the entries of irreps_in, [E, rows, mul]; rows is 2l + 1, or 1
where m = 0 alone is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from covarium.algebra.clebsch_gordan import wigner_3j
from covarium.algebra.irreps import SCALAR, Irreps
from covarium.layers.constants import ExactConstants
from covarium.ops.dense import dense
from covarium.ops.traced import traced

Node = tuple[int, int]


class Path(NamedTuple):
    """One term: entry ``source`` of degree ``l1`` times Y of degree ``ly`` to entry ``target`` of degree ``l``.

    Its ``mul`` weights begin at ``weight``, its rows in the following linear map of the target at ``row``.
    """

    source: int
    l1: int
    ly: int
    target: int
    l: int
    mul: int
    weight: int
    row: int

    @property
    def odd(self) -> bool:
        return (self.l1 + self.ly + self.l) % 2 == 1

    def into(self, m: int) -> int:
        """The order of the source that order ``m`` of the target reads."""
        return -m if self.odd else m

    def reaches(self, m: int) -> bool:
        return abs(m) <= min(self.l1, self.l) and not (self.odd and m == 0)

    def coefficient(self, m: int) -> float:
        """√(2l+1) · w3j · Y_{l_Y, 0} ('component' normalisation), in the sign convention of e3nn 0.4."""
        w = wigner_3j(self.l1, self.ly, self.l)[self.l1 + self.into(m), self.ly, self.l + m]
        lowest, *equal = sorted((self.l1, self.ly, self.l))
        # up to degree 3 its tables differ from Condon and Shortley in this case alone
        sign = -1.0 if lowest == 1 and equal[0] == equal[1] > 1 else 1.0
        return sign * math.sqrt((2 * self.l + 1) * (2 * self.ly + 1)) * float(w)


@dataclass(frozen=True)
class DepthwiseProduct:
    """All paths from ``irreps_in`` times the harmonics to irreps that are wanted; each channel stays by itself.

    Attributes:
        irreps_in: of the features.
        irreps_out: what comes out, per irrep the channels of all its paths.
        paths: in the order of their weights.
    """

    irreps_in: Irreps
    irreps_out: Irreps
    paths: tuple[Path, ...]

    @property
    def num_weights(self) -> int:
        return sum(path.mul for path in self.paths)


@cache
def depthwise_product(irreps_in: Irreps, harmonics: Irreps, targets: Irreps) -> DepthwiseProduct:
    """Paths to the irreps of ``targets`` and to even scalars (Liao 2023, arXiv 2206.11990, code)."""
    wanted = {irrep for _, irrep in targets} | {SCALAR}
    found = [
        (source, edge, out, mul)
        for source, (mul, irrep) in enumerate(irreps_in)
        for _, edge in harmonics
        for out in irrep.times(edge)
        if out in wanted
    ]
    irreps = sorted({out for _, _, out, _ in found}, key=lambda irrep: (irrep.l, -irrep.p))
    rows, weight, paths = [0] * len(irreps), 0, []
    for source, edge, out, mul in found:
        target = irreps.index(out)
        l1 = irreps_in.entries[source][1].l
        paths.append(Path(source, l1, edge.l, target, out.l, mul, weight, rows[target]))
        rows[target] += mul
        weight += mul
    return DepthwiseProduct(irreps_in, Irreps(tuple(zip(rows, irreps, strict=True))), tuple(paths))


class Segment(NamedTuple):
    """Columns z of a node = order m of entry ``source`` × columns w of the weights, ``copies`` times its channels."""

    source: int
    m: int
    z: slice
    w: slice
    copies: int


class Segments(NamedTuple):
    """Per node its segments and its width; the total of weights; rows and channels of the sources."""

    nodes: tuple[tuple[Segment, ...], ...]
    widths: tuple[int, ...]
    weights: int
    sources: tuple[tuple[int, int], ...]


class RadialProduct(ExactConstants):
    """The product with one weight per edge, path and channel, followed by a linear map, in the frame of the edge.

    Nothing is multiplied by a zero of the product: an element-wise product of what each (l, m) reads with its weights,
    then one matrix product. Paths that reach nothing that is asked for have no column in the weights.

    Args:
        product: its paths.
        scalars_only: only order 0 of the source is given, only even scalars come out of the network in the end; all
            degrees are computed at m = 0.
    """

    columns: Tensor

    def __init__(self, product: DepthwiseProduct, *, scalars_only: bool = False) -> None:
        super().__init__()
        degrees = [0 if scalars_only else irrep.l for _, irrep in product.irreps_in]
        ordered: list[Path] = []
        self.nodes: list[Node] = []
        segments, widths = [], []
        start = 0
        for target, (_, irrep) in enumerate(product.irreps_out):
            orders = [0] if scalars_only else list(range(-irrep.l, irrep.l + 1))
            # even paths by ascending, odd ones by descending degree: those that reach one m are then neighbours
            mine = [p for p in product.paths if p.target == target and any(p.reaches(m) for m in orders)]
            mine = sorted(mine, key=lambda p: (p.odd, (1 - 2 * p.odd) * p.l1, p.source))
            starts = start + np.cumsum([0] + [p.mul for p in mine])
            for m in orders:
                here = [(p, int(w)) for p, w in zip(mine, starts, strict=False) if p.reaches(m)]
                if here:
                    index = len(self.nodes)
                    self.nodes.append((target, m))
                    segments.append(_segments(here, m))
                    widths.append(sum(p.mul for p, _ in here))
                    rows = np.concatenate([np.arange(p.row, p.row + p.mul) for p, _ in here])
                    factors = np.concatenate([np.full(p.mul, p.coefficient(m)) for p, _ in here])
                    self.register_buffer(f"rows_{index}", torch.from_numpy(rows), persistent=False)
                    self.constant(f"factors_{index}", factors[:, None])
            start = int(starts[-1])
            ordered += mine
        sources = [(2 * l + 1, mul) for l, (mul, _) in zip(degrees, product.irreps_in, strict=True)]
        self.segments = Segments(tuple(segments), tuple(widths), start, tuple(sources))
        columns = np.concatenate([np.arange(p.weight, p.weight + p.mul) for p in ordered])
        self.register_buffer("columns", torch.from_numpy(columns), persistent=False)

    def forward(
        self,
        weights: Float[Tensor, "E W"],
        x: Sequence[Float[Tensor, "E _ _"]],
        matrices: Sequence[Float[Tensor, "_ _"]],
    ) -> dict[Node, Float[Tensor, "E _"]]:
        """Nodes of the output.

        Args:
            weights: those of ``columns``, in that order.
            x: features in the frame.
            matrices: [rows, channels] for each entry of the product's ``irreps_out``.
        """
        parts = _Product.apply(self.segments, weights, *x)
        outputs = {}
        for index, ((target, m), part) in enumerate(zip(self.nodes, parts, strict=True)):
            rows, factors = getattr(self, f"rows_{index}"), getattr(self, f"factors_{index}")
            outputs[target, m] = dense(part, (matrices[target].index_select(0, rows) * factors).T)
        return outputs


def _segments(paths: Sequence[tuple[Path, int]], m: int) -> tuple[Segment, ...]:
    """Neighbours that read the same order of the same source become one segment."""
    result: list[Segment] = []
    z = 0
    for path, w in paths:
        source, order, end = path.source, path.into(m), z + path.mul
        last = result[-1] if result else None
        if last is not None and (last.source, last.m, last.w.stop) == (source, order, w):
            result[-1] = Segment(
                source, order, slice(last.z.start, end), slice(last.w.start, w + path.mul), last.copies + 1
            )
        else:
            result.append(Segment(source, order, slice(z, end), slice(w, w + path.mul), 1))
        z = end
    return tuple(result)


# Three maps that are each other's derivatives: z_n = Σ w x, and the gradients of ⟨g, z⟩ with respect to w and to x.


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Segments, w: Tensor, *x: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.plan = plan
        ctx.save_for_backward(w, *x)
        outputs = []
        for segments, width in zip(plan.nodes, plan.widths, strict=True):
            z = w.new_empty(w.shape[0], width)
            for s in segments:
                _multiply(_spread(x, s), _blocks(w, s.w, s.copies), _blocks(z, s.z, s.copies))
            outputs.append(z)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        w, *x = ctx.saved_tensors
        grad_w = _ProductWeights.apply(ctx.plan, *g, *x) if ctx.needs_input_grad[1] else None
        needs_x = any(ctx.needs_input_grad[2:])
        grad_x = _ProductSources.apply(ctx.plan, w, *g) if needs_x else [None] * len(x)
        return None, grad_w, *grad_x


class _ProductWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Segments, *g_and_x: Tensor) -> Tensor:  # noqa: ANN401
        ctx.plan = plan
        ctx.save_for_backward(*g_and_x)
        count = len(plan.nodes)
        g, x = g_and_x[:count], g_and_x[count:]
        out = g[0].new_empty(g[0].shape[0], plan.weights)
        touched: set[int] = set()
        for part, segments in zip(g, plan.nodes, strict=True):
            for s in segments:
                # two segments meet the same columns whole or not at all only path by path
                for w, z in _paths(s, plan.sources[s.source][1]):
                    source = x[s.source][:, _row(x[s.source], s.m)]
                    if w.start in touched:
                        out[:, w].addcmul_(part[:, z], source)
                    else:
                        _multiply(part[:, z], source, out[:, w])
                        touched.add(w.start)
        return out

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        count = len(ctx.plan.nodes)
        g, x = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        grad_g = _Product.apply(ctx.plan, h, *x)
        return None, *grad_g, *_ProductSources.apply(ctx.plan, h, *g)


class _ProductSources(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Segments, w: Tensor, *g: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.plan = plan
        ctx.save_for_backward(w, *g)
        out = [w.new_empty(w.shape[0], rows, mul) for rows, mul in plan.sources]
        touched: set[Node] = set()
        for part, segments in zip(g, plan.nodes, strict=True):
            for s in segments:
                row = out[s.source][:, _row(out[s.source], s.m)]
                for w_part, z in _paths(s, row.shape[1]):
                    if (s.source, s.m) in touched:
                        row.addcmul_(part[:, z], w[:, w_part])
                    else:
                        _multiply(part[:, z], w[:, w_part], row)
                        touched.add((s.source, s.m))
        for source, (rows, _) in enumerate(plan.sources):
            for m in range(-(rows // 2), rows // 2 + 1):
                if (source, m) not in touched:
                    out[source][:, rows // 2 + m] = 0.0
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *h: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        w, *g = ctx.saved_tensors
        return None, _ProductWeights.apply(ctx.plan, *g, *h), *_Product.apply(ctx.plan, w, *h)


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """a b into ``out``; recorded as a copy, since an operation with a place for its result has no derivative."""
    if traced(out):
        out.copy_(a * b)
    else:
        torch.mul(a, b, out=out)


def _row(x: Tensor, m: int) -> int:
    return x.shape[1] // 2 + m


def _spread(x: Sequence[Tensor], s: Segment) -> Tensor:
    row = x[s.source][:, _row(x[s.source], s.m)]
    return row if s.copies == 1 else row.unsqueeze(1)


def _blocks(x: Tensor, columns: slice, copies: int) -> Tensor:
    part = x[:, columns]
    return part if copies == 1 else part.unflatten(1, (copies, -1))


def _paths(s: Segment, mul: int) -> list[tuple[slice, slice]]:
    """Columns of weights and of z, path by path."""
    return [
        (slice(s.w.start + k * mul, s.w.start + (k + 1) * mul), slice(s.z.start + k * mul, s.z.start + (k + 1) * mul))
        for k in range(s.copies)
    ]


class FixedProduct(ExactConstants):
    """The product with the same weights on every edge, followed by a linear map: one matrix per connected set of nodes.

    In SE(3) all degrees of ±m are connected; with parities they fall into two sets.

    Args:
        product: its paths.
        scalars_only: only even scalars are wanted.
    """

    def __init__(self, product: DepthwiseProduct, *, scalars_only: bool = False) -> None:
        super().__init__()
        orders = {
            target: [0] if scalars_only else list(range(-irrep.l, irrep.l + 1))
            for target, (_, irrep) in enumerate(product.irreps_out)
            if irrep == SCALAR or not scalars_only
        }
        links = [(p, m) for p in product.paths if p.target in orders for m in orders[p.target] if p.reaches(m)]
        self.sets: list[tuple[list[Node], list[Node]]] = []
        for nodes in _connected([((p.source, p.into(m)), (p.target, m)) for p, m in links]):
            self.sets.append(nodes)
            sources, targets = nodes
            for target, m in targets:
                paths = [p for p, order in links if (p.target, order) == (target, m)]
                rows, factors = _terms(paths, m, sources, product.irreps_in)
                self.register_buffer(f"rows_{target}_{m}", torch.from_numpy(rows.ravel()), persistent=False)
                self.constant(f"factors_{target}_{m}", factors[:, :, None])
        for target in orders:
            # the weight of every row of the linear map
            mine = sorted((p for p in product.paths if p.target == target), key=lambda p: p.row)
            columns = np.concatenate([np.arange(p.weight, p.weight + p.mul) for p in mine])
            self.register_buffer(f"columns_{target}", torch.from_numpy(columns), persistent=False)

    def forward(
        self,
        weights: Float[Tensor, " W"],
        x: Mapping[Node, Float[Tensor, "E _"]],
        matrices: Sequence[Float[Tensor, "_ _"]],
    ) -> dict[Node, Float[Tensor, "E _"]]:
        """Nodes of the output from nodes of the input; ``matrices`` as in ``RadialProduct``."""
        scaled = {
            target: matrices[target] * weights.index_select(0, getattr(self, f"columns_{target}")).unsqueeze(1)
            for target in {target for _, targets in self.sets for target, _ in targets}
        }
        outputs: dict[Node, Tensor] = {}
        for sources, targets in self.sets:
            joined = torch.cat([self._matrix(scaled[target], target, m) for target, m in targets], dim=1)
            flat = dense(torch.cat([x[node] for node in sources], dim=1), joined.T)
            parts = flat.split([scaled[target].shape[1] for target, _ in targets], dim=1)
            outputs |= dict(zip(targets, parts, strict=True))
        return outputs

    def _matrix(self, scaled: Tensor, target: int, m: int) -> Tensor:
        factors = getattr(self, f"factors_{target}_{m}")
        taken = scaled.index_select(0, getattr(self, f"rows_{target}_{m}"))
        return (taken.unflatten(0, factors.shape[:2]) * factors).sum(0)


def _terms(paths: Sequence[Path], m: int, sources: Sequence[Node], irreps_in: Irreps) -> tuple[np.ndarray, np.ndarray]:
    """[terms, channels of the sources] rows of the linear map and their factors, 0 where there are fewer terms."""
    per_source = [[p for p in paths if (p.source, p.into(m)) == node] for node in sources]
    terms = max(len(found) for found in per_source)
    rows, factors = [], []
    for t in range(terms):
        for (entry, _), found in zip(sources, per_source, strict=True):
            mul = irreps_in.entries[entry][0]
            there = t < len(found)
            rows.append(np.arange(mul) + (found[t].row if there else 0))
            factors.append(np.full(mul, found[t].coefficient(m) if there else 0.0))
    return np.concatenate(rows).reshape(terms, -1), np.concatenate(factors).reshape(terms, -1)


def _connected(links: Sequence[tuple[Node, Node]]) -> list[tuple[list[Node], list[Node]]]:
    """The sources and targets of every connected set."""
    sets: list[tuple[set[Node], set[Node]]] = []
    for source, target in links:
        meeting = [s for s in sets if source in s[0] or target in s[1]]
        joined = ({source}.union(*[s[0] for s in meeting]), {target}.union(*[s[1] for s in meeting]))
        sets = [s for s in sets if s not in meeting] + [joined]
    return [(sorted(sources), sorted(targets)) for sources, targets in sets]

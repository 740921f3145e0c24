"""Attention logits and messages of the Equivariant Transformer: what is between atoms and the filters of edges.

The form Φ(W, A, X, G) of ``covarium.kernels.edge_form``, whose letters these are. Two kernels are exact to every order:
sums over the edges of an atom (∂Φ/∂G, ∂Φ/∂X), and what stays on the edges (∂Φ/∂W, ∂Φ/∂A). A program has one atom, or
one edge, and works on at most ``CHANNELS`` channels at a time, more only if a head has more. Sums run in the order of
the edges, and nothing is added atomically: results are the same at every run. Sums are kept in float32, or in float64
if anything is. In the kernels c = 0..3 is an axis of all tiles, c = 0 the first sum; ``term`` 1 is the one with A₄.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from covarium.kernels.edge_form import A, G, W, X, columns, gradients

CHANNELS = 128


@triton.constexpr_function
def _components(sizes: tuple) -> int:
    """Values of c."""
    return 1 if sizes[2] == 1 else 4


@triton.constexpr_function
def _heads(sizes: tuple) -> int:
    """Worked on at a time."""
    return min(triton.next_power_of_2(sizes[0]), max(1, CHANNELS // triton.next_power_of_2(sizes[1])))


@triton.constexpr_function
def _columns(slot: str, sizes: tuple) -> int:
    """Numbers in a row of w, a, x or g."""
    return columns("waxg".index(slot), sizes)


@triton.jit
def _place(
    slot: tl.constexpr, term: tl.constexpr, c: tl.tensor, h: tl.tensor, d: tl.tensor, sizes: tl.constexpr
) -> tl.tensor:
    """Where the tile of a term lies in a row."""
    heads: tl.constexpr = sizes[0]
    channels: tl.constexpr = heads * sizes[1]
    f = h * sizes[1] + d
    if slot == "g":
        place = c * channels + f
    elif slot == "w":
        place = (2 if term == 1 else tl.minimum(c, 1)) * channels + f + c * 0
    elif slot == "x":
        place = (1 + c if term == 1 else tl.minimum(c, 1)) * channels + f
    elif term == 1:
        place = heads + 3 + (c + h) * 0
    else:
        place = tl.where(c == 0, h, heads - 1 + c)
    return place


@triton.jit
def _read(
    slot: tl.constexpr, at: tl.tensor, row: tl.tensor, term: tl.constexpr, axes: tl.tuple, sizes: tl.constexpr,
    missing: tl.constexpr, exact: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """A tile of one factor, or numbers that stand for what is not given."""
    c, h, d = axes
    place = _place(slot, term, c, h, d, sizes)
    if at is None:
        value = tl.full(place.shape, missing, exact)
    else:
        inside = (c >= term) & (h < sizes[0])
        if slot != "a":
            inside = inside & (d < sizes[1])
        value = tl.load(at + row * _columns(slot, sizes) + place, mask=inside, other=0.0).to(exact)
    return value


@triton.jit
def _product(p: tl.tuple, q: tl.tuple, r: tl.tuple, along: tl.constexpr) -> tl.tensor:
    """Of three numbers, or its derivative along their changes."""
    if along:
        product = p[1] * q[0] * r[0] + p[0] * (q[1] * r[0] + q[0] * r[1])
    else:
        product = p[0] * q[0] * r[0]
    return product


@triton.jit
def _store_blocks(here: tl.tensor, tile: tl.tensor, axes: tl.tuple, sizes: tl.constexpr) -> None:
    """c = 0 of the first term into the first block, the sum of the others into the second."""
    c, h, d = axes
    dtype: tl.constexpr = here.dtype.element_ty
    first = (c == 0) & (h < sizes[0]) & (d < sizes[1])
    place = here + c * 0 + h * sizes[1] + d
    tl.store(place, tile.to(dtype), mask=first)
    if sizes[2] > 1:
        others = tl.sum(tl.where(c > 0, tile, 0.0), 0, keep_dims=True) + 0 * tile
        tl.store(place + sizes[0] * sizes[1], others.to(dtype), mask=first)


@triton.jit
def _sums(
    factors: tl.tuple, changes: tl.tuple, out: tl.tensor, other: tl.tensor, order: tl.tensor, starts: tl.tensor,
    onto: tl.constexpr, along: tl.constexpr, sizes: tl.constexpr, exact: tl.constexpr,
) -> None:  # fmt: skip
    """∂Φ/∂G (``onto`` g) or ∂Φ/∂X (x); the third factor is that of the atoms at the other end."""
    read: tl.constexpr = "x" if onto == "g" else "g"
    c = tl.arange(0, _components(sizes))[:, None, None]
    h = (tl.program_id(1) * _heads(sizes) + tl.arange(0, _heads(sizes)))[None, :, None]
    d = tl.arange(0, triton.next_power_of_2(sizes[1]))[None, None, :]
    axes = (c, h, d)
    inside = (c >= 0) & (h < sizes[0]) & (d < sizes[1])
    total = tl.zeros(inside.shape, dtype=exact)
    beside = tl.zeros(inside.shape, dtype=exact)
    t = tl.program_id(0).to(tl.int64)
    position = tl.load(starts + t)
    end = tl.load(starts + t + 1)
    # not a range: the interpreter cannot take its ends from memory with every numpy
    while position < end:
        e = tl.load(order + position)
        n = tl.load(other + e)
        position += 1
        for term in tl.static_range(2 if sizes[2] == 3 else 1):
            w = _read("w", factors[0], e, term, axes, sizes, 1.0, exact)
            a = _read("a", factors[1], e, term, axes, sizes, 0.0, exact)
            y = _read(read, factors[2], n, term, axes, sizes, 0.0, exact)
            dw = _read("w", changes[0], e, term, axes, sizes, 0.0, exact)
            da = _read("a", changes[1], e, term, axes, sizes, 0.0, exact)
            dy = _read(read, changes[2], n, term, axes, sizes, 0.0, exact)
            product = _product((w, dw), (a, da), (y, dy), along)
            if term == 0 or onto == "g":
                total += product
            else:
                beside += product
    here = out + t * _columns(onto, sizes)
    if onto == "g":
        tl.store(here + _place("g", 0, c, h, d, sizes), total.to(out.dtype.element_ty), mask=inside)
    else:
        _store_blocks(here, total, axes, sizes)
        if sizes[2] == 3:
            tl.store(here + _place("x", 1, c, h, d, sizes), beside.to(out.dtype.element_ty), mask=inside & (c > 0))


@triton.jit
def _edges(
    factors: tl.tuple, changes: tl.tuple, outs: tl.tuple, j: tl.tensor, i: tl.tensor,
    along: tl.constexpr, sizes: tl.constexpr, exact: tl.constexpr,
) -> None:  # fmt: skip
    """∂Φ/∂W and ∂Φ/∂A, either or both."""
    e = tl.program_id(0).to(tl.int64)
    source = tl.load(j + e)
    target = tl.load(i + e)
    c = tl.arange(0, _components(sizes))[:, None, None]
    d = tl.arange(0, triton.next_power_of_2(sizes[1]))[None, None, :]
    vector = tl.zeros(c.shape, dtype=exact)
    scalar = tl.zeros(c.shape, dtype=exact)
    heads: tl.constexpr = sizes[0]
    for start in tl.static_range(0, heads, _heads(sizes)):
        h = (start + tl.arange(0, _heads(sizes)))[None, :, None]
        axes = (c, h, d)
        for term in tl.static_range(2 if sizes[2] == 3 else 1):
            x = _read("x", factors[2], source, term, axes, sizes, 0.0, exact)
            g = _read("g", factors[3], target, term, axes, sizes, 0.0, exact)
            dx = _read("x", changes[2], source, term, axes, sizes, 0.0, exact)
            dg = _read("g", changes[3], target, term, axes, sizes, 0.0, exact)
            if outs[0] is not None:
                a = _read("a", factors[1], e, term, axes, sizes, 0.0, exact)
                da = _read("a", changes[1], e, term, axes, sizes, 0.0, exact)
                tile = _product((a, da), (x, dx), (g, dg), along)
                here = outs[0] + e * _columns("w", sizes)
                if term == 0:
                    _store_blocks(here, tile, axes, sizes)
                else:
                    tile = tl.sum(tile, 0, keep_dims=True) + 0 * tile
                    inside = (c == 0) & (h < sizes[0]) & (d < sizes[1])
                    tl.store(here + _place("w", 1, c, h, d, sizes), tile.to(here.dtype.element_ty), mask=inside)
            if outs[1] is not None:
                w = _read("w", factors[0], e, term, axes, sizes, 1.0, exact)
                dw = _read("w", changes[0], e, term, axes, sizes, 0.0, exact)
                tile = tl.sum(_product((w, dw), (x, dx), (g, dg), along), 2, keep_dims=True)
                if term == 0:
                    here = outs[1] + e * _columns("a", sizes)
                    tl.store(here + h + c * 0, tile.to(here.dtype.element_ty), mask=(h < sizes[0]) & (c == 0))
                    vector += tl.sum(tile, 1, keep_dims=True)
                else:
                    scalar += tl.sum(tl.sum(tile, 1, keep_dims=True), 0, keep_dims=True)
    if outs[1] is not None:
        here = outs[1] + e * _columns("a", sizes) + sizes[0]
        if sizes[2] > 1:
            tl.store(here + c - 1, vector.to(here.dtype.element_ty), mask=c > 0)
        if sizes[2] == 3:
            tl.store(here + 3 + c * 0, scalar.to(here.dtype.element_ty), mask=c == 0)


# An operation of torch's library, so that tracing and compiling see one node with known shapes and know its derivative.
# torch finds no gradients of lists with None in them: ``tensors`` are the factors that are given, then their changes,
# ``given`` says which: 0..3 for W, A, X, G, 4..7 for their changes.


@torch.library.custom_op("covarium::edge_form", mutates_args=())
def edge_form(
    tensors: list[Tensor],
    given: list[int],
    wanted: list[int],
    index: list[Tensor],
    orders: list[Tensor],
    starts: list[Tensor],
    sizes: list[int],
) -> list[Tensor]:
    """∂Φ/∂ each of the factors that are ``wanted``, or, where changes are given, its derivative along these.

    Args:
        tensors, given: those that are read; W = 1 without it, no change without one.
        wanted: some of 0..3.
        index, orders, starts: j and i of the edges [E], edges sorted by them, where those of each atom begin [N + 1].
        sizes: heads, channels of each, blocks of W.
    """
    out = dict(zip(wanted, _shapes(tensors, given, wanted, index, orders, starts, sizes), strict=True))
    t = {slot: tensor.contiguous() for slot, tensor in zip(given, tensors, strict=True)}
    wide = torch.float64 in [tensor.dtype for tensor in tensors]
    common = (max(given) > G, tuple(sizes), tl.float64 if wide else tl.float32)
    size = _components(sizes) * _heads(sizes) * triton.next_power_of_2(sizes[1])
    warps = min(max(size // 128, 1), 8)
    for slot, read, name, near, far in ((X, G, "x", 0, 1), (G, X, "g", 1, 0)):
        if slot in out and out[slot].numel():
            factors, changes = ([t.get(k + at) for k in (W, A, read)] for at in (0, 4))
            _sums[(out[slot].shape[0], triton.cdiv(sizes[0], _heads(sizes)))](
                tuple(factors), tuple(changes), out[slot], index[far], orders[near], starts[near], name, *common,
                num_warps=warps,
            )  # fmt: skip
    if (W in out or A in out) and len(index[0]):
        factors, changes = ([t.get(k + at) for k in range(4)] for at in (0, 4))
        _edges[(len(index[0]),)](
            tuple(factors), tuple(changes), (out.get(W), out.get(A)), *index, *common, num_warps=warps
        )
    return [out[slot] for slot in wanted]


@edge_form.register_fake
def _shapes(
    tensors: list[Tensor],
    given: list[int],
    wanted: list[int],
    index: list[Tensor],
    orders: list[Tensor],
    starts: list[Tensor],
    sizes: list[int],
) -> list[Tensor]:
    rows = (index[0].shape[0], index[0].shape[0], starts[0].shape[0] - 1, starts[1].shape[0] - 1)
    dtypes = {slot: tensor.dtype for slot, tensor in zip(given, tensors, strict=True)}
    # what is not given has the dtype that sums have
    sums = torch.float64 if torch.float64 in dtypes.values() else torch.float32
    return [starts[0].new_empty(rows[slot], columns(slot, sizes), dtype=dtypes.get(slot, sums)) for slot in wanted]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:  # noqa: ANN401
    tensors, ctx.given, ctx.wanted, *ctx.rest = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradients_above: list[Tensor]) -> tuple[Any, ...]:  # noqa: ANN401
    tensors = dict(zip(ctx.given, ctx.saved_tensors, strict=True))
    needed = {slot for slot, need in zip(ctx.given, ctx.needs_input_grad[0], strict=True) if need}
    above = dict(zip(ctx.wanted, gradients_above, strict=True))
    found = gradients(lambda *form: edge_form(*form, *ctx.rest), tensors, needed, above)
    return [found.get(slot) for slot in ctx.given], None, None, [None] * 2, [None] * 2, [None] * 2, None


edge_form.register_autograd(_backward, setup_context=_save)

"""Gather, rotate and sum over edges: what is between atoms and the matrix products of an edge, in one pass each.

Three maps, each the derivative of the others, see ``covarium.ops.rotation``. One program works on one degree of one
edge (or one atom) and at most ``CHANNELS`` channels; every feature is read once, every result written once, sums run in
the order of the edges, and nothing is added atomically: results are the same at every run. Sums are kept in float32, or
in float64 if anything is.

Letters: E edges, N atoms, S columns of an atom's features, R rows in the frame, C channels, l degree, P numbers of an
edge's Wigner matrices. ``blocks`` has (l, first column, rows) of each degree, and rows (row in the frame, place of its
2l + 1 numbers in P) for every order that is kept. ``join`` says what becomes of the two ends of an edge: ``beside`` or
``added``, or ``one`` where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS = 128
Blocks = tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...]


@triton.constexpr_function
def _degree(blocks: tuple, b: int) -> int:
    return blocks[b][0]


@triton.constexpr_function
def _column(blocks: tuple, b: int) -> int:
    return blocks[b][1]


@triton.constexpr_function
def _count(blocks: tuple, b: int) -> int:
    return len(blocks[b][2])


@triton.constexpr_function
def _row(blocks: tuple, b: int, m: int) -> int:
    return blocks[b][2][m][0]


@triton.constexpr_function
def _place(blocks: tuple, b: int, m: int) -> int:
    return blocks[b][2][m][1]


@triton.constexpr_function
def _columns(blocks: tuple) -> int:
    return sum(2 * block[0] + 1 for block in blocks)


@triton.constexpr_function
def _rows(blocks: tuple) -> int:
    return sum(len(block[2]) for block in blocks)


@triton.constexpr_function
def _size(channels: int) -> int:
    return min(triton.next_power_of_2(channels), CHANNELS)


@triton.constexpr_function
def _exact(one: tl.dtype, other: tl.dtype) -> tl.dtype:
    return tl.float64 if tl.float64 in (one, other) else tl.float32


@triton.jit
def _rotate_in(
    x0: tl.tensor,
    x1: tl.tensor,
    index0: tl.tensor,
    index1: tl.tensor,
    wigner: tl.tensor,
    y: tl.tensor,
    blocks: tl.constexpr,
    numbers: tl.constexpr,
    channels: tl.constexpr,
    join: tl.constexpr,
) -> None:
    exact: tl.constexpr = _exact(y.dtype.element_ty, wigner.dtype.element_ty)
    width: tl.constexpr = channels * 2 if join == "beside" else channels
    atom: tl.constexpr = _columns(blocks) * channels
    e = tl.program_id(0).to(tl.int64)
    c = tl.program_id(2) * _size(channels) + tl.arange(0, _size(channels))
    inside = c < channels
    for b in tl.static_range(len(blocks)):
        if tl.program_id(1) == b:
            n: tl.constexpr = 2 * _degree(blocks, b) + 1
            k = tl.arange(0, triton.next_power_of_2(n))
            there = (_column(blocks, b) + k)[:, None] * channels + c[None, :]
            read = (k < n)[:, None] & inside[None, :]
            first = tl.load(x0 + tl.load(index0 + e) * atom + there, mask=read, other=0.0).to(exact)
            if join != "one":
                second = tl.load(x1 + tl.load(index1 + e) * atom + there, mask=read, other=0.0).to(exact)
                if join == "added":
                    first += second
            for m in tl.static_range(_count(blocks, b)):
                out = y + (e * _rows(blocks) + _row(blocks, b, m)) * width + c
                place = wigner + e * numbers + _place(blocks, b, m) + k
                row = tl.load(place, mask=k < n, other=0.0).to(exact)
                tl.store(out, tl.sum(row[:, None] * first, 0).to(y.dtype.element_ty), mask=inside)
                if join == "beside":
                    value = tl.sum(row[:, None] * second, 0)
                    tl.store(out + channels, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_out(
    y: tl.tensor,
    order: tl.tensor,
    starts: tl.tensor,
    wigner: tl.tensor,
    x: tl.tensor,
    blocks: tl.constexpr,
    numbers: tl.constexpr,
    channels: tl.constexpr,
    width: tl.constexpr,
) -> None:
    exact: tl.constexpr = _exact(y.dtype.element_ty, wigner.dtype.element_ty)
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(2) * _size(channels) + tl.arange(0, _size(channels))
    inside = c < channels
    end = tl.load(starts + i + 1)
    for b in tl.static_range(len(blocks)):
        if tl.program_id(1) == b:
            n: tl.constexpr = 2 * _degree(blocks, b) + 1
            k = tl.arange(0, triton.next_power_of_2(n))
            total = tl.zeros([triton.next_power_of_2(n), _size(channels)], dtype=exact)
            position = tl.load(starts + i)
            # not a range: the interpreter cannot take its ends from memory with every numpy
            while position < end:
                e = tl.load(order + position)
                position += 1
                for m in tl.static_range(_count(blocks, b)):
                    here = y + (e * _rows(blocks) + _row(blocks, b, m)) * width + c[None, :]
                    value = tl.load(here, mask=inside[None, :], other=0.0).to(exact)
                    place = wigner + e * numbers + _place(blocks, b, m) + k
                    row = tl.load(place, mask=k < n, other=0.0).to(exact)
                    total += row[:, None] * value
            there = x + i * _columns(blocks) * channels + (_column(blocks, b) + k)[:, None] * channels + c[None, :]
            tl.store(there, total.to(x.dtype.element_ty), mask=(k < n)[:, None] & inside[None, :])


@triton.jit
def _rotation_gradient(
    y: tl.tensor,
    x0: tl.tensor,
    x1: tl.tensor,
    index0: tl.tensor,
    index1: tl.tensor,
    wigner: tl.tensor,
    blocks: tl.constexpr,
    numbers: tl.constexpr,
    channels: tl.constexpr,
    join: tl.constexpr,
) -> None:
    exact: tl.constexpr = _exact(y.dtype.element_ty, wigner.dtype.element_ty)
    width: tl.constexpr = channels * 2 if join == "beside" else channels
    atom: tl.constexpr = _columns(blocks) * channels
    e = tl.program_id(0).to(tl.int64)
    for b in tl.static_range(len(blocks)):
        if tl.program_id(1) == b:
            n: tl.constexpr = 2 * _degree(blocks, b) + 1
            count: tl.constexpr = _count(blocks, b)
            k = tl.arange(0, triton.next_power_of_2(n))
            r = tl.arange(0, triton.next_power_of_2(count))
            total = tl.zeros([triton.next_power_of_2(count), triton.next_power_of_2(n)], dtype=exact)
            for start in tl.static_range(0, channels, _size(channels)):
                c = start + tl.arange(0, _size(channels))
                inside = c < channels
                there = (_column(blocks, b) + k)[:, None] * channels + c[None, :]
                read = (k < n)[:, None] & inside[None, :]
                first = tl.load(x0 + tl.load(index0 + e) * atom + there, mask=read, other=0.0).to(exact)
                if join != "one":
                    second = tl.load(x1 + tl.load(index1 + e) * atom + there, mask=read, other=0.0).to(exact)
                    if join == "added":
                        first += second
                for m in tl.static_range(count):
                    here = y + (e * _rows(blocks) + _row(blocks, b, m)) * width + c[None, :]
                    product = first * tl.load(here, mask=inside[None, :], other=0.0).to(exact)
                    if join == "beside":
                        product += second * tl.load(here + channels, mask=inside[None, :], other=0.0).to(exact)
                    total += tl.where((r == m)[:, None], tl.sum(product, 1)[None, :], 0.0)
            for m in tl.static_range(count):
                row = tl.sum(tl.where((r == m)[:, None], total, 0.0), 0)
                place = wigner + e * numbers + _place(blocks, b, m) + k
                tl.store(place, row.to(wigner.dtype.element_ty), mask=k < n)


# Operations of torch's library, so that tracing and compiling see one node with a known shape and know its derivative.
# All are given the two ends of the edges, ``index`` [E] with the ``orders`` [E] and ``starts`` [N + 1] of each, and of
# the layout ``table``: for each degree l, first column, number of rows, then the rows' two numbers.


@cache
def _blocks(table: tuple[int, ...]) -> Blocks:
    found, at = [], 0
    while at < len(table):
        l, column, count = table[at : at + 3]
        numbers = table[at + 3 : at + 3 + 2 * count]
        found.append((l, column, tuple(zip(numbers[::2], numbers[1::2], strict=True))))
        at += 3 + 2 * count
    return tuple(found)


def _grid(rows: int, blocks: Blocks, channels: int) -> tuple[int, int, int]:
    return rows, len(blocks), triton.cdiv(channels, min(triton.next_power_of_2(channels), CHANNELS))


def _join(xs: Sequence[Tensor], beside: bool) -> str:
    if len(xs) == 1:
        return "one"
    return "beside" if beside else "added"


@torch.library.custom_op("covarium::rotate_in", mutates_args=())
def rotate_in(
    wigner: Tensor,
    xs: list[Tensor],
    index: list[Tensor],
    orders: list[Tensor],
    starts: list[Tensor],
    table: list[int],
    beside: bool,
) -> Tensor:
    """y [E, R, C], or 2C with both ends beside each other, from wigner [E, P] and one or two xs [N, S, C]."""
    y = _in_shape(wigner, xs, index, orders, starts, table, beside)
    blocks, channels = _blocks(tuple(table)), xs[0].shape[2]
    x, d = [part.contiguous() for part in xs], wigner.contiguous()
    if y.numel():
        _rotate_in[_grid(y.shape[0], blocks, channels)](
            x[0], x[-1], index[0], index[-1], d, y, blocks, d.shape[1], channels, _join(xs, beside), num_warps=1
        )
    return y


@rotate_in.register_fake
def _in_shape(
    wigner: Tensor,
    xs: list[Tensor],
    index: list[Tensor],
    orders: list[Tensor],
    starts: list[Tensor],
    table: list[int],
    beside: bool,
) -> Tensor:
    rows = sum(len(block[2]) for block in _blocks(tuple(table)))
    return xs[0].new_empty(index[0].shape[0], rows, xs[0].shape[2] * (len(xs) if beside else 1))


@torch.library.custom_op("covarium::rotate_out", mutates_args=())
def rotate_out(
    wigner: Tensor,
    y: Tensor,
    index: list[Tensor],
    orders: list[Tensor],
    starts: list[Tensor],
    table: list[int],
    beside: bool,
) -> list[Tensor]:
    """For each end x [N, S, C], sums over the edges ``order[start[i]:start[i + 1]]`` of its channels of y."""
    xs = _out_shape(wigner, y, index, orders, starts, table, beside)
    blocks, d, y = _blocks(tuple(table)), wigner.contiguous(), y.contiguous()
    for k, x in enumerate(xs):
        channels = x.shape[2]
        if x.numel():
            part = y[:, :, k * channels :] if beside else y
            _rotate_out[_grid(x.shape[0], blocks, channels)](
                part, orders[k], starts[k], d, x, blocks, d.shape[1], channels, y.shape[2], num_warps=1
            )
    return xs


@rotate_out.register_fake
def _out_shape(
    wigner: Tensor,
    y: Tensor,
    index: list[Tensor],
    orders: list[Tensor],
    starts: list[Tensor],
    table: list[int],
    beside: bool,
) -> list[Tensor]:
    columns = sum(2 * block[0] + 1 for block in _blocks(tuple(table)))
    channels = y.shape[2] // (len(starts) if beside else 1)
    return [y.new_empty(start.shape[0] - 1, columns, channels) for start in starts]


@torch.library.custom_op("covarium::rotation_gradient", mutates_args=())
def rotation_gradient(
    like: Tensor,
    y: Tensor,
    xs: list[Tensor],
    index: list[Tensor],
    orders: list[Tensor],
    starts: list[Tensor],
    table: list[int],
    beside: bool,
) -> Tensor:
    """Σ_c y[e, r, c] x[j(e), s, c], like wigner [E, P]; zero where ``rotate_in`` does not read."""
    out = torch.zeros_like(like, memory_format=torch.contiguous_format)
    blocks, x, y = _blocks(tuple(table)), [part.contiguous() for part in xs], y.contiguous()
    if y.numel():
        _rotation_gradient[(y.shape[0], len(blocks))](
            y, x[0], x[-1], index[0], index[-1], out, blocks, out.shape[1], x[0].shape[2], _join(xs, beside),
            num_warps=1,
        )  # fmt: skip
    return out


@rotation_gradient.register_fake
def _gradient_shape(like: Tensor, *_: Any) -> Tensor:  # noqa: ANN401
    return torch.zeros_like(like, memory_format=torch.contiguous_format)


def _no_gradients(ends: Sequence[Any]) -> list[Any]:
    """For tensors one by one, as torch wants it."""
    return [[None] * len(given) if isinstance(given, list) and isinstance(given[0], Tensor) else None for given in ends]


def _save_in(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    wigner, xs, *ctx.ends = inputs
    ctx.save_for_backward(wigner, *xs)


def _in_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
    wigner, *xs = ctx.saved_tensors
    needs_wigner, needs_xs, *_ = ctx.needs_input_grad
    of_wigner = rotation_gradient(wigner, g, xs, *ctx.ends) if needs_wigner else None
    of_xs = rotate_out(wigner, g, *ctx.ends) if any(needs_xs) else [None] * len(xs)
    return of_wigner, of_xs, *_no_gradients(ctx.ends)


def _save_out(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:  # noqa: ANN401
    wigner, y, *ctx.ends = inputs
    ctx.save_for_backward(wigner, y)


def _out_backward(ctx: Any, g: list[Tensor]) -> tuple[Any, ...]:  # noqa: ANN401
    wigner, y = ctx.saved_tensors
    needs_wigner, needs_y, *_ = ctx.needs_input_grad
    of_wigner = rotation_gradient(wigner, y, g, *ctx.ends) if needs_wigner else None
    of_y = rotate_in(wigner, g, *ctx.ends) if needs_y else None
    return of_wigner, of_y, *_no_gradients(ctx.ends)


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    _, y, xs, *ctx.ends = inputs
    ctx.save_for_backward(y, *xs)


def _gradient_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
    y, *xs = ctx.saved_tensors
    _, needs_y, needs_xs, *_ = ctx.needs_input_grad
    of_y = rotate_in(g, xs, *ctx.ends) if needs_y else None
    of_xs = rotate_out(g, y, *ctx.ends) if any(needs_xs) else [None] * len(xs)
    return None, of_y, of_xs, *_no_gradients(ctx.ends)


rotate_in.register_autograd(_in_backward, setup_context=_save_in)
rotate_out.register_autograd(_out_backward, setup_context=_save_out)
rotation_gradient.register_autograd(_gradient_backward, setup_context=_save_gradient)

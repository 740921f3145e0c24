"""Features of atoms into the frames of edges, and sums of what edges hold out of them.

With D the Wigner matrices of an edge (block-diagonal, of its orders only those that the frame keeps),

    rotate_in:   y[e, r] = Σ_s D[e, r, s] x[j(e), s], for one end of the edges, or for both
    rotate_out:  x[i, s] = Σ_{e: i(e) = i} Σ_r D[e, r, s] y[e, r].

Both are bilinear, and so is the gradient with respect to D; the derivatives of each of the three are the other two.
Three kernels are therefore exact to every order, and keep nothing of the edges but x or y itself: no [E, S, C] of what
was gathered, no copy of what is rotated before it is summed.

Letters: E edges, N atoms, S columns of an atom's features (degree by degree, m = −l..l), R rows in the frame, C
channels, P numbers of D. D of degree 0 is 1, a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from covarium.algebra.rounding import unrounded
from covarium.errors import CovariumError
from covarium.kernels.triton import missing
from covarium.ops.gather import gather, scatter_sum
from covarium.ops.traced import traced
from covarium.ops.wanted import wanted

Backend = Literal["torch", "triton"]


@dataclass(frozen=True)
class Layout:
    """What rows and columns mean.

    Attributes:
        degrees: of the columns, 2l + 1 each, ascending.
        frame: (l, m) of every row.
    """

    degrees: tuple[int, ...]
    frame: tuple[tuple[int, int], ...]

    @property
    def columns(self) -> dict[int, int]:
        """The first column of each degree."""
        return dict(zip(self.degrees, np.cumsum([0] + [2 * l + 1 for l in self.degrees]).tolist(), strict=False))

    @property
    def places(self) -> list[int]:
        """Where the 2l + 1 numbers of each row begin, D_l one after another, row by row."""
        starts = np.cumsum([0] + [(2 * l + 1) ** 2 for l in self.degrees]).tolist()
        first = dict(zip(self.degrees, starts, strict=False))
        return [first[l] + (l + m) * (2 * l + 1) for l, m in self.frame]

    def rows(self, count: int) -> Layout:
        """With the first rows alone."""
        return self if count == len(self.frame) else Layout(self.degrees, self.frame[:count])

    def dense(self, wigner: Float[Tensor, "E P"]) -> Float[Tensor, "E R S"]:
        """D with its zeros."""
        size = wigner.shape[1]
        index = _dense(self, size)
        if index is None:
            return wigner.unflatten(1, (len(self.frame), -1))
        padded = torch.cat([wigner, wigner.new_zeros(wigner.shape[0], 1)], dim=1)
        return padded.index_select(1, torch.from_numpy(index.ravel()).to(wigner.device)).unflatten(1, index.shape)


@cache
def _dense(layout: Layout, size: int) -> np.ndarray | None:
    """[R, S] place of every entry (``size`` for a zero); None where they lie in that order."""
    columns = layout.columns
    index = np.full((len(layout.frame), sum(2 * l + 1 for l in layout.degrees)), size)
    for r, ((l, _), place) in enumerate(zip(layout.frame, layout.places, strict=True)):
        index[r, columns[l] : columns[l] + 2 * l + 1] = place + np.arange(2 * l + 1)
    return None if np.array_equal(index.ravel(), np.arange(size)) else index


@dataclass(frozen=True)
class Runs:
    """All atoms and all edges, sorted by atom; in a run, atoms one after another that have equally many edges.

    Attributes:
        atoms: of each run, how many.
        edges: of each run, of all its atoms together, how many.
    """

    atoms: list[int]
    edges: list[int]

    def of_atoms(self, x: Float[Tensor, "N S C"]) -> Sequence[Tensor]:
        """[atoms, S, C], run by run."""
        return x.split(self.atoms)

    def of_edges(self, y: Float[Tensor, "E R C"]) -> list[Tensor]:
        """[atoms, rows of all edges of an atom, C], run by run."""
        parts = zip(self.atoms, self.edges, y.split(self.edges), strict=True)
        return [part.reshape(n, edges // n * y.shape[1], y.shape[2]) for n, edges, part in parts]


@dataclass(frozen=True)
class End:
    """One end of the edges.

    Attributes:
        index: [E], the atom.
        atoms: N.
        ascending: whether the index is; else it is sorted once, when a sum over it is first asked for.
    """

    index: Tensor
    atoms: int
    ascending: bool

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        if self.ascending:
            return self.index, torch.arange(len(self.index), device=self.index.device)
        values, order = torch.sort(self.index, stable=True)
        return values, order

    @property
    def order(self) -> Tensor:
        """[E], edges sorted by atom."""
        return self._sorted[1]

    @cached_property
    def starts(self) -> Tensor:
        """[N + 1], where the edges of each atom begin in ``order``."""
        return torch.searchsorted(self._sorted[0], torch.arange(self.atoms + 1, device=self.index.device))

    @cached_property
    def runs(self) -> Runs:
        """Of an ascending end on the CPU.

        Raises:
            CovariumError: it is not ascending.
        """
        index = self.index.numpy()
        if (index[1:] < index[:-1]).any():
            edge = int(np.argmax(index[1:] < index[:-1]))
            raise CovariumError(
                f"edges must be sorted by target atom; edge {edge} goes to atom {index[edge]}, the next one to atom "
                f"{index[edge + 1]}. Sort the columns of edge_index by its row 1"
            )
        counts = np.bincount(index, minlength=self.atoms).tolist()
        runs = [(count, len(list(equal))) for count, equal in groupby(counts)]
        return Runs([n for _, n in runs], [n * count for count, n in runs])


def rotate_in(
    xs: Sequence[Float[Tensor, "N S C"]],
    wigner: Float[Tensor, "E P"] | Float[Tensor, "E R S"],
    ends: Sequence[End],
    layout: Layout,
    *,
    beside: bool = False,
    backend: Backend = "torch",
) -> Float[Tensor, "E R C2"]:
    """Features of the atoms at one end of each edge, or at both, in its frame.

    Args:
        xs: one tensor for each end, of one dtype, which the result has; D may have a wider one, which products and
            sums have.
        wigner: D_l of the layout's degrees one after another, row by row; for ``torch`` also with its zeros.
        ends: where they are read.
        layout: of columns and rows.
        beside: channels of both ends side by side, 2C of them; else their sum.
        backend: ``triton`` needs a CUDA device.

    Raises:
        CovariumError: the backend cannot run here, and why.
    """
    if backend == "triton":
        arguments = _arguments(wigner, ends, layout)
        # where triton may not be installed, only here
        from covarium.kernels.triton import rotation

        return cast(Tensor, rotation.rotate_in(wigner, list(xs), *arguments, beside))
    if layout.degrees == (0,):
        return _joined([gather(x, end.index) for x, end in zip(xs, ends, strict=True)], beside)
    return cast(Tensor, _In.apply(tuple(ends), beside, _matrices(layout, wigner), *xs))


def rotate_out(
    y: Float[Tensor, "E R C"],
    wigner: Float[Tensor, "E P"] | Float[Tensor, "E R S"],
    end: End,
    layout: Layout,
    *,
    backend: Backend = "torch",
) -> Float[Tensor, "N S C"]:
    """Sums over the edges of each atom, out of their frames; deterministic with ``triton``, and on the CPU.

    Args and raises: as ``rotate_in``.
    """
    if backend == "triton":
        arguments = _arguments(wigner, [end], layout)
        from covarium.kernels.triton import rotation

        (x,) = rotation.rotate_out(wigner, y, *arguments, False)
        return cast(Tensor, x)
    if layout.degrees == (0,):
        return scatter_sum(y, end.index, end.atoms)
    (x,) = _Out.apply((end,), False, _matrices(layout, wigner), y)
    return cast(Tensor, x)


def _matrices(layout: Layout, wigner: Tensor) -> Tensor:
    return unrounded(wigner if wigner.dim() == 3 else layout.dense(wigner))


def _joined(xs: Sequence[Tensor], beside: bool) -> Tensor:
    """What both ends of the edges, or the one, have together."""
    return xs[0] if len(xs) == 1 else torch.cat(list(xs), dim=2) if beside else xs[0] + xs[1]


# The three maps for ``torch``, with D [E, R, S]. On the CPU gathered features, [E, S, C], are only ever there for a few
# edges, in the cache: to write all of them to fresh memory takes longer than the products do. A block-diagonal D would
# save three quarters of the products and win nothing: they become too small.
#
# Where edges are sorted by atom, nothing is gathered: one product, [edges · R, S] with [S, C], takes all edges of an
# atom, and one call all atoms of a run, in a quarter to two fifths less time.

FEW = 2**18
ENOUGH = 2**18  # multiplications of a call, on average: of more, what is saved (4 of 12 μs) pays for the call
APART = 2**14  # multiplications of an edge with one end: of fewer, one product with both ends is faster than two


def _runs(end: End, d: Tensor, y: Tensor, channels: int) -> Runs | None:
    """Of an end whose edges are to be multiplied atom by atom."""
    if not end.ascending or traced(d) or not d.is_cpu or d.dtype != y.dtype:
        return None
    return end.runs if d.numel() * channels >= ENOUGH * len(end.runs.atoms) else None


def _shares(
    ends: Sequence[End], beside: bool, d: Tensor, y: Tensor, *, at_once: bool
) -> list[tuple[list[int], Tensor, Runs | None]]:
    """Which ends are worked on together, their channels of y, and the runs if they are worked on atom by atom.

    Args:
        at_once: ends beside each other are worked on together too, unless one after the other is faster.
    """
    together: list[tuple[list[int], Tensor, Runs | None]] = [([*range(len(ends))], y, None)]
    if len(ends) > 1 and not beside:
        return together
    channels = y.shape[2] // len(ends)
    runs = [_runs(end, d, y, channels) for end in ends]
    if at_once and (not any(runs) or len(ends) > 1 and d.shape[1] * d.shape[2] * channels < APART):
        return together
    return [([k], y[:, :, k * channels : (k + 1) * channels], own) for k, own in enumerate(runs)]


def _parts(d: Tensor, channels: int) -> list[slice]:
    """Edges, so many at a time that their features are at most ``FEW`` numbers, 1 MB of float32."""
    if traced(d) or d.is_cuda:
        return [slice(None)]
    step = max(1, FEW // (d.shape[2] * channels))
    return [slice(start, start + step) for start in range(0, d.shape[0], step)]


def _gathered(xs: Sequence[Tensor], ends: Sequence[End], beside: bool, part: slice, dtype: torch.dtype) -> Tensor:
    return _joined([x.index_select(0, end.index[part]).to(dtype) for x, end in zip(xs, ends, strict=True)], beside)


def _multiply(a: Tensor, b: Tensor, out: Tensor, *, add: bool = False) -> None:
    """a b into ``out``, or added to it; recorded as a copy, since an operation with a place for its result has no
    derivative."""
    if add:
        out.baddbmm_(a, b)
    elif traced(out) or out.dtype != a.dtype:
        out.copy_(a @ b)
    else:
        torch.bmm(a, b, out=out)


def _save(ctx: Any, ends: tuple[End, ...], beside: bool, factor: Tensor, *others: Tensor) -> None:  # noqa: ANN401
    """Of the two factors what the gradient of the other needs, if that can be asked for."""
    needs_factor, *needs_others = ctx.needs_input_grad[-1 - len(others) :]
    ctx.ends = ends, beside
    kept = others if needs_factor else [None] * len(others)
    ctx.save_for_backward(factor if any(needs_others) else None, *kept)


class _In(torch.autograd.Function):
    """``rotate_in``."""

    @staticmethod
    def forward(ctx: Any, ends: tuple[End, ...], beside: bool, d: Tensor, *xs: Tensor) -> Tensor:  # noqa: ANN401
        ctx.dtype = d.dtype
        _save(ctx, ends, beside, d, *xs)
        y = xs[0].new_empty(*d.shape[:2], xs[0].shape[2] * (len(xs) if beside else 1))
        # both ends at once: a product into half of the rows takes longer than it saves
        if len(ends) == 1 and (runs := _runs(ends[0], d, y, y.shape[2])):
            for a, b, out in zip(runs.of_edges(d), runs.of_atoms(xs[0]), runs.of_edges(y), strict=True):
                torch.bmm(a, b, out=out)
            return y
        for part in _parts(d, y.shape[2]):
            _multiply(d[part], _gathered(xs, ends, beside, part, d.dtype), y[part])
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        d, *xs = ctx.saved_tensors
        needs_d, *needs_xs = wanted(ctx)
        of_d = _Matrices.apply(*ctx.ends, ctx.dtype, g, *xs) if needs_d else None
        of_xs = _Out.apply(*ctx.ends, d, g) if any(needs_xs) else [None] * len(xs)
        return None, None, of_d, *of_xs


class _Out(torch.autograd.Function):
    """``rotate_out``, onto one end or both."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        ends: tuple[End, ...],
        beside: bool,
        d: Tensor,
        y: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.dtype = d.dtype
        _save(ctx, ends, beside, d, y)
        channels = y.shape[2] // (len(ends) if beside else 1)
        xs = [d.new_zeros(end.atoms, d.shape[2], channels) for end in ends]
        # end by end, since rows that lie side by side would have to be copied to be summed
        for of, own, runs in _shares(ends, beside, d, y, at_once=False):
            if runs:
                for a, b, out in zip(runs.of_edges(d), runs.of_edges(own), runs.of_atoms(xs[of[0]]), strict=True):
                    torch.bmm(a.mT, b, out=out)
                continue
            for part in _parts(d, channels):
                sums = d[part].mT @ own[part].to(d.dtype)
                for k in of:
                    xs[k].index_add_(0, ends[k].index[part], sums)
        return tuple(x.to(y.dtype) for x in xs)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        d, y = ctx.saved_tensors
        needs_d, needs_y = wanted(ctx)
        of_d = _Matrices.apply(*ctx.ends, ctx.dtype, y, *g) if needs_d else None
        return None, None, of_d, _In.apply(*ctx.ends, d, *g) if needs_y else None


class _Matrices(torch.autograd.Function):
    """The gradient with respect to D: Σ_c y[e, r, c] x[j(e), s, c]."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        ends: tuple[End, ...],
        beside: bool,
        dtype: torch.dtype,
        y: Tensor,
        *xs: Tensor,
    ) -> Tensor:
        _save(ctx, ends, beside, y, *xs)
        d = y.new_empty(*y.shape[:2], xs[0].shape[1], dtype=dtype)
        for number, (of, own, runs) in enumerate(_shares(ends, beside, d, y, at_once=True)):
            if runs:
                for a, b, out in zip(runs.of_edges(own), runs.of_atoms(xs[of[0]]), runs.of_edges(d), strict=True):
                    _multiply(a, b.mT, out, add=number > 0)
                continue
            for part in _parts(d, own.shape[2]):
                factor = _gathered([xs[k] for k in of], [ends[k] for k in of], beside, part, dtype).mT
                _multiply(own[part].to(dtype), factor, d[part], add=number > 0)
        return d

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        y, *xs = ctx.saved_tensors
        needs_y, *needs_xs = wanted(ctx)
        of_y = _In.apply(*ctx.ends, h, *xs) if needs_y else None
        of_xs = _Out.apply(*ctx.ends, h, y) if any(needs_xs) else [None] * len(xs)
        return None, None, None, of_y, *of_xs


def unavailable(backend: Backend, device: torch.device) -> str:
    """Why a backend cannot run on tensors of a device; empty if it can."""
    return missing(device) if backend == "triton" else ""


def _arguments(wigner: Tensor, ends: Sequence[End], layout: Layout) -> tuple[Any, ...]:
    """What the kernels are given beside numbers.

    Raises:
        CovariumError: they cannot run here.
    """
    if reason := unavailable("triton", wigner.device):
        raise CovariumError(f"backend 'triton' cannot be used: {reason}. Allowed here: backend 'torch'")
    if wigner.dim() != 2:
        raise CovariumError(f"backend 'triton' takes Wigner matrices without zeros, [E, P]; got {tuple(wigner.shape)}")
    indices, orders, starts = zip(*[(end.index, end.order, end.starts) for end in ends], strict=True)
    return list(indices), list(orders), list(starts), list(_table(layout))


@cache
def _table(layout: Layout) -> tuple[int, ...]:
    """The layout as the kernels read it: for each degree l, first column, number of rows, and of every row its place in
    the frame and that of its numbers in D."""
    table: list[int] = []
    for l, column in layout.columns.items():
        rows = [
            (r, place) for r, (place, (of, _)) in enumerate(zip(layout.places, layout.frame, strict=True)) if of == l
        ]
        table += [l, column, len(rows), *[number for row in rows for number in row]]
    return tuple(table)

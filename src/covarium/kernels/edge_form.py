"""The form of four factors behind the messages of the Equivariant Transformer: the rule of its derivatives, and its
values on a processor, for as many edges at a time as stay in the cache.

    Φ(W, A, X, G) = Σ_e Σ_f W⁰[e,f] A[e,head(f)] X⁰[j,f] G⁰[i,f]
                  + Σ_e Σ_c Σ_f (W¹[e,f] A_c[e] X¹[j,f] + W²[e,f] A₄[e] X_c[j,f]) G_c[i,f].

It is linear in each factor, so a derivative of ∂Φ/∂ one along changes of the others is a sum of such forms again:
what computes these is exact to every order.

Letters: e edges from j to i, F channels f = (head, d), c = 1..3. Rows in memory: W [b F], of 1, 2 or 3 blocks b; A
[heads, then 3 numbers A_c with b > 1, then A₄ with b = 3]; X [F; 2 F; 5 F]; G [F; 4 F]. Without W it is 1.
``sizes``: heads, channels of each, blocks of W.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

W, A, X, G = range(4)
NUMBERS = 1 << 16  # in F channels of the edges worked on at a time: a few tensors of these are in the cache
Slots = Mapping[int, Tensor]
Pieces = Mapping[int, Sequence[Tensor]]  # of a factor or its change, by F channels
Sizes = tuple[int, int, int]
# (tensors, given, wanted) → ∂Φ/∂ the wanted factors, along changes where these are given, as 4..7
Form = Callable[[list[Tensor], list[int], list[int]], Sequence[Tensor]]


def columns(slot: int, sizes: Sequence[int]) -> int:
    """Numbers in a row of W, A, X or G."""
    heads, width, blocks = sizes
    f, which = heads * width, blocks - 1
    return (blocks * f, heads + (0, 3, 4)[which], (1, 2, 5)[which] * f, (1, 4, 4)[which] * f)[slot]


def gradients(form: Form, tensors: Slots, needed: set[int], above: Slots) -> dict[int, Tensor]:
    """The derivative of ``form`` with respect to the ``needed`` of its ``tensors``, where it is not zero.

    Args:
        form: computes a form and its derivatives.
        tensors: factors, 0..3, and changes along which it was differentiated, 4..7.
        needed: some of them.
        above: gradients with respect to what it gave.
    """
    factors = {slot: tensor for slot, tensor in tensors.items() if slot <= G}
    changes = {slot - 4: tensor for slot, tensor in tensors.items() if slot > G}
    of_factors = {slot for slot in needed if slot <= G}
    if not changes:
        return _along(form, factors, above, of_factors)
    of_changes = _along(form, factors, above, {slot - 4 for slot in needed - of_factors})
    found = {slot + 4: tensor for slot, tensor in of_changes.items()}
    for slot, change in changes.items():
        others = {k: gradient for k, gradient in above.items() if k != slot}
        for k, more in _along(form, factors | {slot: change}, others, of_factors - {slot}).items():
            found[k] = found[k] + more if k in found else more
    return found


def _along(form: Form, factors: Slots, changes: Slots, needed: set[int]) -> dict[int, Tensor]:
    """Of the needed factors, the derivatives along changes of ∂Φ/∂ them, where they are not zero."""
    wanted = sorted(slot for slot in needed if changes.keys() - {slot})
    if not wanted:
        return {}
    # linear in each: a single change takes the place of its factor
    given = {**factors, **(changes if len(changes) == 1 else {slot + 4: change for slot, change in changes.items()})}
    slots = sorted(given)
    return dict(zip(wanted, form([given[slot] for slot in slots], slots, wanted), strict=True))


def edge_form(
    factors: Slots, wanted: int, index: tuple[Tensor, Tensor], atoms: tuple[int, int], sizes: Sequence[int]
) -> Tensor:
    """∂Φ/∂ one factor, on a processor; differentiable to every order.

    Args:
        factors: the others, by W, A, X, G.
        wanted: one of these.
        index: j and i of the edges, [E].
        atoms: rows of X and of G.
        sizes: heads, channels of each, blocks of W.
    """
    given = sorted(factors)
    (found,) = _EdgeForm.apply(given, [wanted], (index, atoms, tuple(sizes)), *(factors[slot] for slot in given))
    return found


class _EdgeForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: list[int], wanted: list[int], rest: Any, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.set_materialize_grads(False)
        ctx.given, ctx.wanted, ctx.rest = given, wanted, rest
        ctx.save_for_backward(*tensors)
        index, atoms, sizes = rest
        return _computed(dict(zip(given, tensors, strict=True)), wanted, index, atoms, sizes)

    @staticmethod
    def backward(ctx: Any, *above: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        needed = {slot for slot, need in zip(ctx.given, ctx.needs_input_grad[3:], strict=True) if need}

        def form(tensors: list[Tensor], given: list[int], wanted: list[int]) -> Sequence[Tensor]:
            found: Sequence[Tensor] = _EdgeForm.apply(given, wanted, ctx.rest, *tensors)
            return found

        tensors = dict(zip(ctx.given, ctx.saved_tensors, strict=True))
        known = {slot: gradient for slot, gradient in zip(ctx.wanted, above, strict=True) if gradient is not None}
        found = gradients(form, tensors, needed, known)
        return None, None, None, *(found.get(slot) for slot in ctx.given)


def _computed(
    tensors: Slots, wanted: list[int], index: tuple[Tensor, Tensor], atoms: tuple[int, int], sizes: Sizes
) -> tuple[Tensor, ...]:
    """What ``Form`` says; edges in their order, so that sums are the same at every run."""
    edges, f = len(index[0]), sizes[0] * sizes[1]
    of_edges, of_atoms = _empty(tensors, wanted, edges, atoms, sizes)
    # a factor is not read where nothing but its own derivative is wanted
    read = {slot: tensor for slot, tensor in tensors.items() if set(wanted) - {slot % 4}}
    changed = [slot - 4 for slot in read if slot > G]
    rows = {slot: [one.contiguous() for one in _parts(t, slot, sizes)] for slot, t in read.items() if slot % 4 >= X}
    for first in range(0, edges, max(NUMBERS // f, 1)):
        part = slice(first, first + max(NUMBERS // f, 1))
        ends = [one[part] for one in index]
        p = {slot: _parts(t[part], slot, sizes) for slot, t in read.items() if slot % 4 < X}
        p |= {slot: [one.index_select(0, ends[slot % 4 - X]) for one in row] for slot, row in rows.items()}
        for slot in p.keys() & {A, A + 4}:
            p[slot][0] = p[slot][0].repeat_interleave(sizes[1], dim=1, output_size=f)
        into = _Sums({slot: _parts(t[part], slot, sizes) for slot, t in of_edges.items()})
        if not changed:
            _add(p, set(wanted), sizes, into)
        for slot in changed:
            _add(p | {slot: p[slot + 4]}, set(wanted) - {slot}, sizes, into)
        for slot, totals in of_atoms.items():
            for k, total in enumerate(totals):
                total.index_add_(0, ends[slot - X], into.at[slot, k].to(total.dtype))
    return tuple(of_edges[slot] if slot < X else torch.cat(of_atoms[slot], dim=1) for slot in wanted)


def _empty(
    tensors: Slots, wanted: list[int], edges: int, atoms: tuple[int, int], sizes: Sizes
) -> tuple[dict[int, Tensor], dict[int, list[Tensor]]]:
    """Places for rows of edges, and zeros for those of atoms, in pieces."""
    dtypes = {slot: tensor.dtype for slot, tensor in tensors.items()}
    # what is not given has the dtype that sums have
    sums = torch.float64 if torch.float64 in dtypes.values() else torch.float32
    like, f = next(iter(tensors.values())), sizes[0] * sizes[1]
    width = {slot: columns(slot, sizes) for slot in wanted}
    of_edges = {s: like.new_empty(edges, width[s], dtype=dtypes.get(s, sums)) for s in wanted if s < X}
    of_atoms = {
        s: [like.new_zeros(atoms[s - X], f, dtype=dtypes.get(s, sums)) for _ in range(width[s] // f)]
        for s in wanted
        if s >= X
    }
    return of_edges, of_atoms


def _parts(rows: Tensor, slot: int, sizes: Sizes) -> list[Tensor]:
    """A factor, or a change of it, in pieces: W, X and G by F channels, A in that of the heads and single numbers."""
    heads, width, _ = sizes
    pieces = [heads, *[1] * (rows.shape[1] - heads)] if slot % 4 == A else heads * width
    return list(rows.split(pieces, dim=1))


class _Sums:
    """What is wanted, piece by piece; the first term is stored, the others are added."""

    def __init__(self, places: Mapping[int, Sequence[Tensor]]) -> None:
        self.at = {(slot, k): place for slot, pieces in places.items() for k, place in enumerate(pieces)}
        self._begun: set[tuple[int, int]] = set()

    def product(self, slot: int, k: int, a: Tensor, b: Tensor | None) -> None:
        """Add a b."""
        if b is None:
            self.add(slot, k, a)
        elif (slot, k) in self._begun:
            self.at[slot, k].addcmul_(a, b)
        elif (slot, k) in self.at:
            torch.mul(a, b, out=self.at[slot, k])
        else:
            self.at[slot, k] = a * b
        self._begun.add((slot, k))

    def add(self, slot: int, k: int, a: Tensor) -> None:
        if (slot, k) in self._begun:
            self.at[slot, k].add_(a)
        elif (slot, k) in self.at:
            self.at[slot, k].copy_(a)
        else:
            self.at[slot, k] = a.clone()
        self._begun.add((slot, k))


def _add(p: Pieces, wanted: set[int], sizes: Sizes, into: _Sums) -> None:
    """∂Φ/∂ the wanted factors of a few edges, all of whose rows are given in pieces."""
    blocks = sizes[2]
    w: Sequence[Tensor | None] = p.get(W, [None] * blocks)
    _add_scalars(p, w[0], wanted, sizes, into)
    if blocks == 1:
        return
    if wanted & {W, X}:
        s = _dot(p[A][1:4], p[G][1:])
        if W in wanted:
            into.product(W, 1, p[X][1], s)
        if X in wanted:
            into.product(X, 1, s, w[1])
    if wanted & {A, G}:
        t = _times(p[X][1], w[1])
        for c in (1, 2, 3):
            if A in wanted:
                into.add(A, c, (p[G][c] * t).sum(1, keepdim=True))
            if G in wanted:
                into.product(G, c, t, p[A][c])
    if blocks == 3:
        _add_vectors(p, w[2], wanted, into)


def _add_scalars(p: Pieces, w: Tensor | None, wanted: set[int], sizes: Sizes, into: _Sums) -> None:
    """The term of W⁰."""
    if wanted & {W, A}:
        product = p[X][0] * p[G][0]
        if W in wanted:
            into.product(W, 0, product, p[A][0])
        if A in wanted:
            into.add(A, 0, _times(product, w).unflatten(1, sizes[:2]).sum(2))
    if wanted & {X, G}:
        product = _times(p[A][0], w)
        for slot, other in ((X, G), (G, X)):
            if slot in wanted:
                into.product(slot, 0, product, p[other][0])


def _add_vectors(p: Pieces, w: Tensor | None, wanted: set[int], into: _Sums) -> None:
    """The term of W²."""
    if wanted & {W, A}:
        q = _dot(p[X][2:], p[G][1:])
        if W in wanted:
            into.product(W, 2, q, p[A][4])
        if A in wanted:
            into.add(A, 4, _times(q, w).sum(1, keepdim=True))
    if wanted & {X, G}:
        u = _times(p[A][4], w)
        for c in (1, 2, 3):
            if X in wanted:
                into.product(X, 1 + c, p[G][c], u)
            if G in wanted:
                into.product(G, c, p[X][1 + c], u)


def _times(a: Tensor, b: Tensor | None) -> Tensor:
    return a if b is None else a * b


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Σ_c a_c b_c."""
    total = a[0] * b[0]
    for one, other in zip(a[1:], b[1:], strict=True):
        total.addcmul_(one, other)
    return total

"""Attention logits and messages between atoms, with filters of the edges: the Equivariant Transformer's (Thölke 2022,
arXiv 2202.02541, Eq. 7 to 10).

    edge_logits:    l[e, h] = Σ_{f in h} q[i, f] k[j, f] W[e, f],
    edge_messages:  y[i, f] = Σ_{e: i(e) = i} W⁰[e, f] α[e, h(f)] s[j, f]
                    v[i, c, f] = Σ_{e: i(e) = i} (W¹[e, f] û_c[e] t[j, f] + W²[e, f] w[e] z[j, c, f]).

Both are derivatives of one form that is linear in each of four factors: filters, numbers of edges (α, û, w; for logits
the cotangent of l), features of sources, and features of targets (q, or the cotangents of y and v), see
``covarium.kernels.edge_form``. What computes it is therefore exact to every order: filters are read once, and nothing
of the edges is stored but α and l. What is not linear, from l to α, is between the two, on [E, h].

Letters: E edges j → i, N atoms, F channels f of h heads, c = 1..3.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from covarium.errors import CovariumError
from covarium.kernels import edge_form
from covarium.kernels.edge_form import A, G, W, X
from covarium.ops.gather import gather, scatter_sum
from covarium.ops.rotation import Backend, End, unavailable
from covarium.ops.traced import traced

Ends = tuple[End, End]


def logits(
    q: Float[Tensor, "E F"], k: Float[Tensor, "E F"], filters: Float[Tensor, "E F"] | None, heads: int
) -> Float[Tensor, "E h"]:
    """Σ over the channels of a head of q k W."""
    product = q * k if filters is None else q * k * filters
    return product.unflatten(1, (heads, -1)).sum(2)


def edge_logits(
    q: Float[Tensor, "N F"],
    k: Float[Tensor, "M F"],
    filters: Float[Tensor, "E F"] | None,
    ends: Ends,
    heads: int,
    *,
    backend: Backend = "torch",
) -> Float[Tensor, "E h"]:
    """Logits of the edges.

    Args:
        q, k: of targets and sources.
        filters: None for 1.
        ends: sources and targets, where k and q are read.
        backend: ``triton`` needs a CUDA device.

    Raises:
        CovariumError: the backend cannot run here, and why.
    """
    source, target = ends
    if _by_form(backend, q, target):
        return _form({W: filters, X: k, G: q}, A, ends, (heads, q.shape[1] // heads, 1), backend)
    return logits(gather(q, target.index), gather(k, source.index), filters, heads)


def edge_messages(
    alpha: Float[Tensor, "E h"],
    filters: Float[Tensor, "E W"] | None,
    directions: Float[Tensor, "E 3"],
    weight: Float[Tensor, "E 1"] | None,
    values: Float[Tensor, "M 2*F"],
    vectors: Float[Tensor, "M 3*F"] | None,
    ends: Ends,
    *,
    backend: Backend = "torch",
) -> Float[Tensor, "N 4*F"]:
    """y and v of the targets; deterministic with ``triton``, and on the CPU.

    Args:
        alpha: weights of attention.
        filters: W⁰, W¹ and, with vectors, W²; None for 1.
        directions: û.
        weight: w, of vectors; None for 1.
        values: s and t of the sources.
        vectors: z; None for zeros.
        ends: sources, where values are read, and targets, where sums go.
        backend: as in ``edge_logits``.

    Raises:
        CovariumError: the backend cannot run here, and why.
    """
    if _by_form(backend, values, ends[1]):
        numbers, features = [alpha, directions], [values]
        if vectors is not None:
            numbers.append(alpha.new_ones(len(alpha), 1) if weight is None else weight)
            features.append(vectors)
        factors = {W: filters, A: torch.cat(numbers, dim=1), X: torch.cat(features, dim=1)}
        heads = alpha.shape[1]
        return _form(factors, G, ends, (heads, values.shape[1] // 2 // heads, len(numbers)), backend)
    return messages(alpha, filters, directions, weight, values, vectors, ends)


def messages(
    alpha: Float[Tensor, "E h"],
    filters: Float[Tensor, "E W"] | None,
    directions: Float[Tensor, "E 3"],
    weight: Float[Tensor, "E 1"] | None,
    values: Float[Tensor, "M 2*F"],
    vectors: Float[Tensor, "M 3*F"] | None,
    ends: Ends,
) -> Float[Tensor, "N 4*F"]:
    """``edge_messages`` by single operations on all edges."""
    source, target = ends
    heads, f = alpha.shape[1], values.shape[1] // 2
    s, t = gather(values, source.index).split(f, dim=1)
    of_vectors = weight
    if filters is not None:
        first, second, *third = filters.split(f, dim=1)
        s, t = s * first, t * second
        if third:
            of_vectors = third[0] if weight is None else third[0] * weight
    s = (s.unflatten(1, (heads, -1)) * alpha.unsqueeze(2)).flatten(1)
    v = t.unsqueeze(1) * directions.unsqueeze(2)
    if vectors is not None:
        z = gather(vectors, source.index).unflatten(1, (3, f))
        v = v + (z if of_vectors is None else z * of_vectors.unsqueeze(1))
    sums = [scatter_sum(part, target.index, target.atoms) for part in (s, v)]
    return torch.cat([sums[0], sums[1].flatten(1)], dim=1)


def _by_form(backend: Backend, x: Tensor, target: End) -> bool:
    """What is recorded stays single operations, which a compiler joins better; a few edges are in the cache anyway.

    Args:
        x: features of atoms.
    """
    if backend == "triton" or x.device.type != "cpu" or traced(x):
        return backend == "triton"
    return len(target.index) > few_edges(x.shape[1])


def few_edges(channels: int) -> int:
    """How many edges stay in the cache, so that a processor works on them by single operations."""
    return edge_form.NUMBERS // channels


def _form(
    factors: dict[int, Tensor | None], wanted: int, ends: Ends, sizes: tuple[int, int, int], backend: Backend
) -> Tensor:
    """The derivative of the form with respect to one factor.

    Raises:
        CovariumError: they cannot run here.
    """
    given = {slot: tensor for slot, tensor in factors.items() if tensor is not None}
    if backend == "torch":
        source, target = ends
        return edge_form.edge_form(given, wanted, (source.index, target.index), (source.atoms, target.atoms), sizes)
    if reason := unavailable("triton", ends[0].index.device):
        raise CovariumError(f"backend 'triton' cannot be used: {reason}. Allowed here: backend 'torch'")
    # where triton may not be installed, only here
    from covarium.kernels.triton import messages

    lists: Any = zip(*[(end.index, end.order, end.starts) for end in ends], strict=True)
    (found,) = messages.edge_form(list(given.values()), list(given), [wanted], *map(list, lists), list(sizes))
    return cast(Tensor, found)

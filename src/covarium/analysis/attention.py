"""Attention weights of a model on a graph, and what they add up to over its layers.

Letters: N atoms, n of them in one structure, E directed edges j → i, H heads, L layers. A weight belongs to the target
i and the source j: how much i attends to j.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array, eye_array
from torch import Tensor, nn

from covarium.analysis.check import MAX_COST
from covarium.analysis.errors import batched_frames
from covarium.data import Frame
from covarium.errors import CovariumError
from covarium.layers.attention_weights import AttentionWeights, SoftmaxWeights
from covarium.systems import AtomGraph
from covarium.tasks import Potential, Property

MAX_ATOMS = 4000
Progress = Callable[[int, int], object]


class Layer(NamedTuple):
    """One layer's weights.

    name: where it stands in the model. repeated: one of the blocks that features pass one after the other, not a head
    beside others. weights: [E, H] as the model computes them. loops: [N, H], of an atom for itself, where the model has
    such.
    """

    name: str
    repeated: bool
    weights: Tensor
    loops: Tensor | None


@dataclass(frozen=True)
class Attention:
    """All layers in the order in which they ran; envelope: [E], by which a smooth softmax's weights are multiplied
    once more before they meet the values, or None."""

    layers: tuple[Layer, ...]
    envelope: Tensor | None

    def applied(self, layer: Layer) -> Tensor:
        """[E, H], what values are multiplied by."""
        return layer.weights if self.envelope is None else layer.weights * self.envelope.unsqueeze(1)


def attention_points(model: nn.Module) -> dict[str, AttentionWeights]:
    """Where in the model attention weights of edges come out: name → module.

    Raises:
        CovariumError: nowhere.
    """
    points = {name: m for name, m in model.named_modules() if isinstance(m, AttentionWeights)}
    if not points:
        raise CovariumError(
            f"{type(model).__name__} has no attention over the edges of atoms; models that do: equiformer, "
            "equiformer_v2, equiformer_v3, torchmd_et"
        )
    return points


def observe(model: nn.Module, graph: AtomGraph) -> Attention:
    """Run a model of atoms in evaluation mode, without gradients, and look at its attention.

    With ``model.tile`` set the weights of the tiles are put together again; this needs the memory of the weights alone.

    Raises:
        CovariumError: the model has no attention over edges.
    """
    points = attention_points(model)
    repeated = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    seen: dict[str, list[Tensor]] = {}
    envelopes: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def keep(module: nn.Module, arguments: tuple[Any, ...], weights: Tensor) -> None:
            seen.setdefault(name, []).append(weights.detach())
            if isinstance(module, SoftmaxWeights) and arguments[3] is not None:
                envelopes.setdefault(name, []).append(arguments[3].detach())

        return keep

    with _watched(model, [(point, watch(name)) for name, point in points.items()]), torch.no_grad():
        model(graph)
    edges = graph.edge_index.shape[1]
    found = {
        name: _joined(name, parts, graph.num_atoms if points[name].loops else edges) for name, parts in seen.items()
    }
    loops = {_place(name): rows for name, rows in found.items() if points[name].loops}
    layers = tuple(
        Layer(_place(name), any(name.startswith(f"{part}.") for part in repeated), rows, loops.get(_place(name)))
        for name, rows in found.items()
        if not points[name].loops
    )
    envelope = next((_joined(name, parts, edges) for name, parts in envelopes.items()), None)
    return Attention(layers, envelope)


@contextmanager
def _watched(model: nn.Module, hooks: Sequence[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    """Hooks while inside, in evaluation mode."""
    training = model.training
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        model.eval()
        yield
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()


def _place(name: str) -> str:
    return name.rpartition(".")[0]


def _joined(name: str, parts: Sequence[Tensor], rows: int) -> Tensor:
    """The tiles' rows, which come in order."""
    joined = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    if joined.shape[0] != rows:
        raise CovariumError(f"{name} gave {joined.shape[0]} rows of attention weights in place of {rows}")
    return joined


def rollout(
    weights: Sequence[np.ndarray], loops: Sequence[np.ndarray | None], edge_index: np.ndarray, num_atoms: int
) -> csr_array:
    """How much each atom after the last layer goes back to each atom before the first (Abnar & Zuidema 2020,
    arXiv 2005.00928, Sec. 3): R = A_L ⋯ A_1 with A = (W + 1)/2, where 1 stands for the residual connection.

    W_ij is the mean over the heads of |weight|, summed over the images of j that i sees, divided by the row's sum with
    the loop. Absolute values, because TorchMD-NET's weights may be negative; the division, because its rows have any
    sum, and smooth ones less than 1. An atom without weights keeps to itself, A_ii = 1. Rows of R sum to 1.

    Args:
        weights: of each repeated layer [E, H], in the order of the layers.
        loops: of each layer [N, H] or None.
        edge_index: [2, E], source j and target i.
        num_atoms: N; atoms of several structures never mix.

    Returns:
        sparse [N, N] float64, its columns in order.
    """
    j, i = edge_index
    result = eye_array(num_atoms, format="csr")
    for of_edges, of_atoms in zip(weights, loops, strict=True):
        w = np.abs(of_edges.astype(np.float64)).mean(1)
        loop = np.zeros(num_atoms) if of_atoms is None else np.abs(of_atoms.astype(np.float64)).mean(1)
        total = np.bincount(i, w, num_atoms) + loop
        alone = total == 0
        half = 0.5 / np.where(alone, 1.0, total)
        step = csr_array((w * half[i], (i, j)), shape=(num_atoms, num_atoms))
        step = step + diags_array(np.where(alone, 1.0, 0.5 + loop * half), format="csr")
        result = csr_array(step @ result)
    result.sum_duplicates()
    return result


def attention_rollout(attention: Attention, graph: AtomGraph) -> csr_array:
    """``rollout`` through the repeated layers."""
    layers = [layer for layer in attention.layers if layer.repeated]
    weights = [_array(attention.applied(layer)) for layer in layers]
    loops = [None if layer.loops is None else _array(layer.loops) for layer in layers]
    return rollout(weights, loops, _array(graph.edge_index), graph.num_atoms)


def even_rollout(attention: Attention, graph: AtomGraph) -> csr_array:
    """What the graph alone gives: the rollout if every edge, and every loop of a model with loops, had weight one."""
    ones, loop = np.ones((graph.edge_index.shape[1], 1)), np.ones((graph.num_atoms, 1))
    layers = [layer for layer in attention.layers if layer.repeated]
    loops = [None if layer.loops is None else loop for layer in layers]
    return rollout([ones] * len(layers), loops, _array(graph.edge_index), graph.num_atoms)


@dataclass(frozen=True)
class StructureAttention:
    """Attention within one structure.

    Attributes:
        frame: the structure.
        layers: their names [L], in the order in which they ran; repeated: [L], whether the rollout goes through them.
        edge_index: [2, E], source j and target i; shifts: [E, 3]; distance: [E] Å.
        weights: [L, E, H] as the model computes them.
        loops: [L, n, H] of atoms for themselves, or None.
        envelope: [E] or None.
        rollout, even: sparse [n, n], of the model, and of equal weights.
    """

    frame: Frame
    layers: tuple[str, ...]
    repeated: tuple[bool, ...]
    edge_index: np.ndarray
    shifts: np.ndarray
    distance: np.ndarray
    weights: np.ndarray
    loops: np.ndarray | None
    envelope: np.ndarray | None
    rollout: csr_array
    even: csr_array

    @property
    def applied(self) -> np.ndarray:
        """[L, E, H], what values are multiplied by."""
        return self.weights if self.envelope is None else self.weights * self.envelope[None, :, None]


def attention_of_frames(
    task: Potential | Property, frames: Sequence[Frame], *, max_cost: int = MAX_COST, progress: Progress | None = None
) -> Iterator[StructureAttention]:
    """Attention of every frame, in order, computed in batches of bounded cost.

    Args:
        task: on any device, in any dtype.
        frames: labels are not read.
        max_cost: largest cost of a batch; a frame that costs more stands alone.
        progress: called with (frames done, all frames) after every batch.

    Raises:
        CovariumError: a model without attention, a frame that the task refuses or of more than 4000 atoms; the frame is
            named; or one whose weights are not finite.
    """
    for frame in frames:
        if len(frame.numbers) > MAX_ATOMS:
            raise CovariumError(
                f"{frame.where} has {len(frame.numbers)} atoms; the rollout, a matrix of all pairs of atoms, is made "
                f"for up to {MAX_ATOMS}: cut a part out of the structure"
            )
    done = 0
    for group, graphs, _ in batched_frames(task, frames, False, max_cost):
        graph = AtomGraph.collate(graphs).to(task.scale.device)
        yield from _parted(group, graph, observe(task.model, graph))
        done += len(group)
        if progress is not None:
            progress(done, len(frames))


def _parted(frames: Sequence[Frame], graph: AtomGraph, attention: Attention) -> Iterator[StructureAttention]:
    """What belongs to each structure of a batch; its edges stand together."""
    weights = _array(torch.stack([layer.weights for layer in attention.layers]))
    _refuse_not_finite(frames, graph, weights)
    model, even = attention_rollout(attention, graph), even_rollout(attention, graph)
    own = [layer.loops for layer in attention.layers if layer.loops is not None]
    loops = _array(torch.stack(own)) if own else None
    envelope = None if attention.envelope is None else _array(attention.envelope)
    index, vectors = _array(graph.edge_index), _array(graph.vectors()).astype(np.float64)
    names = tuple(layer.name for layer in attention.layers)
    repeated = tuple(layer.repeated for layer in attention.layers)
    ends = np.cumsum([len(frame.numbers) for frame in frames])
    edge_ends = np.searchsorted(index[1], ends)
    for k, frame in enumerate(frames):
        last = ends[k]
        atoms = slice(last - len(frame.numbers), last)
        edges = slice(edge_ends[k - 1] if k else 0, edge_ends[k])
        yield StructureAttention(
            frame=frame,
            layers=names,
            repeated=repeated,
            edge_index=index[:, edges] - atoms.start,
            shifts=_shifts(frame, index[:, edges] - atoms.start, vectors[edges]),
            distance=np.linalg.norm(vectors[edges], axis=1),
            weights=weights[:, edges],
            loops=None if loops is None else loops[:, atoms],
            envelope=None if envelope is None else envelope[edges],
            rollout=model[atoms, atoms],
            even=even[atoms, atoms],
        )


def _refuse_not_finite(frames: Sequence[Frame], graph: AtomGraph, weights: np.ndarray) -> None:
    """
    Raises:
        CovariumError: weights [L, E, H] that are no numbers; the first frame with such is named.
    """
    bad = ~np.isfinite(weights).all(axis=(0, 2))
    if bad.any():
        frame = frames[int(graph.batch[graph.edge_index[1, int(bad.argmax())]])]
        raise CovariumError(
            f"{frame.where}: the attention weights are not finite; look for overlapping atoms in the frame, or check "
            "the model's training log for a diverged run"
        )


def _shifts(frame: Frame, edge_index: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[E, 3] lattice vectors that belong to the frame's own positions: in a graph of float32 atoms that were far away
    have come back by whole ones (``systems.origin``)."""
    j, i = edge_index
    shifts = np.zeros((len(vectors), 3), dtype=np.int64)
    whole = (vectors - frame.positions[j] + frame.positions[i]) @ np.linalg.pinv(frame.cell[frame.pbc])
    shifts[:, frame.pbc] = np.rint(whole)
    return shifts


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()

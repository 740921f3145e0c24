"""Steps of one size, recorded once and replayed: on CUDA one launch for energies and forces, one for the gradients.

Small systems keep a GPU waiting for Python. What a recording reads lies in fixed places: structures are copied
there, weights are read where they are. What it leaves is copied before the next replay writes there again. All
recordings share one place for what lies between, so that memory is that of the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from covarium.ops.last import last
from covarium.tasks.asked import CompilationError

SMALL = 16_384  # edges; larger systems keep a GPU busy, and are neither filled up nor recorded
MOST = 64  # recordings; sizes that come later are computed without
WARM = 3  # steps before a recording, as torch.cuda.make_graphed_callables does

SECOND = "second derivatives of recorded steps are not made; give the compiled potential recorder=lambda device: None"

T = TypeVar("T")


class Recorder(Protocol):
    """What can do the same operations on the same memory again."""

    def warm(self, function: Callable[[], object]) -> None:
        """Run it as often as the first recording needs."""

    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], object]]:
        """Results, which have no values yet, and what puts values there."""


class CudaGraphs:
    """Recordings as CUDA graphs in one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, function: Callable[[], object]) -> None:
        """On a stream of its own, as capture asks for."""
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM):
                    function()
            torch.cuda.current_stream().wait_stream(stream)

    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], object]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, pool=self._pool):
            results = function()
        return results, graph.replay


def cuda_graphs(device: torch.device) -> Recorder | None:
    """CUDA graphs where there is CUDA."""
    return CudaGraphs(device) if device.type == "cuda" else None


@dataclass(frozen=True)
class Step:
    """A recorded step of one size.

    Attributes:
        inputs: where the structures are copied to.
        outputs, forward: results and what makes them.
        differentiable: of each output.
        given: where gradients with respect to the differentiable outputs are copied to.
        gradients, backward: with respect to the weights, None for those it does not reach, and what makes them.
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    forward: Callable[[], object]
    differentiable: Sequence[bool]
    given: Sequence[Tensor]
    gradients: Sequence[Tensor | None]
    backward: Callable[[], object] | None


class Recordings:
    """Steps by their size. New weights in new places begin anew."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.steps: dict[Hashable, Step] = {}
        self.turn = 0  # what lies between is that of the latest forward pass
        self._places: list[int] = []
        self._weights: Sequence[Tensor] = ()

    def __call__(
        self, key: Hashable, call: Callable[..., Sequence[Tensor]], weights: Sequence[Tensor], inputs: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """What ``call(*weights, *inputs)`` returns, differentiable once with respect to the weights.

        Args:
            key: tells ``call``, and shapes of ``inputs``, apart.

        Raises (in the backward pass):
            CompilationError: there was another forward pass since.
        """
        places = [w.data_ptr() for w in weights]
        if places != self._places:
            self.steps.clear()
            # kept alive, so that nothing else comes to these places
            self._places, self._weights = places, [w.detach() for w in weights]
        differentiating = torch.is_grad_enabled() and any(w.requires_grad for w in weights)
        key = (key, differentiating)
        if key not in self.steps and len(self.steps) >= MOST:
            return call(*weights, *inputs)
        self.turn += 1
        if key not in self.steps:
            self.steps[key] = _recorded(self.recorder, call, weights, inputs, differentiating)
        step = self.steps[key]
        for place, value in zip(step.inputs, inputs, strict=True):
            place.copy_(value)
        if differentiating:
            found: tuple[Tensor, ...] = _Replay.apply(self, step, *weights)
            return found
        step.forward()
        return [value.clone() for value in step.outputs]


class _Replay(torch.autograd.Function):
    """A recorded forward pass, and the backward pass that belongs to it."""

    @staticmethod
    def forward(ctx: Any, recordings: Recordings, step: Step, *weights: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.recordings, ctx.step, ctx.turn, ctx.weights = recordings, step, recordings.turn, weights
        step.forward()
        found = tuple(value.clone() for value in step.outputs)
        ctx.mark_non_differentiable(*(f for f, d in zip(found, step.differentiable, strict=True) if not d))
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        with torch.no_grad():
            found = _Replay.replayed(ctx, gradients)
        return None, None, *last(found, [*ctx.weights, *gradients], SECOND)

    @staticmethod
    def replayed(ctx: Any, gradients: Sequence[Tensor]) -> list[Tensor | None]:  # noqa: ANN401
        """Gradients of the weights."""
        step: Step = ctx.step
        if ctx.turn != ctx.recordings.turn:
            raise CompilationError(
                "a backward pass came after another forward pass, which has overwritten what it needs: call backward "
                "first, or give the compiled potential recorder=lambda device: None"
            )
        reaching = [g for g, d in zip(gradients, step.differentiable, strict=True) if d]
        for place, value in zip(step.given, reaching, strict=True):
            place.copy_(value)
        assert step.backward is not None
        step.backward()
        # a copy in a few launches
        copies = iter(torch._foreach_mul([g for g in step.gradients if g is not None], 1.0))
        return [None if g is None else next(copies) for g in step.gradients]


def _recorded(
    recorder: Recorder,
    call: Callable[..., Sequence[Tensor]],
    weights: Sequence[Tensor],
    inputs: Sequence[Tensor],
    differentiating: bool,
) -> Step:
    """Record both passes, one after the other."""
    leaves = [w.detach().requires_grad_(differentiating and w.requires_grad) for w in weights]
    places = [value.clone() for value in inputs]
    given: list[Tensor] = []

    def forward() -> Sequence[Tensor]:
        return call(*leaves, *places)

    def backward(outputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        reaching = [o for o in outputs if o.requires_grad]
        trained = [w for w in leaves if w.requires_grad]
        # what was saved stays until the end, so that the pass can be replayed twice
        found = iter(torch.autograd.grad(reaching, trained, given, retain_graph=True, allow_unused=True))
        return [next(found) if w.requires_grad else None for w in leaves]

    def once() -> None:
        outputs = forward()
        if differentiating:
            given[:] = given or [torch.zeros_like(o) for o in outputs if o.requires_grad]
            backward(outputs)

    recorder.warm(once)
    outputs, replay_forward = recorder.record(forward)
    gradients: Sequence[Tensor | None] = ()
    replay_backward: Callable[[], object] | None = None
    if differentiating:
        gradients, replay_backward = recorder.record(lambda: backward(outputs))
    return Step(
        places, [o.detach() for o in outputs], replay_forward, [o.requires_grad for o in outputs],
        given, gradients, replay_backward,
    )  # fmt: skip

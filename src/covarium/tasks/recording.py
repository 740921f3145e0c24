"""From a potential to one compiled graph that makes energies, forces and stress.

The function (weights, structures) → (energies, forces, stress) is recorded once with unknown numbers of atoms, edges
and structures, the derivative that makes the forces inside; the recorded operations are then compiled. Recording comes
first because a compiler that follows the Python code cannot differentiate twice, which the loss of forces needs: what
it differentiates here, for the gradients of the weights, is a graph that has the forces in it already.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch._dynamo import lookup_backend
from torch._dynamo.source import LocalSource
from torch._functorch import config as functorch_config
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.overrides import TorchFunctionMode

from covarium.systems import AtomGraph, AtomOutput
from covarium.tasks.asked import SIZES, Asked, Backend, CompilationError, counted, slots_of
from covarium.tasks.potential import Potential

# operations that autograd and our own functions record, and that torch cannot differentiate as they are
PRIMITIVE = (torch.ops.aten.silu_backward.default,)
# An example of each. Where a compiler has a choice it takes what is good for the example, and what is good for many
# terms serves few of them too; what it takes for few may not hold for many.
LENGTHS = {"atoms": 5003, "edges": 50021, "graphs": 5009}
# of torch's symbolic integers, in Python's
FUNCTIONS = {"FloorDiv": operator.floordiv, "CleanDiv": operator.floordiv, "PythonMod": operator.mod}
DETACHED = "detached by the code"
RANDOM = (
    "the model draws random numbers (dropout), of which a compiled graph gives others than a resumed run needs; set "
    "the model's drop rates to 0"
)


class Graph:
    """One compiled graph, the sizes it holds for, and where it was checked.

    Args:
        call: what was compiled.
        names: of its results.
        guards: conditions under which it was made, in ``symbols`` of sympy.
        symbols: those of the lengths.
    """

    def __init__(
        self,
        call: Callable[..., Sequence[Tensor]],
        names: Sequence[str],
        guards: Sequence[Any],
        symbols: Sequence[Any],
    ) -> None:
        self.call, self.names = call, names
        # a graph for many serves few, which is checked when they come; where it does not hold for many, it is not used
        self.lower: list[Callable[..., Any]] = []
        self.guards: dict[str, Callable[..., Any]] = {}
        for guard in guards:
            holds = sympy.lambdify(symbols, guard, [FUNCTIONS, "math"])
            if all(holds(*[n] * len(symbols)) for n in (1 << 30, 1 << 40)):
                self.lower.append(holds)
            else:
                self.guards[str(guard.subs(dict(zip(symbols, LENGTHS, strict=True))))] = holds
        self._kinds: set[tuple[bool, ...]] = set()
        self._sizes: set[tuple[int, ...]] = set()

    def refusal(self, sizes: Sequence[int]) -> str:
        """What speaks against these sizes, or nothing."""
        for text, holds in self.guards.items():
            if not holds(*sizes):
                return f"the graph holds only where {text}, and this system has {counted(sizes)}"
        return ""

    def unchecked(self, sizes: tuple[int, ...], differentiating: bool) -> bool:
        """Whether nothing of this kind was compared yet: with or without a gradient, the first sizes, other sizes, and
        few atoms, edges or structures instead of many."""
        kind = (differentiating, *(bool(holds(*sizes)) for holds in self.lower))
        new = kind not in self._kinds or (len(self._sizes) < 2 and sizes not in self._sizes)
        if new:
            self._kinds.add(kind)
            self._sizes.add(sizes)
        return new


def build(potential: Potential, system: AtomGraph, asked: Asked, backend: Backend) -> Graph:
    """Trace and compile.

    Raises:
        CompilationError: the model draws random numbers.
    """
    env = ShapeEnv(specialize_zero_one=False, duck_shape=False)
    mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    weights = {slot.name: slot.tensor for slot in slots_of(potential.model)}
    inputs: list[Tensor] = [
        mode.from_tensor(w if asked.trained else w.detach(), static_shapes=True) for w in weights.values()
    ]
    lengths = _open_lengths(env)
    inputs += _open_tensors(system, mode, lengths)
    names = ["energy", "atom_energy"] + [n for n in ("forces", "stress") if getattr(asked, n)]

    def function(*tensors: Tensor) -> list[Tensor]:
        given = dict(zip(weights, tensors, strict=False))

        def model(moved: AtomGraph) -> AtomOutput:
            output: AtomOutput = functional_call(potential.model, given, (moved,))
            return output

        open_graph = AtomGraph(**dict(zip(SIZES, tensors[len(weights) :], strict=True)))
        said = potential.of_model(
            model, open_graph, forces=asked.forces, stress=asked.stress, create_graph=asked.trained
        )  # fmt: skip
        return [getattr(said, name) for name in names]

    primitive: Any = get_decompositions(PRIMITIVE)
    # read again in every backward pass: several of them may go through one forward pass
    functorch_config.donated_buffer = False
    with _in_mode(potential, asked.training), tracing(TracingContext(mode)):
        # the tracer would run operations on constants alone for real, if this mode were not on
        with mode, torch.set_grad_enabled(asked.trained):
            module = make_fx(_marking(function), primitive, _allow_non_fake_inputs=True)(*inputs)
        _refuse_random(module)
        _join_saved(module)
        _move_constants(module, system.positions.device)
        with torch.set_grad_enabled(asked.trained):
            call = lookup_backend(backend)(module, inputs, **_options(backend, system))
    return Graph(call, names, [guard.expr for guard in env.guards], [n.node.expr for n in lengths.values()])


def _options(backend: Backend, system: AtomGraph) -> dict[str, Any]:
    """Sums over edges stay in order where several threads would add to one row: the same answer every time."""
    if backend != "inductor" or system.positions.device.type != "cpu" or torch.get_num_threads() == 1:
        return {}
    from torch._inductor.decomposition import select_decomp_table  # heavy, and only needed here

    added = torch.ops.aten.index_add
    return {"decompositions": {op: how for op, how in select_decomp_table().items() if op.overloadpacket is not added}}


def _open_lengths(env: ShapeEnv) -> dict[str, Any]:
    """Unknown numbers of atoms, edges and structures (symbolic integers of torch)."""
    lengths = {}
    for name, example in LENGTHS.items():
        symbol = env.create_symbol(example, LocalSource(name), DimDynamic.DYNAMIC, None)
        lengths[name] = env.create_symintnode(symbol, hint=example, source=LocalSource(name))
    return lengths


def _open_tensors(system: AtomGraph, mode: FakeTensorMode, lengths: dict[str, Any]) -> list[Tensor]:
    """The graph's tensors, without values."""
    tensors = []
    with mode:
        for name, axes in SIZES.items():
            value = getattr(system, name)
            shape = [value.shape[k] if axis is None else lengths[axis] for k, axis in enumerate(axes)]
            tensors.append(torch.empty(shape + list(value.shape[len(axes) :]), dtype=value.dtype, device=value.device))
    return tensors


class _Marking(TorchFunctionMode):
    """Marks what the code itself detaches; the tracer also records as detached what autograd saved for the backward
    pass, and there the way of the gradient must stay open."""

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if "generator" in (kwargs or {}):  # of some of these no graph can be made at all
            raise CompilationError(RANDOM)
        mode = get_proxy_mode()
        if func is not Tensor.detach or mode is None:
            return func(*args, **(kwargs or {}))
        before = len(mode.tracer.graph.nodes)
        out = func(*args, **(kwargs or {}))
        for node in list(mode.tracer.graph.nodes)[before:]:
            node.meta[DETACHED] = True
        return out


def _marking(function: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    def marked(*tensors: Tensor) -> list[Tensor]:
        with _Marking():
            return function(*tensors)

    return marked


def _join_saved(module: GraphModule) -> None:
    """Take out the detachments that the code did not ask for."""
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.detach.default and DETACHED not in node.meta:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _move_constants(module: GraphModule, device: torch.device) -> None:
    """To where they are used: what is copied from the host at every call is no part of a CUDA graph."""
    for node in module.graph.nodes:
        if node.op == "get_attr" and isinstance(value := getattr(module, node.target), Tensor):
            setattr(module, node.target, value.to(device))


def _refuse_random(module: GraphModule) -> None:
    """
    Raises:
        CompilationError: a recorded operation draws random numbers.
    """
    for node in module.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise CompilationError(RANDOM)


@contextmanager
def _in_mode(potential: Potential, training: bool) -> Iterator[None]:
    """As in training or evaluation, where models differ."""
    was = potential.training
    potential.train(training)
    try:
        yield
    finally:
        potential.train(was)

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

from covarium.layers.dropout import Given, uniform
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
Shape = Callable[..., list[Any]]  # by numbers of atoms, edges and structures
DETACHED = "detached by the code"
RANDOM = (
    "the model draws random numbers inside of the graph, which gives others than a resumed run needs; draw them by "
    "covarium.layers.dropout, or set the model's drop rates to 0"
)


class Graph:
    """One compiled graph, the sizes it holds for, and where it was checked.

    Args:
        call: what was compiled.
        names: of its results.
        guards: conditions under which it was made, in ``symbols`` of sympy.
        symbols: those of the lengths.
        draws: shapes of the random numbers that it is given after its other inputs, by the lengths.
    """

    def __init__(
        self,
        call: Callable[..., Sequence[Tensor]],
        names: Sequence[str],
        guards: Sequence[Any],
        symbols: Sequence[Any],
        draws: Sequence[Shape],
    ) -> None:
        self.call, self.names = call, names
        self.draws = draws
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

    def drawn(self, sizes: Sequence[int], x: Tensor, rng: torch.Generator | None) -> list[Tensor]:
        """The random numbers of a step, the same as single operations draw, in the dtype of x and on its device."""
        return [uniform(tuple(shape(*sizes)), x, rng) for shape in self.draws]

    def filled(self, numbers: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Random numbers of a system that was filled up to these sizes; what is new is kept by dropout."""
        found = []
        for given, shape in zip(numbers, self.draws, strict=True):
            full = given.new_ones(shape(*sizes))
            full[tuple(slice(n) for n in given.shape)] = given
            found.append(full)
        return found

    def refusal(self, sizes: Sequence[int]) -> str:
        """What speaks against these sizes, or nothing."""
        for text, holds in self.guards.items():
            if not holds(*sizes):
                return f"the graph holds only where {text}, and this system has {counted(sizes)}"
        return ""

    def unchecked(self, sizes: tuple[int, ...], differentiating: bool) -> bool:
        """Whether nothing of this kind was compared yet: with or without a gradient, the first sizes, other sizes, and
        few atoms, edges or structures instead of many."""
        return self._kind(sizes, differentiating) not in self._kinds or (
            len(self._sizes) < 2 and sizes not in self._sizes
        )

    def agreed(self, sizes: tuple[int, ...], differentiating: bool) -> None:
        """It was compared."""
        self._kinds.add(self._kind(sizes, differentiating))
        self._sizes.add(sizes)

    def _kind(self, sizes: tuple[int, ...], differentiating: bool) -> tuple[bool, ...]:
        return (differentiating, *(bool(holds(*sizes)) for holds in self.lower))


def build(potential: Potential, system: AtomGraph, asked: Asked, backend: Backend) -> Graph:
    """Trace and compile.

    Raises:
        CompilationError: the model draws random numbers other than those of dropout.
    """
    opened = _Open(potential, system, asked.trained)
    draws = _draws(potential, system, asked) if asked.training or asked.mixed else []
    inputs = [*opened.weights.values(), *opened.tensors, *opened.drawn(draws, system.positions)]
    names = ["energy", "atom_energy"] + [n for n in ("forces", "stress") if getattr(asked, n)]

    def function(*tensors: Tensor) -> list[Tensor]:
        parts = iter(tensors)
        given = {name: next(parts) for name in opened.weights}
        open_graph = AtomGraph(**{name: next(parts) for name in SIZES})
        numbers = handed_out(list(parts))

        def model(moved: AtomGraph) -> AtomOutput:
            output: AtomOutput = functional_call(potential.model, given, (moved, numbers), tie_weights=False)
            return output

        said = potential.of_model(
            model, open_graph, forces=asked.forces, stress=asked.stress, create_graph=asked.trained
        )  # fmt: skip
        return [getattr(said, name) for name in names]

    primitive: Any = get_decompositions(PRIMITIVE)
    # read again in every backward pass: several of them may go through one forward pass
    functorch_config.donated_buffer = False
    with _in_mode(potential, asked), tracing(TracingContext(opened.mode)):
        # the tracer would run operations on constants alone for real, if this mode were not on
        with opened.mode, torch.set_grad_enabled(asked.trained):
            module = make_fx(_marking(function), primitive, _allow_non_fake_inputs=True)(*inputs)
        _refuse_random(module)
        _join_saved(module)
        _move_constants(module, system.positions.device)
        with torch.set_grad_enabled(asked.trained):
            call = lookup_backend(backend)(module, inputs, **_options(backend, system))
    return Graph(call, names, [guard.expr for guard in opened.env.guards], opened.symbols, draws)


class _Open:
    """Weights without values, and tensors of a graph without values and with unknown numbers of atoms, edges and
    structures (symbolic integers of torch)."""

    def __init__(self, potential: Potential, system: AtomGraph, trained: bool) -> None:
        self.env = ShapeEnv(specialize_zero_one=False, duck_shape=False)
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        self.weights: dict[str, Tensor] = {
            slot.name: self.mode.from_tensor(slot.tensor if trained else slot.tensor.detach(), static_shapes=True)
            for slot in slots_of(potential.model)
        }
        self.lengths: dict[str, Any] = {}
        for name, example in LENGTHS.items():
            symbol = self.env.create_symbol(example, LocalSource(name), DimDynamic.DYNAMIC, None)
            self.lengths[name] = self.env.create_symintnode(symbol, hint=example, source=LocalSource(name))
        self.tensors = []
        for name, axes in SIZES.items():
            value = getattr(system, name)
            shape = [value.shape[k] if axis is None else self.lengths[axis] for k, axis in enumerate(axes)]
            with self.mode:
                empty = torch.empty(shape + list(value.shape[len(axes) :]), dtype=value.dtype, device=value.device)
            self.tensors.append(empty)

    @property
    def symbols(self) -> list[Any]:
        """Of the lengths, in sympy."""
        return [length.node.expr for length in self.lengths.values()]

    def drawn(self, draws: Sequence[Shape], x: Tensor) -> list[Tensor]:
        """Random numbers without values."""
        with self.mode:
            return [torch.empty(shape(*self.lengths.values()), dtype=x.dtype, device=x.device) for shape in draws]


def _draws(potential: Potential, system: AtomGraph, asked: Asked) -> list[Shape]:
    """Shapes of the random numbers that a pass draws for dropout, in their order."""
    opened = _Open(potential, system, False)
    draws: list[Shape] = []

    def noted(shape: tuple[Any, ...], x: Tensor) -> Tensor:
        lengths = [n.node.expr if isinstance(n, torch.SymInt) else n for n in shape]
        draws.append(sympy.lambdify(opened.symbols, lengths, [FUNCTIONS, "math"]))
        return x.new_empty(shape)

    with _in_mode(potential, asked), opened.mode, torch.no_grad(), _Marking():
        open_graph = AtomGraph(**dict(zip(SIZES, opened.tensors, strict=True)))
        functional_call(potential.model, opened.weights, (open_graph, Given(noted)), tie_weights=False)
    return draws


def handed_out(numbers: Sequence[Tensor]) -> Given:
    """Gives these numbers, one tensor after the other, of each as many rows as are asked for."""
    rest = iter(numbers)

    def uniform(shape: tuple[int, ...], _: Tensor) -> Tensor:
        given = next(rest)
        return given if given.shape[0] == shape[0] else given[: shape[0]]

    return Given(uniform)


def _options(backend: Backend, system: AtomGraph) -> dict[str, Any]:
    """Sums over edges stay in order where several threads would add to one row: the same answer every time."""
    if backend != "inductor" or system.positions.device.type != "cpu" or torch.get_num_threads() == 1:
        return {}
    from torch._inductor.decomposition import select_decomp_table  # heavy, and only needed here

    added = torch.ops.aten.index_add
    return {"decompositions": {op: how for op, how in select_decomp_table().items() if op.overloadpacket is not added}}


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
def _in_mode(potential: Potential, asked: Asked) -> Iterator[None]:
    """As in training or evaluation, where models differ."""
    was = {module: module.training for module in potential.modules()}
    if not asked.mixed:
        potential.train(asked.training)
    try:
        yield
    finally:
        for module, training in was.items():
            module.training = training

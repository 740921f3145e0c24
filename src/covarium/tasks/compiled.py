"""Energy, forces and stress as one compiled graph of operations.

The function (weights, structures) → (energies, forces, stress) is recorded once with unknown numbers of atoms, edges
and structures, the derivative that makes the forces inside; the recorded operations are then compiled. Recording comes
first because a compiler that follows the Python code cannot differentiate twice, which the loss of forces needs: what
it differentiates here, for the gradients of the weights, is a graph that has the forces in it already.

Every graph is compared with the single operations on the first structures it is used for, and again where sizes are
of a new kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
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

from covarium.errors import CovariumError
from covarium.systems import AtomGraph, AtomModel, AtomOutput, Denoising
from covarium.tasks.potential import Potential, Prediction

# largest difference that rounding explains, in units of the task's scale or relative to what is larger than one
TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-10}
GRADIENT_TOLERANCE = 20.0  # the same for gradients of weights, which are sums over many terms
# operations that autograd and our own functions record, and that torch cannot differentiate as they are
PRIMITIVE = (torch.ops.aten.silu_backward.default,)
# the axes of a graph's tensors whose lengths are left open
SIZES = {
    "positions": ("atoms",), "numbers": ("atoms",), "cell": ("graphs",), "pbc": ("graphs",), "batch": ("atoms",),
    "edge_index": (None, "edges"), "shifts": ("edges",), "charge": ("graphs",), "spin": ("graphs",), "tags": ("atoms",),
}  # fmt: skip
LEAST = {"atoms": 4, "edges": 8, "graphs": 2}  # a length of 0 or 1 would be taken for a constant


class CompilationError(CovariumError):
    """The potential cannot be compiled, or the compiled graph does not say what the potential says."""


class Asked(NamedTuple):
    """What a graph answers; ``trained``: it can be differentiated with respect to the weights."""

    forces: bool
    stress: bool
    trained: bool
    training: bool
    dtype: torch.dtype
    device: torch.device


class Graph:
    """One compiled graph, the sizes it holds for, and where it was checked."""

    def __init__(
        self,
        call: Callable[..., Sequence[Tensor]],
        names: Sequence[str],
        guards: Sequence[Any],
        symbols: Sequence[Any],
    ) -> None:
        self.call, self.names, self.guards, self.symbols = call, names, guards, symbols
        self._kinds: set[tuple[bool, ...]] = set()
        self._sizes: set[tuple[int, ...]] = set()

    def refusal(self, sizes: Sequence[int]) -> str:
        """What speaks against these sizes, or nothing."""
        for guard in self.guards:
            if not bool(guard.subs(dict(zip(self.symbols, sizes, strict=True)))):
                named = guard.subs(dict(zip(self.symbols, LEAST, strict=True)))
                return f"the graph holds only where {named}, and this system has {_counted(sizes)}"
        return ""

    def unchecked(self, sizes: tuple[int, ...], differentiating: bool) -> bool:
        """Whether nothing of this kind was compared yet: with or without a gradient, the first sizes, other sizes, and
        sizes of 0 and 1."""
        kind = (differentiating, *(n == least for n in sizes for least in (0, 1)))
        new = kind not in self._kinds or (len(self._sizes) < 2 and sizes not in self._sizes)
        self._kinds.add(kind)
        self._sizes.add(sizes)
        return new


class Compiled:
    """Takes the place of the single operations of a potential: ``potential.compiled = Compiled()``.

    A graph is made when it is first needed: for the quantities that are asked for, with or without gradients of the
    weights. A copy begins without graphs.

    Args:
        remedy: what to do instead, for messages.
        backend: of ``torch.compile``.
        tell: called with a line about each graph.

    Attributes:
        graphs: by what they answer.

    Raises (when called):
        CompilationError: the model draws random numbers, works in tiles, or is asked to denoise; it cannot be
            traced or compiled; the compiled graph disagrees.
    """

    def __init__(
        self, remedy: str = "leave it uncompiled", *, backend: str = "inductor",
        tell: Callable[[str], object] | None = None,
    ) -> None:  # fmt: skip
        self.remedy, self.backend, self.tell = remedy, backend, tell
        self.graphs: dict[Asked, Graph] = {}
        self._slots: list[tuple[dict[str, Any], str]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self.remedy, backend=self.backend, tell=self.tell)

    def __call__(
        self,
        potential: Potential,
        system: AtomGraph,
        *,
        forces: bool,
        stress: bool,
        denoising: Denoising | None = None,
    ) -> Prediction:
        """What ``Potential.evaluate`` returns."""
        self._refuse(potential, denoising)
        if isinstance(potential.model, AtomModel):
            potential.model.admit(system)
        start = time.monotonic()
        weights = self._weights(potential)
        trained = any(w.requires_grad for w in weights)
        x = system.positions
        asked = Asked(forces, stress, trained, trained or potential.training, x.dtype, x.device)
        if new := asked not in self.graphs:
            with self._explaining(potential):
                self.graphs[asked] = build(potential, system, asked, self.backend)
        graph = self.graphs[asked]
        sizes = (system.num_atoms, system.edge_index.shape[1], system.num_graphs)
        if refusal := graph.refusal(sizes):
            raise CompilationError(f"{refusal}; {self.remedy}")
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            found = graph.call(*weights, *(getattr(system, name).contiguous() for name in SIZES))
        prediction = Prediction(**dict(zip(graph.names, found, strict=True)))
        if graph.unchecked(sizes, found[0].requires_grad):
            # at the first gradient, that of the graph is compiled
            with self._explaining(potential):
                agreement = compared(potential, system, prediction, asked)
            if self.tell is not None:
                taken = f"compiled in {time.monotonic() - start:.0f} s, " if new else ""
                self.tell(f"{taken}compared with the uncompiled potential in {_counted(sizes)}: off by {agreement}")
        return prediction

    def _refuse(self, potential: Potential, denoising: Denoising | None) -> None:
        """
        Raises:
            CompilationError: this is done by single operations only.
        """
        why = ""
        if denoising is not None:
            why = "a denoising pass is not compiled, since it draws new structures at every step"
        elif getattr(potential.model, "tile", None) is not None:
            why = "tiles end at atoms that are known only with the structure, so that --memory excludes --compile here"
        if why:
            raise CompilationError(f"{why}; {self.remedy}")

    def _weights(self, potential: Potential) -> list[Tensor]:
        """Parameters and buffers as they are now, in the order of ``_names``."""
        if not self._slots:
            for module in potential.model.modules():
                for own in (module._parameters, module._buffers):
                    self._slots += [(own, name) for name, value in own.items() if value is not None]
        return [own[name] for own, name in self._slots]

    @contextmanager
    def _explaining(self, potential: Potential) -> Iterator[None]:
        """
        Raises:
            CompilationError: whatever tracer, compiler or C++ compiler may say, with what to do instead.
        """
        try:
            yield
        except CompilationError as error:
            raise CompilationError(f"{error}; {self.remedy}") from error
        except Exception as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
            raise CompilationError(
                f"{type(potential.model).__name__} cannot be compiled ({type(error).__name__}: {reason}); {self.remedy}"
            ) from error


def build(potential: Potential, system: AtomGraph, asked: Asked, backend: str) -> Graph:
    """Trace and compile.

    Raises:
        CompilationError: the model draws random numbers.
    """
    env = ShapeEnv(specialize_zero_one=False, duck_shape=False)
    mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    weights = _named_weights(potential.model)
    inputs: list[Tensor] = [
        mode.from_tensor(w if asked.trained else w.detach(), static_shapes=True) for w in weights.values()
    ]
    lengths = _open_lengths(system, env)
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
        with torch.set_grad_enabled(asked.trained):
            call = lookup_backend(backend)(module, inputs)
    guards = [guard.expr for guard in env.guards if not _of_zero_or_one(guard.expr)]
    return Graph(call, names, guards, [length.node.expr for length in lengths.values()])


def compared(potential: Potential, system: AtomGraph, found: Prediction, asked: Asked) -> str:
    """How far a compiled graph is off, in words.

    Raises:
        CompilationError: further than rounding explains.
    """
    differentiating = found.energy.requires_grad
    with torch.set_grad_enabled(differentiating):
        expected = potential.of_model(
            potential.model, system, forces=asked.forces, stress=asked.stress, create_graph=differentiating
        )
    tolerance = TOLERANCE[asked.dtype]
    atoms = system.atoms_per_graph().clamp(min=1)
    differences = {"energy per atom": (_difference(found.energy / atoms, expected.energy / atoms), tolerance)}
    for name in ("atom_energy", "forces", "stress"):
        a, b = getattr(found, name), getattr(expected, name)
        if b is not None:
            differences[name.replace("_", " ")] = (_difference(a, b), tolerance)
    if differentiating:
        off = _gradient_difference(potential, found, expected)
        differences["gradients of the weights"] = (off, GRADIENT_TOLERANCE * tolerance)
    for name, (off, allowed) in differences.items():
        if not off <= allowed:
            raise CompilationError(
                f"the compiled graph disagrees with the potential: {name} by {off:.2g}, where rounding in "
                f"{str(asked.dtype).removeprefix('torch.')} explains {allowed:.2g}"
            )
    return ", ".join(f"{name} {off:.1e}" for name, (off, _) in differences.items())


def _named_weights(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, a shared one under every name."""
    return {
        f"{prefix}.{name}".lstrip("."): value
        for prefix, module in model.named_modules()
        for own in (module._parameters, module._buffers)
        for name, value in own.items()
        if value is not None
    }


def _open_lengths(system: AtomGraph, env: ShapeEnv) -> dict[str, Any]:
    """Unknown numbers of atoms, edges and structures, those of ``system`` as an example (torch's symbolic integers)."""
    now = {"atoms": system.num_atoms, "edges": system.edge_index.shape[1], "graphs": system.num_graphs}
    lengths = {}
    for name, least in LEAST.items():
        typical, source = max(now[name], least), LocalSource(name)
        symbol = env.create_symbol(typical, source, DimDynamic.DYNAMIC, None)
        lengths[name] = env.create_symintnode(symbol, hint=typical, source=source)
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
        mode = get_proxy_mode()
        if func is not Tensor.detach or mode is None:
            return func(*args, **(kwargs or {}))
        before = len(mode.tracer.graph.nodes)
        out = func(*args, **(kwargs or {}))
        for node in list(mode.tracer.graph.nodes)[before:]:
            node.meta[DETACHED] = True
        return out


DETACHED = "detached by the code"


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


def _refuse_random(module: GraphModule) -> None:
    """
    Raises:
        CompilationError: a recorded operation draws random numbers.
    """
    for node in module.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise CompilationError(
                "the model draws random numbers (dropout), of which a compiled graph gives others than a resumed run "
                "needs; set the model's drop rates to 0"
            )


def _of_zero_or_one(guard: Any) -> bool:  # noqa: ANN401 - of sympy
    """Whether it only says that lengths are neither 0 nor 1; what it means for these is checked when they come."""
    return all(bool(guard.subs(dict.fromkeys(guard.free_symbols, n))) for n in (2, 3, 1 << 40))


@contextmanager
def _in_mode(potential: Potential, training: bool) -> Iterator[None]:
    """As in training or evaluation, where models differ."""
    was = potential.training
    potential.train(training)
    try:
        yield
    finally:
        potential.train(was)


def _counted(sizes: Sequence[int]) -> str:
    return f"{sizes[0]:,} atoms, {sizes[1]:,} edges, {sizes[2]:,} structures"


def _difference(a: Tensor, b: Tensor, least: float = 1.0) -> float:
    """The largest, relative to the largest value where that is above ``least``; NaN beside NaN is none."""
    off = torch.where(a.isnan() & b.isnan(), 0.0, (a - b).detach().abs())
    return float(off.max() / b.detach().abs().max().clamp(min=least)) if off.numel() else 0.0


def _gradient_difference(potential: Potential, found: Prediction, expected: Prediction) -> float:
    """Of gradients of one and the same sum of all that is predicted, the largest over the weights."""
    trained = [p for p in potential.model.parameters() if p.requires_grad]
    of = []
    for prediction in (found, expected):
        parts = [v for v in (prediction.atom_energy, prediction.forces, prediction.stress) if v is not None]
        # any numbers that do not cancel what is symmetric
        total = sum((v * torch.arange(v.numel(), device=v.device).to(v).cos().view_as(v)).sum() for v in parts)
        assert isinstance(total, Tensor)
        # the caller differentiates what was found once more
        keep = prediction is found
        of.append(torch.autograd.grad(total, trained, retain_graph=keep, allow_unused=True, materialize_grads=True))
    largest = max(float(g.abs().max()) for g in of[1])
    return max(_difference(a, b, 0.01 * largest) for a, b in zip(*of, strict=True))

"""Energy, forces and stress as one compiled graph of operations, in the place of single ones.

Every graph is compared with the single operations on the first structures it is used for, and again where sizes are
of a new kind. How one is made: ``tasks.recording``.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from covarium.systems import AtomGraph, AtomModel, Denoising, padded
from covarium.tasks.asked import SIZES, Asked, Backend, CompilationError, Slot, counted, slots_of
from covarium.tasks.potential import Potential, Prediction
from covarium.tasks.replay import SMALL, Recorder, Recordings, cuda_graphs

if TYPE_CHECKING:
    from covarium.tasks.recording import Graph

# largest difference that rounding explains, in units of the task's scale or relative to what is larger than one
TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-10}
GRADIENT_TOLERANCE = 20.0  # the same for gradients of weights, which are sums over many terms


class Compiled:
    """Takes the place of the single operations of a potential: ``potential.compiled = Compiled()``.

    A graph is made when it is first needed: for the quantities that are asked for, with or without gradients of the
    weights. A copy begins without graphs. Steps of small systems are recorded and replayed where there is a recorder;
    systems are then filled up to few sizes, and what is said of the filling is cut off.

    Args:
        remedy: what to do instead, for messages.
        backend: of ``torch.compile``, by its name or itself.
        tell: called with a line about each graph and each recording.
        recorder: for a device, None if steps are not recorded there; CUDA graphs by default.

    Attributes:
        graphs: by what they answer.

    Raises (when called):
        CompilationError: the model draws random numbers other than those of dropout, works in tiles, or is asked to
            denoise; it cannot be traced or compiled; the compiled graph disagrees; it was made of another potential.
    """

    def __init__(
        self, remedy: str = "leave it uncompiled", *, backend: Backend = "inductor",
        tell: Callable[[str], object] | None = None,
        recorder: Callable[[torch.device], Recorder | None] = cuda_graphs,
    ) -> None:  # fmt: skip
        self.remedy, self.backend, self.tell, self.recorder = remedy, backend, tell, recorder
        self.graphs: dict[Asked, Graph] = {}
        self._recordings: dict[torch.device, Recordings] = {}
        self._slots: list[Slot] = []
        self._of: tuple[weakref.ref[Any], ...] = ()
        self._modules: tuple[weakref.ref[Any], ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self.remedy, backend=self.backend, tell=self.tell, recorder=self.recorder)

    def __reduce__(self) -> tuple[Any, ...]:
        # without graphs, and without what it tells, which is this process's
        return partial(type(self), self.remedy, backend=self.backend, recorder=self.recorder), ()

    def __call__(
        self,
        potential: Potential,
        system: AtomGraph,
        *,
        forces: bool,
        stress: bool,
        rng: torch.Generator | None = None,
        denoising: Denoising | None = None,
    ) -> Prediction:
        """What ``Potential.evaluate`` returns."""
        self._refuse(potential, system, denoising)
        if isinstance(potential.model, AtomModel):
            potential.model.admit(system)
        start = time.monotonic()
        modes = self._belong_to(potential)
        weights, x = [slot.tensor for slot in self._slots], system.positions
        asked = self._asked(potential, weights, modes, x)._replace(forces=forces, stress=stress)
        known_graphs = len(self.graphs)
        graph = self._graph(potential, system, asked)
        if graph.draws and not (potential.training or asked.mixed):
            asked = asked._replace(trained=asked.trained and torch.is_grad_enabled(), training=False)
            graph = self._graph(potential, system, asked)
        new = len(self.graphs) != known_graphs
        recordings = self._recordings_of(system)
        given = system if recordings is None else padded(system, potential.model.spec.cutoff)
        sizes = (given.num_atoms, given.edge_index.shape[1], given.num_graphs)
        if refusal := graph.refusal(sizes):
            raise CompilationError(f"{refusal}; {self.remedy}")
        numbers = graph.drawn((system.num_atoms, system.edge_index.shape[1], system.num_graphs), x, rng)
        inputs = [getattr(given, name).contiguous() for name in SIZES]
        inputs += numbers if recordings is None else graph.filled(numbers, sizes)
        known = 0 if recordings is None else len(recordings.steps)
        differentiable = asked.trained and torch.is_grad_enabled()
        with torch.set_grad_enabled(differentiable):
            if recordings is None:
                found = graph.call(*weights, *inputs)
            else:
                with self._explaining(potential):
                    found = recordings((asked, sizes), graph.call, weights, inputs)
                rows = {"energy": system.num_graphs, "stress": system.num_graphs}
                found = [v[: rows.get(n, system.num_atoms)] for n, v in zip(graph.names, found, strict=True)]
        # a graph made with gradients of the weights keeps what they need even where none are asked for
        found = found if differentiable else [v.detach() for v in found]
        prediction = Prediction(**dict(zip(graph.names, found, strict=True)))
        recorded = recordings is not None and len(recordings.steps) != known
        if graph.unchecked(sizes, found[0].requires_grad) or recorded:
            # at the first gradient, that of the graph is compiled
            try:
                with self._explaining(potential):
                    agreement = compared(potential, system, prediction, asked, numbers)
            except BaseException:
                self._recordings.clear()  # what was recorded is not used unchecked either
                raise
            graph.agreed(sizes, found[0].requires_grad)
            if self.tell is not None:
                taken = f"compiled in {time.monotonic() - start:.0f} s, " if new else ""
                self.tell(f"{taken}compared with the uncompiled potential in {counted(sizes)}: off by {agreement}")
        return prediction

    def _asked(self, potential: Potential, weights: Sequence[Tensor], modes: tuple[bool, ...], x: Tensor) -> Asked:
        """Of a potential as it is now."""
        which = tuple(w.requires_grad for w in weights)
        mixed = modes if len(set(modes)) > 1 else ()
        training = potential.training or (any(which) and not mixed)
        rules = (potential.forces, potential.stress)
        return Asked(False, False, any(which), training, x.dtype, x.device, which, rules, mixed)

    def _graph(self, potential: Potential, system: AtomGraph, asked: Asked) -> Graph:
        """The one that answers this, made if there is none."""
        if asked not in self.graphs:
            with self._explaining(potential):
                # torch's compiler is slow to import
                from covarium.tasks.recording import build

                self.graphs[asked] = build(potential, system, asked, self.backend)
        return self.graphs[asked]

    def _belong_to(self, potential: Potential) -> tuple[bool, ...]:
        """Which of the modules are in training.

        Raises:
            CompilationError: the graphs were made of another potential, or of other modules.
        """
        modules = list(potential.modules())
        if not self._of:
            self._of = weakref.ref(potential), weakref.ref(potential.model)
            self._modules = tuple(map(weakref.ref, modules))
            self._slots = slots_of(potential.model)
        if (self._of[0](), self._of[1]()) != (potential, potential.model):
            raise CompilationError(
                "these graphs were compiled from another potential or model; give each one a Compiled() of its own"
            )
        same = len(modules) == len(self._modules)
        same = same and all(a() is b for a, b in zip(self._modules, modules, strict=True))
        if not same or any(slot.key not in slot.held_in for slot in self._slots):
            raise CompilationError(
                "modules of the model were replaced since its graphs were compiled; give it a new Compiled()"
            )
        return tuple(module.training for module in modules)

    def _recordings_of(self, system: AtomGraph) -> Recordings | None:
        """Those of the system's device, None if it is not recorded."""
        if not 0 < system.edge_index.shape[1] <= SMALL:
            return None
        device = system.positions.device
        if device not in self._recordings and (recorder := self.recorder(device)) is not None:
            self._recordings[device] = Recordings(recorder)
        return self._recordings.get(device)

    def _refuse(self, potential: Potential, system: AtomGraph, denoising: Denoising | None) -> None:
        """
        Raises:
            CompilationError: this is done by single operations only.
        """
        why = ""
        if denoising is not None:
            why = "a denoising pass is not compiled, since it draws new structures at every step"
        elif getattr(potential.model, "tile", None) is not None:
            why = "tiles end at atoms that are known only with the structure, so that --memory excludes --compile here"
        elif (rounding := getattr(potential.model, "rounding", "none")) != "none":
            why = (
                f"graphs are compared with single operations in float32 or float64, which {rounding} is too coarse for"
            )
        elif system.positions.requires_grad and torch.is_grad_enabled():
            why = "a graph is not differentiable with respect to positions; ask it for forces, or detach the positions"
        if why:
            raise CompilationError(f"{why}; {self.remedy}")

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


def compared(
    potential: Potential, system: AtomGraph, found: Prediction, asked: Asked, numbers: Sequence[Tensor] = ()
) -> str:
    """How far a compiled graph is off, in words; ``numbers`` are those that dropout was given.

    Raises:
        CompilationError: further than rounding explains.
    """
    from covarium.tasks.recording import handed_out

    differentiating = found.energy.requires_grad
    given = handed_out(numbers)
    with torch.set_grad_enabled(differentiating):
        expected = potential.of_model(
            lambda moved: potential.model(moved, given),
            system, forces=asked.forces, stress=asked.stress, create_graph=differentiating
        )  # fmt: skip
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

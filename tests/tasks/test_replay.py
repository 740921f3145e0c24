"""Recorded steps say what single operations say of the system as it was, whatever is replayed in between."""

from dataclasses import replace

import pytest
import torch
from test_compiled import ATOM_MODELS, SMALL, Toy, agree, answers, potential, some
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from covarium.models import MODELS
from covarium.systems import GraphSpec
from covarium.tasks import CompilationError, Compiled, replay


class Tape(TorchDispatchMode):
    """Does on the CPU what a CUDA graph does: the same operations again, on the same memory, without Python in between.

    It refuses what a CUDA graph cannot hold: a value read by the host, and factorisations.
    """

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        assert not any(part in name for part in ("_local_scalar_dense", "nonzero", "linalg_det", "linalg_lu")), name
        given = aliases((args, kwargs or {}))
        out = func(*args, **(kwargs or {}))
        self.steps.append((func, given, aliases(out)))
        return out

    def again(self):
        with torch.no_grad():
            for func, given, out in self.steps:
                args, kwargs = aliases(given)
                for place, value in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(place, torch.Tensor) and place.data_ptr() != value.data_ptr():
                        place.copy_(value)


def aliases(tree):
    """The same memory in the same shapes, whatever becomes of the shapes of the tensors themselves."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, tree)


class Tapes:
    """A recorder of tapes. A recording leaves no values, only a replay does."""

    recorded = 0

    def warm(self, function):
        function()

    def record(self, function):
        self.recorded += 1
        with Tape() as tape:
            results = function()
        for value in tree_leaves(results):
            if isinstance(value, torch.Tensor):
                value.data.fill_(float("nan"))
        return results, tape.again


def compiled(told=None):
    tapes = Tapes()
    return Compiled(backend="eager", tell=None if told is None else told.append, recorder=lambda device: tapes), tapes


@pytest.mark.parametrize("name", ATOM_MODELS)
def test_every_model_replayed_is_the_model(name):
    """Energies, forces, stress and gradients of the weights, of systems that share a recording and of others."""
    torch.manual_seed(0)
    model, config = MODELS[name]
    task = potential(model(config(**SMALL[name])))
    made, tapes = compiled()
    one = some(task.model.spec, [7, 5, 1])
    near = replace(one, positions=one.positions + 0.01 * torch.randn_like(one.positions))
    other = some(task.model.spec, [4, 3], seed=1)
    for system in (one, near, other, one):
        agree(task, made, system)
    assert tapes.recorded == 4  # forward and backward, of two sizes


@pytest.mark.parametrize("name", ["equiformer_v2", "equiformer_v3"])
def test_direct_heads(name):
    torch.manual_seed(0)
    model, config = MODELS[name]
    heads = dict(force_head=True) if name == "equiformer_v2" else dict(force_head="gate", stress_head=True, lmax=2)
    task = potential(model(config(**{**SMALL[name], **heads})), forces="direct", head_scales={"forces": 2.0})
    made, _ = compiled()
    for _ in range(2):
        agree(task, made, some(task.model.spec, [4, 3]))


def test_dropout_is_that_of_an_uncompiled_run():
    """Though the recorded system is larger; and the generator is where it would be."""
    torch.manual_seed(0)
    model, config = MODELS["equiformer_v2"]
    drops = dict(alpha_drop=0.4, drop_path_rate=0.4, proj_drop=0.4)
    task = potential(model(config(**{**SMALL["equiformer_v2"], **drops})))
    system, found = some(task.model.spec, [7, 5, 1]), []
    for task.compiled in (None, compiled()[0]):
        rng = torch.Generator().manual_seed(3)
        said = [task.evaluate(system, forces=True, stress=False, create_graph=True, rng=rng) for _ in range(3)]
        found.append([*(one.forces.detach() for one in said), rng.get_state().double()])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-11)


def test_a_second_derivative_of_weights_is_refused():
    task = potential(Toy())
    task.compiled, _ = compiled()
    said = task.evaluate(some(GraphSpec(3.0), [5, 3]), forces=True, stress=False)
    weight = task.model.net[0].weight
    (first,) = torch.autograd.grad(said.forces.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of recorded steps"):
        torch.autograd.grad(first.square().sum(), weight)


def test_weights_may_change_in_place_or_be_others():
    torch.manual_seed(0)
    task, system = potential(Toy()), some(GraphSpec(3.0), [5, 3])
    made, tapes = compiled()
    agree(task, made, system)
    with torch.no_grad():
        task.model.net[0].weight.mul_(2.0)
    agree(task, made, system)
    assert tapes.recorded == 2
    task.model.net[2].weight = torch.nn.Parameter(torch.ones(1, 8, dtype=torch.float64))
    agree(task, made, system)
    assert tapes.recorded == 4


def test_results_outlive_the_next_step_and_backward_goes_twice():
    torch.manual_seed(0)
    task, spec = potential(Toy()), GraphSpec(3.0)
    first, second = some(spec, [5, 3]), some(spec, [5, 3], seed=1)
    task.compiled = None
    expected = answers(task, first)
    task.compiled, _ = compiled()
    answers(task, second)
    found = answers(task, first)
    said = task.evaluate(first, forces=True, stress=False)
    weight = task.model.net[0].weight
    one, two = (torch.autograd.grad(said.energy.sum(), weight, retain_graph=keep)[0] for keep in (True, False))
    kept = one.clone()
    answers(task, second)
    for a, b in [*zip(found, expected, strict=True), (one, two), (one, kept)]:
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_backward_pass_of_an_overwritten_forward_pass_is_refused():
    task, spec = potential(Toy()), GraphSpec(3.0)
    task.compiled, _ = compiled()
    for other in (some(spec, [5, 3], seed=1), some(spec, [4])):
        said = task.evaluate(some(spec, [5, 3]), forces=True, stress=False)
        task.evaluate(other, forces=True, stress=False)
        with pytest.raises(CompilationError, match="call backward first"):
            said.energy.sum().backward()


def test_only_so_many_sizes_are_recorded_and_large_systems_are_not(monkeypatch):
    monkeypatch.setattr(replay, "MOST", 2)
    task, spec, told = potential(Toy()).requires_grad_(False), GraphSpec(3.0), []
    made, tapes = compiled(told)
    for count in (2, 4, 8, 6, 4):
        agree(task, made, some(spec, [count]), trained=False)
    assert tapes.recorded == 2 == len(told)
    made, tapes = compiled()
    monkeypatch.setattr("covarium.tasks.compiled.SMALL", 3)
    agree(task, made, some(spec, [8]), trained=False)
    assert tapes.recorded == 0


def test_every_recording_is_compared():
    """One that misses operations, as a graph does what ran elsewhere, is refused at its first use."""

    class Forgetting(Tapes):
        def record(self, function):
            results, again = super().record(function)
            steps = again.__self__.steps
            if self.recorded > 2:
                del steps[len(steps) // 2 :]
            return results, again

    task, spec = potential(Toy()).requires_grad_(False), GraphSpec(3.0)
    tapes = Forgetting()
    task.compiled = Compiled(backend="eager", recorder=lambda device: tapes)
    for count in (8, 4):
        task.evaluate(some(spec, [count]), forces=True, stress=False)
    with pytest.raises(CompilationError, match="disagrees"):
        task.evaluate(some(spec, [6]), forces=True, stress=False)


def test_a_cpu_has_no_recorder():
    assert replay.cuda_graphs(torch.device("cpu")) is None

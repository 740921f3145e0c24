"""Compiled energy and forces say what the single operations say, by one graph for all sizes, or refuse."""

import copy
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo import lookup_backend

from covarium.errors import CovariumError
from covarium.models import MODELS
from covarium.ops.gather import gather, scatter_sum
from covarium.physics import LennardJones
from covarium.systems import AtomGraph, AtomModel, AtomOutput, Denoising, GraphSpec, atom_graph
from covarium.tasks import CompilationError, Compiled, Potential
from covarium.tasks.asked import SIZES

SMALL = {
    "equiformer": dict(num_layers=1, irreps_node="4x0e+2x1e", irreps_head="2x0e+2x1e", irreps_mlp="4x0e+2x1e",
                       irreps_feature="8x0e", irreps_sh="1x0e+1x1e", num_heads=2, num_basis=4, radial_channels=(4,)),
    "equiformer_v2": dict(num_layers=1, sphere_channels=4, attn_hidden_channels=4, num_heads=2, attn_alpha_channels=2,
                          attn_value_channels=2, ffn_hidden_channels=4, edge_channels=4, num_distance_basis=8,
                          lmax=1, mmax=1),
    "equiformer_v3": dict(num_layers=1, num_channels=4, attn_hidden_channels=4, num_heads=2, ffn_hidden_channels=4,
                          num_radial_basis=8, lmax=1, mmax=1),
    "torchmd_et": dict(num_layers=1, embedding_dimension=8, num_heads=2, num_rbf=4),
}  # fmt: skip
PUBLISHED_GRIDS = dict(attn_activation="separable_s2", ffn_activation="separable_grid_mlp")  # of EquiformerV2
ATOM_MODELS = sorted(name for name, (model, _) in MODELS.items() if model.system == "atoms")


class Toy(AtomModel):
    """A small network of distances, with an element table and, on demand, dropout."""

    group = "E(3)"
    outputs = frozenset({"energy"})
    reads: frozenset[str] = frozenset()

    def __init__(self, drop=0.0):
        super().__init__()
        self.spec = GraphSpec(3.0)
        self.table = nn.Embedding(20, 4)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))
        self.drop = nn.Dropout(drop)

    def forward(self, graph, rng=None):
        j, i = graph.edge_index
        length = graph.vectors().square().sum(1)
        x = gather(self.table(graph.numbers), j) * torch.exp(-length).unsqueeze(1)
        return AtomOutput(self.net(self.drop(scatter_sum(x, i, graph.num_atoms))).squeeze(1))


class Counting:
    """A backend that counts what it compiles."""

    def __init__(self, name):
        self.name, self.calls = name, 0

    def __call__(self, module, inputs):
        self.calls += 1
        return lookup_backend(self.name)(module, inputs)


def some(spec, sizes, *, cell=4.5, seed=0, dtype=torch.float64):
    """Periodic structures of H and O with so many atoms each."""
    rng = np.random.default_rng(seed)
    graphs = []
    for count in sizes:
        places = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)[:count] * cell / 2
        positions = places + rng.uniform(-0.3, 0.3, (count, 3))
        numbers = rng.choice([1, 8], count)
        graph = atom_graph(numbers, positions, spec, cell=np.eye(3) * cell, pbc=np.ones(3, bool), dtype=dtype)
        graphs.append(graph)
    return AtomGraph.collate(graphs)


def potential(model, **arguments):
    return Potential(model.double(), references={1: -13.0, 8: -2000.0}, scale=0.7, **arguments)


def answers(task, system, *, trained=True):
    """Energy, forces, stress and, where asked for, gradients of the weights."""
    with torch.set_grad_enabled(trained):
        said = task.evaluate(system, forces=True, stress=task.has_stress, create_graph=trained)
    values = [value for value in (said.energy, said.atom_energy, said.forces, said.stress) if value is not None]
    if trained:
        loss = sum(value.square().sum() for value in values)
        values += torch.autograd.grad(loss, list(task.parameters()), allow_unused=True, materialize_grads=True)
    return [value.detach() for value in values]


def agree(task, compiled, system, *, trained=True, level=1e-10):
    task.compiled = None
    expected = answers(task, system, trained=trained)
    task.compiled = compiled
    for a, b in zip(answers(task, system, trained=trained), expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert (a - b).abs().max() <= level * max(1.0, float(b.abs().max()))


def test_every_tensor_of_a_graph_has_its_sizes():
    assert list(SIZES) == [field.name for field in fields(AtomGraph)]


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in ATOM_MODELS), ("equiformer_v2", PUBLISHED_GRIDS)], ids=str
)
def test_every_model_is_one_graph_for_all_sizes(name, options):
    """Energies, forces, stress and gradients of the weights, from a lone atom to batches."""
    torch.manual_seed(0)
    model, config = MODELS[name]
    task = potential(model(config(**SMALL[name], **options)))
    backend = Counting("eager")
    compiled = Compiled(backend=backend)
    lone = some(task.model.spec, [1], cell=30.0)
    assert lone.edge_index.shape[1] == 0
    for system in (some(task.model.spec, [5, 3]), some(task.model.spec, [7], seed=1), lone):
        agree(task, compiled, system)
    (graph,) = compiled.graphs.values()
    assert backend.calls == 1 and not graph.guards


@pytest.mark.parametrize("name", ["equiformer_v2", "equiformer_v3"])
def test_direct_heads_and_published_switches(name):
    torch.manual_seed(0)
    model, config = MODELS[name]
    heads = dict(force_head=True) if name == "equiformer_v2" else dict(force_head="gate", stress_head=True, lmax=2)
    task = potential(model(config(**{**SMALL[name], **heads})), forces="direct", head_scales={"forces": 2.0})
    agree(task, Compiled(backend="eager"), some(task.model.spec, [4, 3]))


def test_inductor_compiles_training_and_inference_once_each():
    torch.manual_seed(0)
    task = potential(Toy())
    backend, told = Counting("inductor"), []
    compiled = Compiled(backend=backend, tell=told.append)
    first, second = some(task.model.spec, [5, 3]), some(task.model.spec, [8, 2, 7], seed=1)
    assert first.edge_index.shape != second.edge_index.shape
    for system in (first, second, some(task.model.spec, [1], cell=30.0)):
        agree(task, compiled, system)
    assert backend.calls == 1 and "compiled in" in told[0] and "gradients of the weights" in told[0]
    # a step of several batches goes through one forward pass more than once
    said = task.evaluate(first, forces=True, stress=False)
    one, _ = (torch.autograd.grad(said.energy.sum(), task.model.net[0].weight, retain_graph=keep)[0] for keep in (1, 0))
    assert one.abs().max() > 0

    frozen = copy.deepcopy(task).requires_grad_(False).eval()
    assert not frozen.compiled.graphs  # a copy compiles anew
    for system in (second, first, some(task.model.spec, [1], cell=30.0)):
        agree(frozen, frozen.compiled, system, trained=False)
    assert backend.calls == 3 and len(frozen.compiled.graphs) == 1  # with stress, and above without


def test_validation_during_training_keeps_nothing_for_gradients():
    """The graph of training, where no gradient is asked for: of one structure after several, then of training again."""
    task = potential(Toy())
    compiled = Compiled(backend="aot_eager")
    for sizes, differentiable in (([4, 3], True), ([5], False), ([2, 6, 3], True), ([3, 3], False)):
        system = some(task.model.spec, sizes)
        with torch.set_grad_enabled(differentiable):
            found = compiled(task, system, forces=True, stress=False)
            assert found.energy.requires_grad == found.forces.requires_grad == differentiable
        expected = task.evaluate(system, forces=True, stress=False)
        torch.testing.assert_close(found.forces.detach(), expected.forces.detach(), rtol=1e-10, atol=1e-10)
    assert len(compiled.graphs) == 1


def test_weights_that_are_trained_later_get_their_gradients():
    task = potential(Toy())
    weights = list(task.model.parameters())
    for weight in weights[::2]:
        weight.requires_grad_(False)
    compiled, system = Compiled(backend="aot_eager"), some(task.model.spec, [4, 3])
    task.compiled = compiled
    task.evaluate(system, forces=True, stress=False)
    task.model.requires_grad_(True)
    agree(task, compiled, system)
    assert len(compiled.graphs) == 2


def test_graphs_of_another_potential_are_refused():
    first, second = potential(Toy()), potential(Toy())
    compiled, system = Compiled(backend="eager"), some(first.model.spec, [4, 3])
    first.compiled = second.compiled = compiled
    first.evaluate(system, forces=True, stress=False)
    with pytest.raises(CompilationError, match=r"another potential or model; give each one a Compiled\(\) of its own"):
        second.evaluate(system, forces=True, stress=False)
    first.model = Toy().double()
    with pytest.raises(CompilationError, match="another potential or model"):
        first.evaluate(system, forces=True, stress=False)
    again = copy.deepcopy(first)
    again.evaluate(system, forces=True, stress=False)


@pytest.mark.parametrize("backend", [None, "eager"])
def test_gradients_where_torch_makes_none_are_refused(backend):
    """Not answered with zeros."""
    task = potential(Toy())
    task.compiled = None if backend is None else Compiled(backend=backend)
    system = some(task.model.spec, [4, 3])
    with torch.inference_mode(), pytest.raises(CovariumError, match=r"torch.inference_mode\(\) excludes"):
        task.predict(system)
    assert task.predict(system).forces.abs().max() > 0


def test_weights_are_read_at_every_call():
    torch.manual_seed(0)
    task = potential(Toy())
    compiled = Compiled(backend="eager")
    system = some(task.model.spec, [5, 3])
    agree(task, compiled, system)
    with torch.no_grad():
        task.model.net[0].weight.mul_(2.0)
    agree(task, compiled, system)
    task.model.net[2].weight = nn.Parameter(torch.ones(1, 8, dtype=torch.float64))
    agree(task, compiled, system)
    task.scale.mul_(3.0)
    agree(task, compiled, system)
    assert len(compiled.graphs) == 1 and not any("compiled" in name for name in task.state_dict())


def test_single_precision_has_a_graph_of_its_own():
    torch.manual_seed(0)
    task = potential(Toy())
    compiled = Compiled(backend="eager")
    agree(task, compiled, some(task.model.spec, [5, 3]))
    task.float()
    agree(task, compiled, some(task.model.spec, [5, 3], dtype=torch.float32), level=1e-5)
    assert len(compiled.graphs) == 2


def test_lennard_jones_has_no_weights():
    task = Potential(LennardJones(0.01, 1.5, cutoff=3.5), references={1: 0.0, 8: 0.0})
    agree(task, Compiled(backend="eager"), some(task.model.spec, [6]), trained=False)


# --- refusals


def refused(task, system, match, **evaluated):
    with pytest.raises(CompilationError, match=match) as error:
        task.evaluate(system, forces=True, stress=False, **evaluated)
    assert "run it as before" in str(error.value)


def test_what_cannot_be_compiled_is_refused_with_the_reason():
    spec = GraphSpec(3.0)
    system = some(spec, [5, 3])

    def task(model=None, backend="eager"):
        made = potential(model or Toy())
        made.compiled = Compiled("run it as before", backend=backend)
        return made

    refused(task(Toy(drop=0.5)), system, "random numbers")
    tiled = task()
    tiled.model.tile = 64
    refused(tiled, system, "tiles")
    coarse = task()
    coarse.model.rounding = "bf16"
    refused(coarse, system, "bf16 is too coarse")
    zeros = torch.zeros_like(system.positions)
    refused(task(), system, "denoising", denoising=Denoising(zeros, zeros[:, 0] > 0))

    class Asking(Toy):
        def forward(self, graph, rng=None):
            output = super().forward(graph, rng)
            return output if float(graph.positions.max()) < 100 else AtomOutput(2 * output.energy)

    refused(task(Asking()), system, "cannot be compiled")

    def broken(module, inputs):
        raise RuntimeError("no C++ compiler here")

    refused(task(backend=broken), system, "no C\\+\\+ compiler here")


def test_a_graph_that_disagrees_is_refused_wherever_it_does():
    system, other = some(GraphSpec(3.0), [5, 3]), some(GraphSpec(3.0), [8, 7, 6])

    def task(change):
        def backend(module, inputs):
            def call(*tensors):
                return change(module(*tensors), inputs)

            return call

        made = potential(Toy())
        made.compiled = Compiled("run it as before", backend=backend)
        return made

    wrong = task(lambda said, _: [said[0], said[1], 1.001 * said[2]])
    for _ in range(3):  # not only the first time
        refused(wrong, system, "forces by")
    # right values with a wrong derivative
    refused(task(lambda said, _: [said[0], said[1], said[2].detach()]), system, "gradients of the weights by")
    # right where it was compiled only
    late = task(lambda said, _: said if len(said[1]) == 8 else [said[0], 1.001 * said[1], said[2]])
    late.evaluate(system, forces=True, stress=False)
    refused(late, other, "energy by")


DROPPING = {
    "equiformer": dict(alpha_drop=0.3, drop_path_rate=0.3, proj_drop=0.3, out_drop=0.3),
    "equiformer_v2": dict(alpha_drop=0.3, drop_path_rate=0.3, proj_drop=0.3),
    "equiformer_v3": dict(attn_weights_drop=0.3, drop_path_rate=0.3, proj_drop=0.3),
}


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_drops_what_it_drops_uncompiled(name):
    """The same numbers, in the same order, for all sizes, as a run needs that is resumed either way."""
    torch.manual_seed(0)
    model, config = MODELS[name]
    task = potential(model(config(**{**SMALL[name], **DROPPING[name]})))
    backend = Counting("eager")
    task.compiled = compiled = Compiled(backend=backend)
    systems = [some(task.model.spec, [5, 3]), some(task.model.spec, [7], seed=1), some(task.model.spec, [4, 1, 6])]

    def run(compiled, seed):
        task.compiled, rng = compiled, torch.Generator().manual_seed(seed)
        found = [task.evaluate(one, forces=True, stress=False, create_graph=True, rng=rng) for one in systems]
        forces = torch.cat([one.forces for one in found])
        gradients = torch.autograd.grad(forces.square().sum(), list(task.parameters()), materialize_grads=True,
                                        allow_unused=True)  # fmt: skip
        return [forces.detach(), *gradients], rng.get_state()

    (expected, state), (found, after) = run(None, 0), run(compiled, 0)
    assert torch.equal(state, after) and backend.calls == 1
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-10 * max(1.0, float(b.abs().max()))
    assert (run(compiled, 1)[0][0] - expected[0]).abs().max() > 1e-3

    task.eval()
    with torch.no_grad():
        validated = [task.evaluate(one, forces=True, stress=False) for one in systems]
        task.compiled = None
        for one, there in zip(validated, systems, strict=True):
            expected = task.evaluate(there, forces=True, stress=False)
            assert torch.allclose(one.forces, expected.forces, rtol=0, atol=1e-10)
    assert backend.calls == 2 and {asked.trained for asked in compiled.graphs} == {True, False}


def test_a_graph_is_of_the_modules_their_modes_and_the_rule_of_forces():
    system = some(GraphSpec(3.0), [5, 3])
    task = potential(Toy())
    task.compiled = Compiled("run it as before", backend="eager")
    task.evaluate(system, forces=True, stress=False)
    task.model.net[0].eval()
    task.evaluate(system, forces=True, stress=False)
    assert len(task.compiled.graphs) == 2 and task.model.net[2].training and not task.model.net[0].training
    copied = pickle.loads(pickle.dumps(task))
    agree(copied, copied.compiled, system)
    task.model.net[2] = nn.Linear(8, 1).double()
    with pytest.raises(CompilationError, match="modules of the model were replaced"):
        task.evaluate(system, forces=True, stress=False)
    task.compiled = Compiled("run it as before", backend="eager")
    moved = replace(system, positions=system.positions.clone().requires_grad_())
    with pytest.raises(CompilationError, match="with respect to positions"):
        task.evaluate(moved, forces=False, stress=False)
    with torch.no_grad():
        task.evaluate(moved, forces=False, stress=False)


def test_modes_of_parts_are_respected():
    """Dropout in one block and not in the other."""
    torch.manual_seed(0)
    model, config = MODELS["equiformer_v2"]
    task = potential(model(config(**{**SMALL["equiformer_v2"], "alpha_drop": 0.5, "num_layers": 2})))
    task.model.blocks[0].eval()
    system, backend = some(task.model.spec, [5, 3]), Counting("eager")

    def forces(compiled):
        task.compiled = compiled
        rng = torch.Generator().manual_seed(0)
        return task.evaluate(system, forces=True, stress=False, create_graph=True, rng=rng).forces.detach()

    assert (forces(Compiled(backend=backend)) - forces(None)).abs().max() < 1e-12
    assert backend.calls == 1 and not task.model.blocks[0].training and task.model.blocks[1].training


def test_tied_weights_are_compiled():
    task = potential(Toy())
    task.model.other = task.model.net
    agree(task, Compiled(backend="eager"), some(GraphSpec(3.0), [5, 3]))


def test_dropout_is_none_where_it_is_off():
    task = potential(Toy(drop=0.5)).eval().requires_grad_(False)
    agree(task, Compiled(backend="eager"), some(task.model.spec, [5, 3]), trained=False)


def test_unknown_elements_are_refused_as_ever():
    model, config = MODELS["torchmd_et"]
    task = potential(model(config(**SMALL["torchmd_et"], max_num_elements=10)))
    task.compiled = Compiled(backend="eager")
    system = some(task.model.spec, [3, 2])
    answers(task, system)
    with pytest.raises(Exception, match="max_num_elements = 10"):
        answers(task, replace(system, numbers=system.numbers + 20))


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", ATOM_MODELS)
def test_inductor_compiles_every_model(name, trained):
    torch.manual_seed(0)
    model, config = MODELS[name]
    task = potential(model(config(**SMALL[name]))).requires_grad_(trained)
    backend = Counting("inductor")
    compiled = Compiled(backend=backend)
    spec = task.model.spec
    for system in (some(spec, [5, 3]), some(spec, [7], seed=1), some(spec, [1], cell=30.0)):
        agree(task, compiled, system, trained=trained)
    assert backend.calls == 1

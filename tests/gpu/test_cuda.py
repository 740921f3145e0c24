"""The same answers on a GPU as on the CPU; skipped where there is none."""

import pytest
import torch

from covarium.algebra.rotations import random_rotations
from covarium.models.equiformer_v2 import Config, EquiformerV2
from covarium.systems import AtomGraph, atom_graph
from covarium.tasks import Compiled, Potential
from covarium.tasks.replay import cuda_graphs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

CONFIGS = {
    "default": Config(num_layers=2),
    "published": Config.published(num_layers=2, sphere_channels=16, attn_hidden_channels=16, cutoff=5.0),
}


def potential(name: str) -> Potential:
    torch.manual_seed(0)
    return Potential(EquiformerV2(CONFIGS[name]), references={1: -13.0, 6: -1030.0, 8: -2040.0}).double().eval()


def system(task: Potential) -> AtomGraph:
    generator = torch.Generator().manual_seed(1)
    graphs = []
    for count in (1, 7, 12):
        positions = 1.4 * count ** (1 / 3) * torch.randn(count, 3, generator=generator, dtype=torch.float64)
        numbers = torch.tensor([1, 6, 8])[torch.randint(3, (count,), generator=generator)]
        graphs.append(atom_graph(numbers.numpy(), positions.numpy(), task.model.spec))
    return AtomGraph.collate(graphs)


@pytest.mark.parametrize("name", CONFIGS)
def test_energies_and_forces_equal_those_of_the_cpu(name):
    task = potential(name)
    graph = system(task)
    here = task.predict(graph)
    there = task.to("cuda").predict(graph.to("cuda"))
    assert torch.allclose(there.energy.cpu(), here.energy, rtol=1e-12, atol=1e-9)
    assert torch.allclose(there.forces.cpu(), here.forces, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_force_loss_has_the_same_parameter_gradient(name):
    gradients = {}
    for device in ("cpu", "cuda"):
        task = potential(name).to(device)
        graph = system(task).to(device)
        raw = task.evaluate(graph, forces=True, stress=False, create_graph=True)
        (raw.forces.square().sum() + raw.energy.sum()).backward()
        gradients[device] = {k: p.grad.cpu() for k, p in task.named_parameters() if p.grad is not None}
    assert gradients["cpu"].keys() == gradients["cuda"].keys()
    largest = max(float(g.abs().max()) for g in gradients["cpu"].values())
    for key, value in gradients["cpu"].items():
        assert float((gradients["cuda"][key] - value).abs().max()) <= 1e-9 * largest, key


def test_rotated_systems_have_rotated_forces_in_float32():
    task = potential("default").to("cuda", torch.float32)
    graph = system(task).to("cuda", torch.float32)
    g = random_rotations(1, torch.Generator().manual_seed(2))[0].to("cuda", torch.float32)
    turned, plain = task.predict(graph.transform(g)), task.predict(graph)
    assert float((turned.forces - plain.transform(g).forces).abs().max()) < 1e-4 * float(plain.forces.abs().max())


def test_the_compiled_graph_is_checked_and_agrees_there_too():
    task = potential("default").requires_grad_(False)
    graph = system(task).to("cuda")
    task = task.to("cuda")
    expected = task.predict(graph)
    # recorded and replayed at the first time, replayed alone at the second
    for recorder in (lambda device: None, cuda_graphs):
        task.compiled = Compiled(recorder=recorder)
        for _ in range(2):
            found = task.predict(graph)
            assert torch.allclose(found.energy, expected.energy, rtol=1e-12, atol=1e-9)
            assert torch.allclose(found.forces, expected.forces, rtol=1e-9, atol=1e-9)


def test_a_training_step_replayed_is_the_step():
    """Of two sizes in turn, weights changed in between: energies, forces and gradients of a loss on both."""
    task = potential("default").to("cuda")
    large = system(task).to("cuda")
    small = AtomGraph.collate([atom_graph([1, 8], [[0.0, 0, 0], [0.9, 0, 0]], task.model.spec)]).to("cuda")
    compiled = Compiled()
    weights = list(task.parameters())
    for graph in (large, small, large, small):
        found = []
        for task.compiled in (None, compiled):
            raw = task.evaluate(graph, forces=True, stress=False, create_graph=True)
            loss = raw.forces.square().sum() + raw.energy.sum()
            gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            found.append([raw.energy.detach(), raw.forces.detach(), *gradients])
        largest = max(float(g.abs().max()) for g in found[0][2:])
        for a, b in zip(*found, strict=True):
            assert float((a - b).abs().max()) <= 1e-9 * max(1.0, largest)
        with torch.no_grad():
            torch._foreach_mul_(weights, 1.01)
    (recordings,) = compiled._recordings.values()
    assert len(recordings.steps) == 2

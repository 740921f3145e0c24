"""Batches filled up to few sizes: what is asked of the structures that were there does not change."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covarium.models import equiformer, equiformer_v2, equiformer_v3, torchmd_et
from covarium.systems import AtomGraph, atom_graph, padded
from covarium.systems.padding import round_up
from covarium.tasks import Potential

MODELS = {
    "v2": lambda: equiformer_v2.EquiformerV2(equiformer_v2.Config(num_layers=1)),
    "v3": lambda: equiformer_v3.EquiformerV3(equiformer_v3.Config(num_layers=1)),
    "equiformer": lambda: equiformer.Equiformer(equiformer.Config(num_layers=1)),
    "et": lambda: torchmd_et.TorchMDET(torchmd_et.Config(num_layers=1)),
}


def batch(task: Potential) -> AtomGraph:
    rng = np.random.default_rng(0)
    crystal = atom_graph(np.array([14, 14]), rng.random((2, 3)), task.model.spec, cell=3.9 * np.eye(3), pbc=[True] * 3)
    molecules = [atom_graph(rng.choice([1, 8], n), 1.5 * rng.normal(size=(n, 3)), task.model.spec) for n in (1, 5)]
    return AtomGraph.collate([crystal, *molecules])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("digits", [1, 4, 16])
def test_answers_and_gradients_do_not_change(name, digits):
    torch.manual_seed(0)
    task = Potential(MODELS[name](), references={1: 0.0, 8: 0.0, 14: 0.0}).double()
    graph = batch(task)
    larger = padded(graph, task.model.spec.cutoff, digits=digits)
    sizes = (graph.num_atoms + 2, graph.edge_index.shape[1])
    assert (larger.num_atoms, larger.edge_index.shape[1]) == tuple(round_up(n, digits) for n in sizes)
    assert larger.num_graphs == 4
    assert bool((larger.edge_index[1].diff() >= 0).all())
    found = []
    for system in (graph, larger):
        raw = task.evaluate(system, forces=True, stress=False, create_graph=True)
        energy, forces = raw.energy[:3], raw.forces[: graph.num_atoms]
        gradient = torch.autograd.grad(
            energy.sum() + forces.square().sum(), list(task.parameters()), allow_unused=True, materialize_grads=True
        )
        found.append([energy.detach(), forces.detach(), *gradient])
    for expected, value in zip(*found, strict=True):
        assert torch.allclose(value, expected, rtol=1e-10, atol=1e-12 * max(1.0, float(expected.abs().max())))


@given(number=st.integers(0, 1 << 40), digits=st.integers(1, 12))
def test_round_numbers_are_few_and_near(number, digits):
    rounded = round_up(number, digits)
    assert number <= rounded <= number * (1 + 2.0 ** (1 - digits))
    assert rounded.bit_count() <= digits and round_up(rounded, digits) == rounded

"""Products rounded to bfloat16 (autocast), and what is exact beside them: edge vectors, strain, Wigner matrices, energy
heads."""

import numpy as np
import pytest
import torch

from covarium.algebra.rotations import random_rotations
from covarium.algebra.wigner import wigner_d
from covarium.errors import CovariumError
from covarium.layers.rounding import unrounded_call
from covarium.models import equiformer, equiformer_v2, equiformer_v3, torchmd_et
from covarium.ops.attention import edge_softmax
from covarium.ops.rotation import End, Layout, rotate_in
from covarium.systems import AtomGraph, atom_graph
from covarium.tasks import Potential

MODELS = {
    "v2": lambda: equiformer_v2.EquiformerV2(equiformer_v2.Config(num_layers=2)),
    "v3": lambda: equiformer_v3.EquiformerV3(equiformer_v3.Config(num_layers=2)),
    "equiformer": lambda: equiformer.Equiformer(equiformer.Config(num_layers=2)),
    "et": lambda: torchmd_et.TorchMDET(torchmd_et.Config(num_layers=2)),
}
CELL = 40.1 * np.eye(3)


def potential(name: str) -> Potential:
    torch.manual_seed(0)
    return Potential(MODELS[name](), references={1: 0.0, 6: 0.0, 8: 0.0})


def system(task: Potential) -> AtomGraph:
    rng = np.random.default_rng(1)
    positions = np.stack(np.meshgrid([0, 1.5], [0, 1.5], [0, 1.5]), -1).reshape(-1, 3) + 0.2 * rng.normal(size=(8, 3))
    numbers = rng.choice([1, 6, 8], 8)
    # the molecule lies across the border of a large cell
    graph = atom_graph(numbers, positions % 40.1, task.model.spec, cell=CELL, pbc=[True] * 3)
    return graph.to(dtype=torch.float32)


def answers(task: Potential, rounding: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    task.model.rounding = rounding
    raw = task.evaluate(system(task), forces=True, stress=False, create_graph=True)
    assert raw.forces.dtype == torch.float32
    task.zero_grad()
    (raw.forces.square().sum() + raw.energy.sum()).backward()
    gradient = torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None])
    return raw.atom_energy.detach(), raw.forces.detach(), gradient


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_costs_a_few_percent_of_forces_and_gradients(name):
    """bfloat16 keeps 8 bits, 0.4 %, in each of the products that follow each other; measured 0.4 to 1.4 %."""
    task = potential(name)
    for exact, low in zip(answers(task, "none"), answers(task, "bf16"), strict=True):
        assert 1e-4 < float((low - exact).norm() / exact.norm()) < 0.03


@pytest.fixture(params=["tf32", "bf16"])
def rounding(request):
    """As a run with that arithmetic has it; on a CPU ``tf32`` is a switch without an effect on products."""
    before = torch.get_float32_matmul_precision()
    with torch.autocast("cpu", torch.bfloat16, enabled=request.param == "bf16"):
        torch.set_float32_matmul_precision("high" if request.param == "tf32" else before)
        yield request.param
    torch.set_float32_matmul_precision(before)


def test_wigner_matrices_are_not_rounded(rounding):
    frames = random_rotations(5, torch.Generator().manual_seed(0))
    for exact, found in zip(wigner_d(frames, 4), wigner_d(frames.float(), 4), strict=True):
        assert found.dtype == torch.float32
        assert float((found - exact).abs().max()) < 1e-6


def test_edge_vectors_and_their_derivatives_are_not_rounded(rounding):
    task = potential("v2")
    graph = system(task)
    exact = graph.to(dtype=torch.float64).vectors()
    assert bool(graph.shifts.any()), "no edge crosses the border"
    assert float((graph.vectors() - exact).abs().max()) < 1e-5
    cell = graph.cell.clone().requires_grad_()
    moved = AtomGraph(**{**vars(graph), "cell": cell})
    # outside of autocast, as in a real run; the products were chosen before
    (gradient,) = torch.autograd.grad(moved.vectors().sum(), cell)
    assert torch.equal(gradient[0], graph.shifts.sum(0).float().unsqueeze(1).expand(3, 3))


def test_rotated_features_keep_float32_matrices(rounding):
    layout = Layout((0, 1), ((0, 0), (1, -1), (1, 0), (1, 1)))
    matrices = wigner_d(random_rotations(4, torch.Generator().manual_seed(0)), 1)
    wigner = torch.cat([part.flatten(1) for part in matrices], dim=1)
    x = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(1))
    end = End(torch.arange(4), 4, ascending=True)
    exact = rotate_in([x.double()], wigner, [end], layout)
    found = rotate_in([x], wigner.float(), [end], layout)
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max()) < 1e-6


def test_energy_heads_and_softmax_are_not_rounded(rounding):
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1))
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    found = unrounded_call(network.forward, x)
    assert float((found - network.double()(x.double())).detach().abs().max()) < 1e-12
    assert edge_softmax(x.bfloat16(), torch.tensor([0, 0, 1, 1, 1]), 2).dtype == torch.float32


def test_tiles_are_refused_where_autocast_would_not_reach():
    task = potential("equiformer")
    task.model.rounding, task.model.tile = "bf16", 8
    with pytest.raises(CovariumError, match="bf16 and edges in tiles"):
        task.evaluate(system(task), forces=True, stress=False)

"""Models with the kernels' backend: the same energies, forces and gradients of a loss on forces, in tiles too.

Without a CUDA device the kernels run in Triton's interpreter; without triton they are not run.
"""

import importlib.util
import os

import numpy as np
import pytest
import torch

from covarium.models import equiformer, equiformer_v2, equiformer_v3, torchmd_et
from covarium.systems import AtomGraph, atom_graph
from covarium.tasks import Potential

if not torch.cuda.is_available():
    # read when the kernels are first imported
    os.environ["TRITON_INTERPRET"] = "1"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = dict(sphere_channels=4, attn_hidden_channels=4, num_heads=2, attn_alpha_channels=2, attn_value_channels=2)
ET = dict(num_layers=2, embedding_dimension=6, num_heads=3, num_rbf=4)
EQUIFORMER = dict(irreps_feature="8x0e", num_heads=2, num_basis=4, radial_channels=(4,))
MODELS = {
    # orders cut, rows rescaled
    "v2": lambda: equiformer_v2.EquiformerV2(
        equiformer_v2.Config(num_layers=1, lmax=2, mmax=1, ffn_hidden_channels=4, edge_channels=4, **SMALL)
    ),
    "v3": lambda: equiformer_v3.EquiformerV3(
        equiformer_v3.Config(num_layers=1, lmax=1, mmax=1, num_channels=4, attn_hidden_channels=4, num_heads=2,
                             attn_alpha_channels=2, attn_value_channels=2, ffn_hidden_channels=4, edge_channels=4)
    ),
    "v2, force head": lambda: equiformer_v2.EquiformerV2(
        equiformer_v2.Config(num_layers=1, lmax=2, mmax=1, ffn_hidden_channels=4, edge_channels=4, force_head=True,
                             **SMALL)
    ),
    "equiformer": lambda: equiformer.Equiformer(
        equiformer.Config(num_layers=2, irreps_node="4x0e+2x1e", irreps_sh="1x0e+1x1e", irreps_head="2x0e+2x1e",
                          irreps_mlp="4x0e+2x1e", **EQUIFORMER)
    ),
    "equiformer, dot products, E(3)": lambda: equiformer.Equiformer(
        equiformer.Config(num_layers=2, irreps_node="4x0e+2x1o", irreps_sh="1x0e+1x1o", irreps_head="2x0e+2x1o",
                          irreps_mlp="4x0e+2x1o", attention="linear_dot_product", **EQUIFORMER)
    ),
    "et": lambda: torchmd_et.TorchMDET(torchmd_et.Config(**ET)),
    "et, other switches": lambda: torchmd_et.TorchMDET(
        torchmd_et.Config(distance_influence="keys", vector_cutoff=False, attn_activation="tanh", **ET)
    ),
}  # fmt: skip


def system(task: Potential) -> AtomGraph:
    positions = np.array([[0.0, 0.1, 0.0], [1.0, 0.0, 0.2], [-0.3, 0.9, 0.1]])
    return atom_graph(np.array([8, 1, 1]), positions, task.model.spec).to(DEVICE)


def answers(task: Potential, graph: AtomGraph, backend: str, tile: int | None) -> dict[str, torch.Tensor]:
    task.model.backend, task.model.tile = backend, tile
    task.zero_grad()
    raw = task.evaluate(graph, forces=True, stress=False, create_graph=True)
    (raw.forces.pow(3).sum() + raw.energy.sum()).backward()
    gradients = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    return {"energy": raw.energy.detach(), "forces": raw.forces.detach(), **gradients}


@pytest.mark.parametrize("name", MODELS)
def test_the_backend_does_not_change_the_answer(name):
    torch.manual_seed(0)
    head = "direct" if "force head" in name else "gradient"
    task = Potential(MODELS[name](), references={1: 0.0, 8: 0.0}, forces=head).to(DEVICE).double()
    graph = system(task)
    expected = answers(task, graph, "torch", None)
    for tile in (None, 4) if name in ("equiformer", "et") else (None,):
        found = answers(task, graph, "triton", tile)
        # in tiles a weight that nothing reads has a gradient too, which is zero
        unread = found.keys() - expected.keys()
        assert expected.keys() <= found.keys() and (tile or not unread)
        assert not any(bool(found[key].any()) for key in unread)
        for key, value in expected.items():
            assert float((found[key] - value).abs().max()) <= 1e-12 * max(float(value.abs().max()), 1e-3), key

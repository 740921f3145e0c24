"""A model that works tile by tile is the model, in value, forces, and the gradient of a force loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from covarium.models import EquiformerV2, EquiformerV2Config
from covarium.systems import AtomGraph, atom_graph

SMALL = EquiformerV2Config(
    num_layers=2, sphere_channels=8, attn_hidden_channels=4, num_heads=2, attn_alpha_channels=2, attn_value_channels=2,
    ffn_hidden_channels=4, edge_channels=4, num_distance_basis=8, lmax=2, mmax=1, cutoff=4.0, max_num_elements=10,
)  # fmt: skip
VARIANTS = {
    "default": {},
    "shared tables": {"atom_edge_embedding": "shared"},
    "no tables": {"atom_edge_embedding": "none"},
    "published": {"attn_activation": "separable_s2", "ffn_activation": "separable_grid_mlp", "envelope": "none",
                  "radial_weights": "per_order", "force_head": True},
}  # fmt: skip


def cluster(config: EquiformerV2Config) -> AtomGraph:
    rng = np.random.default_rng(0)
    positions = np.concatenate([rng.normal(0, 1.6, (9, 3)), [[50.0, 0, 0]]])
    return atom_graph(rng.choice([1, 6, 8], 10), positions, config.spec)


def force_loss(model: EquiformerV2, graph: AtomGraph, seed: int = 0) -> list[Tensor]:
    """Energy, forces, direct forces if any, and the gradient of all of them with respect to every parameter."""
    r = graph.positions.clone().requires_grad_()
    output = model(replace(graph, positions=r), torch.Generator().manual_seed(seed))
    (forces,) = torch.autograd.grad(output.energy.sum(), r, create_graph=True)
    loss = output.energy.square().sum() + forces.square().sum()
    if output.forces is not None:
        loss = loss + output.forces.square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return [output.energy, forces, *([] if output.forces is None else [output.forces]), *gradients]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("tile", [1, 7, 40])
def test_equal_to_all_edges_at_once(name: str, tile: int) -> None:
    torch.manual_seed(0)
    model = EquiformerV2(replace(SMALL, **VARIANTS[name], alpha_drop=0.3)).double().train()
    graph = cluster(model.config)
    expected = force_loss(model, graph)
    model.tile = tile
    assert len(graph.tiles(tile)) > 1
    for ours, theirs in zip(force_loss(model, graph), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12 * float(theirs.abs().max()) + 1e-15)

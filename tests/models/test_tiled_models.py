"""A model that works tile by tile is the model, in value, forces, and the gradient of a force loss."""

import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from covarium.errors import CovariumError
from covarium.models import (
    Equiformer,
    EquiformerConfig,
    EquiformerV2,
    EquiformerV2Config,
    EquiformerV3,
    EquiformerV3Config,
    TorchMDET,
    TorchMDETConfig,
)
from covarium.systems import AtomGraph, AtomModel, atom_graph

V2 = EquiformerV2Config(
    num_layers=2, sphere_channels=8, attn_hidden_channels=4, num_heads=2, attn_alpha_channels=2, attn_value_channels=2,
    ffn_hidden_channels=4, edge_channels=4, num_distance_basis=8, lmax=2, mmax=1, cutoff=4.0, max_num_elements=10,
    alpha_drop=0.3,
)  # fmt: skip
V3 = EquiformerV3Config(
    num_layers=2, num_channels=8, attn_hidden_channels=4, num_heads=2, attn_alpha_channels=2, attn_value_channels=2,
    ffn_hidden_channels=4, edge_channels=4, num_radial_basis=8, lmax=2, mmax=1, cutoff=4.0, max_num_elements=10,
    attn_weights_drop=0.3,
)  # fmt: skip
V1 = EquiformerConfig(
    num_layers=2, irreps_node="8x0e+4x1e+2x2e", irreps_feature="8x0e", irreps_head="4x0e+2x1e+2x2e", num_heads=2,
    irreps_mlp="8x0e+4x1e+2x2e", cutoff=4.0, num_basis=8, radial_channels=(8, 8), max_num_elements=10, alpha_drop=0.3,
)  # fmt: skip
ET = TorchMDETConfig(num_layers=2, embedding_dimension=8, num_heads=2, num_rbf=8, cutoff=4.0, max_num_elements=10)
SGN = {"irreps_node": "8x0e+4x0o+4x1e+4x1o+2x2e", "irreps_sh": "1x0e+1x1o+1x2e", "irreps_mlp": "8x0e+4x1o+2x2e"}
MODELS: dict[str, AtomModel] = {
    "v2": (EquiformerV2, V2),
    "v2, shared tables": (EquiformerV2, replace(V2, atom_edge_embedding="shared")),
    "v2, no tables": (EquiformerV2, replace(V2, atom_edge_embedding="none")),
    "v2, published": (EquiformerV2, replace(
        V2, attn_activation="separable_s2", ffn_activation="separable_grid_mlp", envelope="none",
        radial_weights="per_order", force_head=True,
    )),
    "v3": (EquiformerV3, V3),
    "v3, force head": (EquiformerV3, replace(V3, force_head="gate", attn_activation="gate", add_merge=True)),
    "equiformer": (Equiformer, V1),
    "equiformer, published": (Equiformer, replace(
        V1, envelope="none", norm_type="layer", rescale_degree=True, edge_attributes=3, basis="gaussian",
    )),
    "equiformer, E(3)": (Equiformer, replace(V1, **SGN, irreps_head="4x0e+2x1o+2x2e", attention="linear_mlp")),
    "equiformer, heads": (Equiformer, replace(
        V1, irreps_feature="8x0e+4x1e+2x2e", energy_head="attention", auxiliary_head=True,
    )),
    "equiformer, dot product": (Equiformer, replace(V1, attention="linear_dot_product", rescale_degree=True)),
    "et": (TorchMDET, ET),
    "et, published": (TorchMDET, replace(ET, vector_cutoff=False, trainable_rbf=True)),
    "et, lower cutoff": (TorchMDET, replace(ET, cutoff_lower=0.5, distance_influence="keys", vector_cutoff=False)),
}  # fmt: skip


def build(name: str) -> AtomModel:
    torch.manual_seed(0)
    kind, config = MODELS[name]
    return kind(config).double().train()


def cluster(model: AtomModel) -> AtomGraph:
    """Ten atoms, one of them alone."""
    rng = np.random.default_rng(0)
    positions = np.concatenate([rng.normal(0, 1.6, (9, 3)), [[50.0, 0, 0]]])
    return atom_graph(rng.choice([1, 6, 8], 10), positions, model.spec)


def forces(model: AtomModel, graph: AtomGraph, **how: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    """Everything the model says, positions, and minus its forces."""
    r = graph.positions.clone().requires_grad_()
    output = model(replace(graph, positions=r), torch.Generator().manual_seed(0))
    said = [value for value in output if value is not None]
    return said, r, torch.autograd.grad(output.energy.sum(), r, **how)[0]


def force_loss(model: AtomModel, graph: AtomGraph) -> list[Tensor]:
    """All outputs, forces, and the gradient of a loss of them with respect to every parameter."""
    said, _, gradient = forces(model, graph, create_graph=True)
    loss = torch.stack([value.square().sum() for value in (*said, gradient)]).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return [value.detach() for value in (*said, gradient, *gradients)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("tile", "keep", "remember"), [(1, 0, 0), (40, 0, 10**6), (10, 30, 0), (10, 30, 90), (10, 10**6, 0)]
)
def test_equal_to_all_edges_at_once(name: str, tile: int, keep: int, remember: int) -> None:
    model = build(name)
    graph = cluster(model)
    expected = force_loss(model, graph)
    model.tile, model.keep, model.remember = tile, keep, remember
    kept = [t.kept for t in model.tiles(graph)]
    assert len(kept) > 1 and any(kept) == (keep > 0) and all(kept) == (keep > 30)
    tiled = force_loss(model, graph)
    for ours, theirs in zip(tiled, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12 * float(theirs.abs().max()) + 1e-15)
    for again, once in zip(force_loss(model, graph), tiled, strict=True):
        assert torch.equal(again, once), "the same numbers twice"


@pytest.mark.parametrize("name", ["v2", "v3", "equiformer", "et"])
def test_forces_alone_keep_nothing(name: str) -> None:
    model = build(name).eval()
    graph = cluster(model)
    _, _, expected = forces(model, graph)
    model.tile, model.remember = 7, 10**6
    _, _, gradient = forces(model, graph)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)
    assert not gradient.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_where_all_is_kept_edges_are_in_tiles_that_stay_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("v2")
    graph = cluster(model)
    assert model.tiles(graph) == []
    systems = sys.modules[AtomGraph.__module__]  # the package's attribute of this name is a function
    monkeypatch.setattr(systems, "IN_CACHE", 10 * model.width)
    monkeypatch.setattr(systems, "ENOUGH", 5)
    tiles = model.tiles(graph)
    assert 2 < len(tiles) <= round(graph.edge_index.shape[1] / 10)
    assert all(tile.kept for tile in tiles)
    assert model.tiles(graph.to("meta")) == []


@pytest.mark.parametrize("name", ["v2", "v3", "equiformer", "et"])
def test_a_third_derivative_is_refused(name: str) -> None:
    model = build(name).requires_grad_(False)
    model.tile = 40
    _, r, first = forces(model, cluster(model), create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), r, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivatives of edges in tiles"):
        second.sum().backward()


@pytest.mark.parametrize("name", ["v2", "equiformer"])
def test_threads_do_not_see_each_other(name: str) -> None:
    """One model used by several of them at once, which stays what it was."""
    model = build(name)
    model.tile, graph = 40, cluster(model)
    expected, parameters = force_loss(model, graph), list(model.parameters())
    found: dict[int, list[Tensor]] = {}
    threads = [threading.Thread(target=lambda k=k: found.update({k: force_loss(model, graph)})) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    for values in (found[k] for k in range(3)):
        assert all(torch.equal(a, b) for a, b in zip(values, expected, strict=True))


@pytest.mark.parametrize("tile", [0, -3, 2.5])
def test_a_tile_that_is_no_number_of_edges_is_refused(tile: float) -> None:
    model = build("et")
    model.tile = tile
    with pytest.raises(CovariumError, match=f"tile must be a number of edges, at least 1, or None for all; got {tile}"):
        model(cluster(model))

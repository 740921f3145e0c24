"""Equiformer itself: switches, refusals, the short way of the last block, derivatives, heads, initial values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import ON_AXES, WATER, assert_weight_slopes, scattered
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from covarium.algebra.rotations import random_rotations
from covarium.errors import CovariumError
from covarium.models import Equiformer, EquiformerConfig
from covarium.models.equiformer import DotProductAttention, GraphAttention
from covarium.systems import AtomGraph, atom_graph

TINY = EquiformerConfig(
    num_layers=1, irreps_node="4x0e+2x1e+2x2e", irreps_feature="4x0e", irreps_head="2x0e+2x1e+1x2e", num_heads=2,
    irreps_mlp="4x0e+2x1e+2x2e", num_basis=4, radial_channels=(4, 4), cutoff=4.0, max_num_elements=10, avg_degree=4.0,
)  # fmt: skip
E3 = dict(
    irreps_node="4x0e+2x0o+2x1e+2x1o+1x2e+1x2o", irreps_sh="1x0e+1x1o+1x2e", irreps_head="2x0e+1x0o+1x1e+2x1o+1x2e",
    irreps_mlp="4x0e+2x0o+2x1e+2x1o+1x2e+1x2o",
)  # fmt: skip


def model(seed: int = 0, size: float = 0.2, **fields: object) -> Equiformer:
    return scattered(lambda: Equiformer(replace(TINY, **fields)), seed, size)


def graph(positions: np.ndarray, numbers: list[int] | None = None) -> AtomGraph:
    return atom_graph(np.array(numbers or [8, 1, 6, 1][: len(positions)]), positions, TINY.spec)


def total(network: Equiformer, system: AtomGraph) -> object:
    return lambda r: network(replace(system, positions=r)).energy.sum()


@pytest.mark.parametrize("fields", [{}, {"attention": "linear_dot_product"}, E3], ids=["mlp", "dot", "e3"])
@pytest.mark.parametrize("positions", [WATER, ON_AXES], ids=["general", "axes"])
def test_first_and_second_derivatives(positions: np.ndarray, fields: dict[str, object]) -> None:
    network = model(num_layers=2, **fields).requires_grad_(False)
    system = graph(positions)
    r = system.positions.clone().requires_grad_()
    assert gradcheck(total(network, system), (r,))
    assert gradgradcheck(total(network, system), (r,), atol=1e-5)


@pytest.mark.parametrize("basis", ["exp", "gaussian", "bessel"])
def test_derivative_of_a_force_loss_with_respect_to_the_weights(basis: str) -> None:
    network = model(num_layers=2, basis=basis)
    system = graph(WATER)

    def loss() -> Tensor:
        r = system.positions.clone().requires_grad_()
        (force,) = torch.autograd.grad(total(network, system)(r), r, create_graph=True)
        return force.square().sum()

    names = ["blocks.0.ga.alpha_dot", "atom_embed.atom_type_lin.tp.weight", "blocks.0.ga.sep_value.dtp.tp.weight",
             "blocks.0.ga.sep_act.dtp_rad.net.6.weight", "edge_deg_embed.exp.tp.weight"]  # fmt: skip
    names += {"gaussian": ["rbf.std", "rbf.bias"], "bessel": ["rbf.rbf.frequencies"], "exp": []}[basis]
    assert_weight_slopes(network, loss, names, rel=2e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attention": "linear_mlp"},
        {"attention": "linear_dot_product"},
        {"norm_type": "layer"},
        {"norm_type": "graph"},
        {"num_layers": 3, **E3},
        # irreps of the network in between that the features do not have
        {"irreps_node": "4x0e+2x1e", "irreps_pre_attn": "4x0e+2x2e"},
        {"node_attributes": 2, "edge_attributes": 2},
    ],
    ids=lambda fields: "-".join(map(str, fields)) or "default",
)
def test_the_short_way_of_the_last_block(fields: dict[str, object]) -> None:
    network = model(**{"num_layers": 2, **fields})
    system = graph(WATER)
    with torch.no_grad():
        short = network(system).energy
        last = network.blocks[-1].attention
        assert last.scalars_only and not network.blocks[0].attention.scalars_only
        last.scalars_only = False
        assert (network(system).energy - short).abs().max() < 1e-12


def test_features_with_more_than_scalars_are_computed_in_full() -> None:
    network = model(irreps_feature="4x0e+2x1e")
    assert not network.blocks[-1].attention.scalars_only


def test_displacements_are_vectors() -> None:
    for fields in ({"irreps_feature": "4x0e+2x1e"}, {**E3, "irreps_feature": "4x0e+2x1o"}):
        network = model(num_layers=2, auxiliary_head=True, **fields)
        system = graph(WATER)
        (r,) = random_rotations(1, torch.Generator().manual_seed(0))
        if network.group == "E(3)":
            r = -r
        with torch.no_grad():
            before, after = network(system), network(system.transform(r))
        assert before.displacements.shape == (3, 3) and before.displacements.abs().max() > 1e-3
        assert (before.displacements @ r.T - after.displacements).abs().max() < 1e-12
        assert (before.energy - after.energy).abs().max() < 1e-12
    assert model()(system).displacements is None


def test_parity() -> None:
    mirror = -torch.eye(3, dtype=torch.float64)
    chiral = graph(np.array([[0.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.1, 1.2, 0.2], [0.2, 0.3, 1.4]]), [6, 1, 8, 7])
    with torch.no_grad():
        for fields, same in ((E3, True), ({}, False)):
            network = model(num_layers=3, size=0.5, **fields)
            difference = (network(chiral).energy - network(chiral.transform(mirror)).energy).abs().max()
            assert (difference < 1e-12) == same
    assert (model().group, model(**E3).group) == ("SE(3)", "E(3)")


def test_tags() -> None:
    network = model(num_tags=3)
    system = graph(WATER)
    with torch.no_grad():
        assert torch.equal(network(system).energy, network(replace(system, tags=torch.zeros(3).long())).energy)
        tagged = replace(system, tags=torch.tensor([0, 2, 1]))
        assert (network(tagged).energy - network(system).energy).abs().min() > 1e-6
        assert torch.equal(AtomGraph.collate([system, tagged]).tags, torch.tensor([0, 0, 0, 0, 2, 1]))
        with pytest.raises(CovariumError, match=r"tags run from 0 to 3; this model knows 0 to 2"):
            network(replace(system, tags=torch.tensor([0, 3, 0])))


def test_elements() -> None:
    by_list = model(elements=(8, 6, 1))
    assert by_list.atom_embed.atom_type_lin.tp["weight"].shape == (12,)
    assert by_list.kinds(graph(WATER)).tolist() == [0, 2, 1]
    with pytest.raises(CovariumError, match=r"atomic numbers \[7\] are not among model.elements = \(8, 6, 1\)"):
        by_list(graph(WATER, [8, 7, 1]))
    with pytest.raises(CovariumError, match=r"atomic number 26 ≥ model.max_num_elements = 10"):
        model()(graph(WATER, [8, 26, 1]))


def test_constants_scale_energy_and_degree() -> None:
    system = graph(WATER)
    with torch.no_grad():
        one = model()(system).energy
        assert (one * 3 / 2 - model(avg_num_nodes=4.0, energy_scale=3.0)(system).energy).abs().max() < 1e-14
        assert (one - model(avg_degree=8.0)(system).energy).abs().max() > 1e-6


def test_attention_weights_can_be_observed() -> None:
    network = model(num_layers=2)
    seen: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, GraphAttention | DotProductAttention):
            module.softmax.register_forward_hook(lambda module, args, output: seen.append(output))
    system = graph(WATER)
    network(system)
    assert len(seen) == 2 and seen[0].shape == (system.edge_index.shape[1], 2)
    sums = torch.zeros(3, 2, dtype=torch.float64).index_add(0, system.edge_index[1], seen[0].detach())
    assert (sums - 1).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"irreps_sh": "1x0e+1x2e"}, "irreps_sh must be like 1x0e"),
        ({"irreps_sh": "1x0e+2x1e"}, "irreps_sh must have multiplicities of 1"),
        ({"irreps_sh": "1x0e"}, "irreps_sh must be like 1x0e"),
        ({"irreps_node": "4x1e"}, "irreps_node must contain 0e, got '4x1e'"),
        ({"irreps_head": "2x0e+1x3e"}, "irreps_head '2x0e.1x3e' goes beyond the degrees of model.irreps_sh"),
        ({"irreps_mlp": "4x0e+2x1o"}, "irreps_mlp '4x0e.2x1o' has odd irreps, which model.irreps_sh"),
        ({"auxiliary_head": True}, "auxiliary_head reads 1e of model.irreps_feature, which is '4x0e'"),
        ({"num_heads": 0}, "num_heads must be at least 1"),
        ({"num_basis": 1}, "num_basis must be at least 2"),
        ({"avg_degree": 0.0}, "avg_degree must be positive"),
        ({"alpha_drop": 1.0}, "alpha_drop must lie from 0 to below 1"),
        ({"num_tags": -1}, "num_tags must not be negative"),
        ({"elements": (1, 6, 6)}, "elements must be different atomic numbers from 1 to 118"),
        ({"elements": (1, 200)}, "elements must be different atomic numbers from 1 to 118"),
        ({"elements": ()}, "elements must be different atomic numbers from 1 to 118"),
    ],
)
def test_impossible_configurations_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        replace(TINY, **fields)


def test_a_new_model_is_smooth_and_does_not_amplify() -> None:
    config = EquiformerConfig()
    assert (config.envelope, config.norm_type) == ("polynomial", "anchored")
    published = EquiformerConfig.published()
    assert (published.envelope, published.norm_type) == ("none", "layer")


def test_initial_values() -> None:
    torch.manual_seed(0)
    network = Equiformer(EquiformerConfig(num_layers=1))
    for name, value in network.named_parameters():
        if name.endswith("bias") or "bias." in name:
            assert value.abs().max() == 0, name
        if "affine_weight" in name:
            assert (value == 1).all(), name
    parameters = dict(network.named_parameters())
    assert parameters["atom_embed.atom_type_lin.tp.weight"].std().item() == pytest.approx(1.0, rel=0.05)
    assert parameters["blocks.0.ga.sep_value.dtp.tp.weight"].std().item() == pytest.approx(1.0, rel=0.1)
    assert parameters["blocks.0.ga.alpha_dot"].abs().max() <= (6 / (4 + 16)) ** 0.5

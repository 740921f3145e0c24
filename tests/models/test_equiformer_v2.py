"""EquiformerV2 itself: switches, refusals, the border between the charts, second derivatives, initial values."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import ON_AXES, WATER, assert_weight_slopes, scattered
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from covarium.algebra.rotations import edge_frames
from covarium.errors import CovariumError
from covarium.models import EquiformerV2, EquiformerV2Config
from covarium.systems import AtomGraph, atom_graph

TINY = EquiformerV2Config(
    num_layers=1, sphere_channels=4, attn_hidden_channels=4, num_heads=2, attn_alpha_channels=2, attn_value_channels=2,
    ffn_hidden_channels=4, edge_channels=4, num_distance_basis=8, lmax=2, mmax=2, cutoff=4.0, max_num_elements=10,
    avg_degree=4.0,
)  # fmt: skip


def model(seed: int = 0, size: float = 0.2, **fields: object) -> EquiformerV2:
    return scattered(lambda: EquiformerV2(replace(TINY, **fields)), seed, size)


def graph(positions: np.ndarray, numbers: list[int] | None = None, config: EquiformerV2Config = TINY) -> AtomGraph:
    return atom_graph(np.array(numbers or [8, 1, 6, 1][: len(positions)]), positions, config.spec)


def total(network: EquiformerV2, system: AtomGraph) -> object:
    return lambda r: network(replace(system, positions=r)).energy.sum()


@pytest.mark.parametrize("positions", [WATER, ON_AXES], ids=["general", "axes"])
def test_first_and_second_derivatives(positions: np.ndarray) -> None:
    network = model().requires_grad_(False)
    system = graph(positions)
    r = system.positions.clone().requires_grad_()
    assert gradcheck(total(network, system), (r,))
    assert gradgradcheck(total(network, system), (r,), atol=1e-5)


def test_derivative_of_a_force_loss_with_respect_to_the_weights() -> None:
    network = model(attn_activation="separable_s2", ffn_activation="separable_grid_mlp", norm_type="layer_norm_sh")
    system = graph(WATER)

    def loss() -> Tensor:
        r = system.positions.clone().requires_grad_()
        energy = network(replace(system, positions=r)).energy.sum()
        (force,) = torch.autograd.grad(energy, r, create_graph=True)
        return force.square().sum()

    names = ("blocks.0.ga.alpha_dot", "sphere_embedding.weight", "blocks.0.ga.so2_conv_1.so2_m_conv.0.fc.weight")
    assert_weight_slopes(network, loss, names, rel=1e-5)


def crossing(height: float) -> np.ndarray:
    """An edge whose direction passes from one chart to the other at height 0, among others that do not."""
    return np.array([[0.0, 0.0, 0.0], [1.1 * math.cos(0.4), height, 1.1 * math.sin(0.4)], [0.3, 1.2, -0.9]])


def derivatives(network: EquiformerV2, height: float) -> tuple[Tensor, Tensor, Tensor]:
    system = graph(crossing(height))
    function = total(network, system)
    return (
        function(system.positions).detach(),
        torch.autograd.functional.jacobian(function, system.positions),
        torch.autograd.functional.hessian(function, system.positions),
    )


@pytest.mark.parametrize("mmax", [0, 1, 2])
def test_energy_forces_and_hessian_are_continuous_across_the_charts(mmax: int) -> None:
    network = model(mmax=mmax).requires_grad_(False)
    step = 1e-9
    vectors = graph(crossing(step)).vectors()[:1], graph(crossing(-step)).vectors()[:1]
    frames = [edge_frames(v / v.norm()) for v in vectors]
    assert (frames[0] - frames[1]).abs().max() > 0.1, "the charts differ there"
    above, below, on = (derivatives(network, h) for h in (step, -step, 0.0))
    assert float(above[1].abs().max()) > 1e-4
    for order in range(3):
        largest = float(above[order].abs().max())
        assert (above[order] - below[order]).abs().max() < 1e-7 * max(largest, 1.0), order
        assert (above[order] - on[order]).abs().max() < 1e-7 * max(largest, 1.0), order


def test_a_coarse_grid_does_notice_the_border() -> None:
    network = model(attn_activation="s2", lmax=2, mmax=2, size=0.6).requires_grad_(False)
    above, below = (derivatives(network, h)[0] for h in (1e-9, -1e-9))
    assert (above - below).abs() > 1e-8


def test_the_frames_do_not_matter_to_gates() -> None:
    network = model()
    system = graph(WATER)
    unit = system.vectors() / system.vectors().norm(dim=1, keepdim=True)
    angle = torch.rand(len(unit), generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 6
    turn = torch.zeros(len(unit), 3, 3, dtype=torch.float64)
    turn[:, 1, 1] = 1
    turn[:, 0, 0], turn[:, 2, 2], turn[:, 0, 2], turn[:, 2, 0] = angle.cos(), angle.cos(), angle.sin(), -angle.sin()
    with torch.no_grad():
        turned = network(system, frames=turn @ edge_frames(unit)).energy
        assert (turned - network(system).energy).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mmax": 3}, r"mmax must lie in 0..lmax = 2, got 3"),
        ({"mmax": -1}, r"mmax must lie in 0..lmax = 2, got -1"),
        ({"lmax": 0, "mmax": 0}, "lmax must be at least 1, got 0"),
        ({"num_distance_basis": 1}, "num_distance_basis must be at least 2, got 1"),
    ],
)
def test_impossible_sizes_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        replace(TINY, **fields)


def test_an_element_beyond_the_table_is_refused() -> None:
    with pytest.raises(CovariumError, match=r"atomic number 26 ≥ model.max_num_elements = 10"):
        model()(graph(WATER, [8, 26, 1]))


def test_neighbourhood_of_the_model() -> None:
    spec = EquiformerV2(replace(TINY, neighbours="nearest_with_ties", max_neighbours=7)).spec
    assert (spec.cutoff, spec.rule, spec.max_neighbours) == (4.0, "nearest_with_ties", 7)


def test_initial_values() -> None:
    torch.manual_seed(0)
    wide = replace(TINY, sphere_channels=64, ffn_hidden_channels=64, weight_init="normal")
    network = EquiformerV2(wide)
    parameters = dict(network.named_parameters())
    for name, value in parameters.items():
        if name.endswith("bias"):
            assert value.abs().max() == 0, name
        if "source_embedding" in name or "target_embedding" in name:
            assert value.abs().max() <= 0.001, name
    linear = parameters["blocks.0.ffn.so3_linear_1.weight"]
    assert linear.std().item() == pytest.approx(1 / 8, rel=0.05)
    uniform = dict(EquiformerV2(replace(wide, weight_init="uniform")).named_parameters())
    assert uniform["blocks.0.ffn.so3_linear_1.weight"].abs().max() <= 1 / 8
    assert parameters["sphere_embedding.weight"].std().item() == pytest.approx(1.0, rel=0.1)
    shared = EquiformerV2(replace(wide, atom_edge_embedding="shared"))
    assert shared.source_embedding.weight.std().item() == pytest.approx(1.0, rel=0.3)
    assert not any("blocks" in n and "embedding" in n for n, _ in shared.named_parameters())


@pytest.mark.parametrize("ffn_activation", ["gate", "separable_s2", "s2", "grid_mlp", "separable_grid_mlp"])
def test_the_short_way_to_the_energy_is_the_l0_row_of_the_long_one(ffn_activation: str) -> None:
    network = model(ffn_activation=ffn_activation)
    x = torch.randn(5, 9, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    head = network.energy_block
    assert (head.scalars(x) - head(x)[:, 0]).abs().max() < 1e-14


def test_constants_scale_the_energy_and_the_degree() -> None:
    system = graph(WATER)
    with torch.no_grad():
        one = model()(system).energy
        halved = model(avg_num_nodes=2.0)(system).energy
        other = model(avg_degree=8.0)(system).energy
    assert (one / 2 - halved).abs().max() < 1e-15
    assert (one - other).abs().max() > 1e-6

"""EquiformerV3 itself: grids, frames, derivatives, heads, denoising passes, refusals, initial values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import ON_AXES, WATER, scattered
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from covarium.algebra.rotations import edge_frames, random_rotations
from covarium.errors import CovariumError
from covarium.models import EquiformerV3, EquiformerV3Config
from covarium.systems import AtomGraph, Denoising, atom_graph

TINY = EquiformerV3Config(
    num_layers=1, num_channels=4, attn_hidden_channels=3, num_heads=2, attn_alpha_channels=2, attn_value_channels=2,
    ffn_hidden_channels=4, edge_channels=4, num_radial_basis=8, lmax=2, mmax=2, cutoff=4.0, max_num_elements=10,
    avg_degree=4.0,
)  # fmt: skip
HEADS = {"force_head": "gate", "stress_head": True, "denoising": True}


def model(seed: int = 0, size: float = 0.3, **fields: object) -> EquiformerV3:
    return scattered(lambda: EquiformerV3(replace(TINY, **fields)), seed, size)


def graph(positions: np.ndarray, numbers: list[int] | None = None) -> AtomGraph:
    return atom_graph(np.array(numbers or [8, 1, 6, 1][: len(positions)]), positions, TINY.spec)


def total(network: EquiformerV3, system: AtomGraph) -> object:
    return lambda r: network(replace(system, positions=r)).energy.sum()


@pytest.mark.parametrize("positions", [WATER, ON_AXES], ids=["general", "axes"])
def test_first_and_second_derivatives(positions: np.ndarray) -> None:
    """On the axes too, where the published code masks its rotations."""
    network = model().requires_grad_(False)
    system = graph(positions)
    r = system.positions.clone().requires_grad_()
    assert gradcheck(total(network, system), (r,))
    assert gradgradcheck(total(network, system), (r,), atol=1e-5)


@pytest.mark.parametrize("mmax", [0, 1, 2])
def test_the_frames_do_not_matter_to_products(mmax: int) -> None:
    network = model(mmax=mmax, **HEADS)
    system = graph(WATER)
    unit = system.vectors() / system.vectors().norm(dim=1, keepdim=True)
    angle = torch.rand(len(unit), generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 6
    turn = torch.zeros(len(unit), 3, 3, dtype=torch.float64)
    turn[:, 1, 1] = 1
    turn[:, 0, 0], turn[:, 2, 2], turn[:, 0, 2], turn[:, 2, 0] = angle.cos(), angle.cos(), angle.sin(), -angle.sin()
    with torch.no_grad():
        turned, straight = network(system, frames=turn @ edge_frames(unit)), network(system)
        for name in ("energy", "forces", "stress"):
            assert (getattr(turned, name) - getattr(straight, name)).abs().max() < 1e-13


@pytest.mark.parametrize("fields", [{}, {"lmax": 3, "mmax": 1}, {"use_grid_mlp": False}], ids=str)
def test_half_the_points_give_the_published_numbers(fields: dict[str, object]) -> None:
    lmax, mmax = fields.get("lmax", 2), fields.get("mmax", 2)
    even = 2 * (3 * lmax // 2 + 1)  # more than 3 lmax, and even
    published = {"grid": "equal_angle", "attn_grid": (even, 3 * mmax + 1), "ffn_grid": (even, even)}
    system = graph(WATER)
    with torch.no_grad():
        one, other = (model(**fields, **more)(system).energy for more in ({}, published))
    assert (one - other).abs().max() < 1e-13


def test_heads_transform_as_they_should() -> None:
    network, system = model(**HEADS), graph(WATER)
    generator = torch.Generator().manual_seed(2)
    told = Denoising(torch.randn(3, 3, generator=generator, dtype=torch.float64), torch.tensor([True, False, True]))
    with torch.no_grad():
        straight = network(system, denoising=told)
        for g in random_rotations(3, generator):
            turned = network(system.transform(g), denoising=Denoising(told.forces @ g.T, told.mask))
            assert (turned.energy - straight.energy).abs().max() < 1e-12
            assert (turned.forces - straight.forces @ g.T).abs().max() < 1e-12
            assert (turned.noise - straight.noise @ g.T).abs().max() < 1e-12
            assert (turned.stress - g @ straight.stress @ g.T).abs().max() < 1e-12
    assert straight.stress.shape == (1, 3, 3) and network.outputs == {"energy", "forces", "stress", "noise"}


def test_stress_is_a_mean_over_the_atoms_of_each_structure() -> None:
    network = model(**HEADS)
    one, two = graph(WATER), graph(ON_AXES)
    with torch.no_grad():
        both = network(AtomGraph.collate([one, two])).stress
        assert (both - torch.cat([network(one).stress, network(two).stress])).abs().max() < 1e-14


def test_a_denoising_pass_reads_the_forces_of_displaced_atoms_alone() -> None:
    network, system = model(denoising=True), graph(WATER)
    forces = torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mask = torch.tensor([True, False, False])

    def energy(f: Tensor, m: Tensor) -> Tensor:
        with torch.no_grad():
            return network(system, denoising=Denoising(f, m)).energy

    other = forces.clone()
    other[1:] += 1
    assert torch.equal(energy(forces, mask), energy(other, mask))
    assert not torch.allclose(energy(forces, mask), energy(forces + 1, mask))
    with torch.no_grad():
        plain = network(system)
    assert plain.noise is None
    assert torch.equal(energy(forces, torch.zeros(3, dtype=torch.bool)), plain.energy)
    with pytest.raises(CovariumError, match="built without denoising"):
        model()(system, denoising=Denoising(forces, mask))


def test_soft_cap_bounds_the_logits() -> None:
    system = graph(WATER)
    with torch.no_grad():
        plain, capped, loose = (model(softcap=cap)(system).energy for cap in (None, 0.01, 1e6))
    assert (plain - loose).abs().max() < 1e-9 and (plain - capped).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mmax": 3}, r"mmax must lie in 0..lmax = 2, got 3"),
        ({"lmax": 1, "mmax": 1, "stress_head": True}, "lmax must be at least 2 for a stress head, got 1"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"softcap": 0.0}, "softcap must be positive and finite, got 0.0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must lie from 0 to below 1"),
        ({"ffn_activation": "gate"}, "set model.use_grid_mlp=false"),
        ({"add_merge": True, "radial_weights": "per_order"}, "needs model.radial_weights=per_degree"),
        ({"grid": "equal_angle", "attn_grid": (3, 3)}, "attn_grid must have an even number of latitudes"),
        ({"grid": "equal_angle", "ffn_grid": (0, 3)}, "ffn_grid must have an even number of latitudes"),
        ({"ffn_grid": (3, 7)}, r"ffn_grid \(3, 7\) is too coarse .* at least \(4, 7\)"),
    ],
)
def test_impossible_sizes_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        replace(TINY, **fields)


def test_an_element_beyond_the_table_is_refused() -> None:
    with pytest.raises(CovariumError, match=r"atomic number 26 ≥ model.max_num_elements = 10"):
        model()(graph(WATER, [8, 26, 1]))


def test_initial_values() -> None:
    torch.manual_seed(0)
    wide = replace(TINY, num_channels=64, ffn_hidden_channels=64, attn_hidden_channels=64)
    parameters = dict(EquiformerV3(wide).named_parameters())
    for name, value in parameters.items():
        if name.endswith("bias"):
            assert value.abs().max() == 0, name
        if "source_embedding" in name or "target_embedding" in name:
            assert 0 < value.abs().max() <= 0.001, name
    second = parameters["blocks.0.ffn.so3_linear_2.weight"].detach()
    assert float(second[0].std() / second[1].std()) == pytest.approx(0.5**0.5, rel=0.05), "two rows are added at l = 0"
    assert parameters["sphere_embedding.weight"].std().item() == pytest.approx(1.0, rel=0.1)
    assert parameters["blocks.0.ga.alpha_dot"].abs().max() <= 0.5**0.5

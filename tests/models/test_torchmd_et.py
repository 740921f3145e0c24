"""The Equivariant Transformer itself: derivatives where vectors vanish, heads, loops, cutoffs, refusals, sizes."""

from dataclasses import replace

import ase.data
import numpy as np
import pytest
import torch
from small_networks import WATER, scattered
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from covarium.algebra.rotations import random_rotations
from covarium.errors import CovariumError
from covarium.kernels import edge_form
from covarium.models import TorchMDET, TorchMDETConfig
from covarium.systems import AtomGraph, atom_graph

TINY = TorchMDETConfig(
    num_layers=2, embedding_dimension=8, num_heads=2, num_rbf=6, cutoff=4.0, max_num_elements=10
)  # fmt: skip
HEADS = ["scalar", "equivariant_scalar", "dipole", "equivariant_dipole", "spatial_extent", "vector"]


def model(seed: int = 0, size: float = 0.2, **fields: object) -> TorchMDET:
    return scattered(lambda: TorchMDET(replace(TINY, **fields)), seed, size)


def graph(positions: np.ndarray, numbers: list[int] | None = None, config: TorchMDETConfig = TINY) -> AtomGraph:
    return atom_graph(np.array(numbers or [8, 1, 6, 1, 8][: len(positions)]), positions, config.spec)


def total(network: TorchMDET, system: AtomGraph) -> object:
    def energy(r: Tensor) -> Tensor:
        output = network(replace(system, positions=r))
        return output.energy.sum() if output.energy is not None else output.value.square().sum()

    return energy


@pytest.mark.parametrize("output", HEADS)
def test_first_and_second_derivatives(output: str) -> None:
    network = model(output=output).requires_grad_(False)
    system = graph(WATER)
    r = system.positions.clone().requires_grad_()
    assert gradcheck(total(network, system), (r,))
    assert gradgradcheck(total(network, system), (r,), atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.01])
def test_derivatives_are_finite_where_vectors_vanish(epsilon: float) -> None:
    """Alone, at the centre of an octahedron, and on top of another atom."""
    star = np.concatenate([np.zeros((1, 3)), 1.2 * np.eye(3), -1.2 * np.eye(3)])
    scenes = [np.zeros((1, 3)), star, np.array([[0.0, 0, 0], [0, 0, 0], [1.0, 0.2, 0]])]
    network = model(vector_epsilon=epsilon).requires_grad_(False)
    for positions in scenes:
        system = graph(positions, [8, 1, 1, 1, 1, 1, 1][: len(positions)])
        function = total(network, system)
        slope = torch.autograd.functional.jacobian(function, system.positions)
        curvature = torch.autograd.functional.hessian(function, system.positions)
        assert bool(torch.isfinite(slope).all()) and bool(torch.isfinite(curvature).all())
        if len(positions) == 1:
            assert slope.abs().max() == 0 and curvature.abs().max() == 0


def test_the_curvature_at_a_symmetric_site_is_that_of_its_surroundings() -> None:
    """With the published length it depends on rounding; with the smooth one it is the limit from all sides."""
    star = np.concatenate([np.zeros((1, 3)), 1.2 * np.eye(3), -1.2 * np.eye(3)])
    near = star + 1e-6 * np.random.default_rng(0).normal(size=star.shape)
    for epsilon, allowed in ((0.1, True), (0.0, False)):
        network = model(vector_epsilon=epsilon, size=0.5).requires_grad_(False)
        hessians = [
            torch.autograd.functional.hessian(total(network, system), system.positions)
            for system in (graph(p, [8, 1, 1, 1, 1, 1, 1]) for p in (star, near))
        ]
        deviation = (hessians[0] - hessians[1]).abs().max() / hessians[0].abs().max()
        assert bool(deviation < 1e-3) == allowed


@pytest.mark.parametrize("output", HEADS)
def test_heads_obey_rotations_mirrors_and_translations(output: str) -> None:
    network = model(output=output)
    system = graph(WATER)
    g = -random_rotations(1, torch.Generator().manual_seed(0))[0]
    moved = replace(system.transform(g), positions=system.transform(g).positions + torch.tensor([5.0, -3.0, 2.0]))
    with torch.no_grad():
        one, other = network(system), network(moved)
    if output in ("scalar", "equivariant_scalar"):
        assert one.value is None and (one.energy - other.energy).abs().max() < 1e-12
        return
    assert one.energy is None and one.value.abs().max() > 1e-3
    expected = one.value if output == "spatial_extent" else one.value @ g.T
    assert (other.value - expected).abs().max() < 1e-11
    assert network.outputs == {output.removeprefix("equivariant_")}


@pytest.mark.parametrize("tile", [None, 5])
@pytest.mark.parametrize("fields", [{}, {"vector_cutoff": False}, {"distance_influence": "none"}], ids=str)
def test_edges_a_few_at_a_time(fields: dict[str, object], tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What large systems are computed by: energies, forces, and gradients of a loss of both."""
    network = model(size=0.5, **fields).double()
    rng = np.random.default_rng(0)
    system = graph(rng.normal(0, 1.2, (8, 3)), rng.choice([1, 6, 8], 8).tolist())
    found = []
    for numbers in (1 << 30, 1, 30):
        monkeypatch.setattr(edge_form, "NUMBERS", numbers)
        network.tile = tile
        moved = replace(system, positions=system.positions.detach().requires_grad_())
        energy = network(moved).energy
        (slope,) = torch.autograd.grad(energy.sum(), moved.positions, create_graph=True)
        loss = energy.square().sum() + slope.square().sum()
        gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
        found.append([energy, slope, *gradients])
    for few in found[1:]:
        for a, b in zip(few, found[0], strict=True):
            assert (a - b).detach().abs().max() <= 1e-12 * max(1.0, float(b.detach().abs().max()))


def test_moments_are_about_the_centre_of_mass() -> None:
    """Σ q r and Σ x r² worked out by hand from the atoms' scalars; structures of a batch do not mix."""
    both = AtomGraph.collate([graph(WATER), graph(np.zeros((1, 3))), graph(WATER[:2] + 7.0)])
    for output, power in (("dipole", 1), ("spatial_extent", 2)):
        network = model(output=output)
        scalars: list[Tensor] = []
        network.output_model.output_network.register_forward_hook(lambda m, a, out, s=scalars: s.append(out))
        with torch.no_grad():
            value = network(both).value
        mass = torch.tensor(ase.data.atomic_masses)[both.numbers]
        for b in range(3):
            chosen = both.batch == b
            r = both.positions[chosen]
            r = r - (mass[chosen, None] * r).sum(0) / mass[chosen].sum()
            expected = (scalars[0][chosen] * (r if power == 1 else r.square().sum(1, keepdim=True))).sum(0)
            assert (value[b] - expected).abs().max() < 1e-13


@pytest.mark.parametrize("output", ["dipole", "equivariant_dipole", "spatial_extent"])
def test_moments_of_a_periodic_structure_are_refused(output: str) -> None:
    network = model(output=output)
    crystal = atom_graph(np.array([8]), np.zeros((1, 3)), TINY.spec, cell=3 * np.eye(3), pbc=np.array([True] * 3))
    with pytest.raises(CovariumError, match="structure 1 is periodic: its .* about a centre of mass is undefined"):
        network(AtomGraph.collate([graph(WATER), crystal]))


def test_atoms_below_the_lower_cutoff_do_not_see_each_other() -> None:
    pair = np.array([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0]])
    for vector_cutoff in (True, False):
        network = model(cutoff_lower=1.0, vector_cutoff=vector_cutoff)
        alone = [network(graph(p[None], [z])).energy for p, z in zip(pair, (8, 1), strict=True)]
        assert (network(graph(pair, [8, 1])).energy - torch.cat(alone)).abs().max() < 1e-14


def test_attention_weights_can_be_observed_with_those_of_the_loops() -> None:
    network, system = model(), graph(WATER)
    seen: dict[str, Tensor] = {}
    layer = network.representation_model.attention_layers[1]
    layer.attention.register_forward_hook(lambda m, a, out: seen.__setitem__("edges", out))
    layer.loop_attention.register_forward_hook(lambda m, a, out: seen.__setitem__("loops", out))
    network(system)
    assert seen["edges"].shape == (system.edge_index.shape[1], 2) and seen["loops"].shape == (3, 2)


def test_dtype_does_not_round_the_basis() -> None:
    torch.manual_seed(0)
    network = TorchMDET(TINY)
    means = network.double().representation_model.distance_expansion.means
    assert (means - torch.linspace(float(np.exp(-4.0)), 1, 6, dtype=torch.float64)).abs().max() < 1e-15
    rounded = {name: t.float().double() for name, t in network.state_dict().items()}
    network.load_state_dict(rounded)
    name = "representation_model.distance_expansion.means"
    assert torch.equal(network.float().double().state_dict()[name], rounded[name]), "what a file holds is kept"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embedding_dimension": 9}, "even and divisible by model.num_heads, got 9 and 2"),
        ({"embedding_dimension": 6, "num_heads": 4}, "got 6 and 4"),
        ({"cutoff_lower": 4.0}, "cutoff_lower < model.cutoff is needed, got 4.0 and 4.0"),
        ({"num_rbf": 1}, "num_rbf must be at least 2, got 1"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"vector_epsilon": -1.0}, "vector_epsilon must be 0 or positive"),
    ],
)
def test_impossible_sizes_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        replace(TINY, **fields)


def test_an_element_beyond_the_table_is_refused() -> None:
    with pytest.raises(CovariumError, match=r"atomic number 26 ≥ model.max_num_elements = 10"):
        model()(graph(WATER, [8, 26, 1]))


def test_published_sizes() -> None:
    counts = {"md17": 1_339_906, "ani-1": 1_339_906, "qm9": 6_864_898, "spice": 1_227_522}
    for recipe, count in counts.items():
        with torch.device("meta"):
            network = TorchMDET(TorchMDETConfig.published(recipe))
        assert sum(p.numel() for p in network.parameters()) == count
    with pytest.raises(CovariumError, match="did you mean 'md17'"):
        TorchMDETConfig.published("md-17")

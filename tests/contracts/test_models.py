"""What every model of atoms must obey, whatever it is; a new entry of MODELS is tested by this file as it stands."""

from dataclasses import replace
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from ase.build import bulk
from contract_case import ELEMENTS, REFERENCES, Case, build, potential, probe
from contract_cases import CASES

from covarium.analysis import conservation, consistency, equivariance, smoothness
from covarium.analysis.check import Check, Probe, axes_star, cluster, crystal, flat, straight_row, structure
from covarium.data import Frame
from covarium.models import MODELS
from covarium.systems import AtomGraph, atom_graph
from covarium.tasks import Potential, Prediction

SPACING = 1.6
STAR, ROW = axes_star(ELEMENTS, 1.3), straight_row(ELEMENTS, 1.2)
CLUSTER, CRYSTAL = cluster(ELEMENTS, SPACING), crystal(ELEMENTS, SPACING)
LONE = structure([8], np.zeros((1, 3)))
NORM_PER_DEGREE = (
    "layer_norm", "layer_norm_sh", "equivariant_layer_norm", "sep_layer_norm", "layer", "instance", "graph",
)  # fmt: skip
DROPOUTS = ("alpha_drop", "attn_weights_drop", "drop_path_rate", "proj_drop", "out_drop")
# a chain that is periodic along one direction, which is no axis
TILTED = replace(CRYSTAL, pbc=np.array([False, False, True]))

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def some(**wanted: object) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if all(getattr(case, name) == value for name, value in wanted.items())]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


def judge(*checks: Check) -> None:
    for check in checks:
        assert check.passed, f"{check.name}: {check.value:.2e} > {check.level:.0e}; {check.note}"


@every
@pytest.mark.parametrize("frame", [STAR, CRYSTAL], ids=["axes", "crystal"])
def test_group_the_model_declares(case: Case, frame: Frame) -> None:
    judge(*equivariance.equivariance(probe(case), frame, level=case.rotation, samples=20))


@every
def test_bonds_through_the_border_of_the_charts(case: Case) -> None:
    judge(equivariance.two_charts(probe(case), flat(ELEMENTS, SPACING), level=case.rotation))


@every
def test_energy_is_conserved(case: Case) -> None:
    found = conservation.constant_energy(probe(case), CLUSTER)
    if case.smooth:  # direct forces are told and not judged
        judge(*found)
    assert case.forces == "gradient" or (found[0].value > 10 and found[1].value > 1 and found[0].level is None)


@every
def test_translation_permutation_and_lattice_wraps(case: Case) -> None:
    p = probe(case)
    judge(equivariance.translation(p, CLUSTER), equivariance.permutation(p, CLUSTER))
    judge(equivariance.permutation(p, CRYSTAL), equivariance.lattice_wraps(p, CRYSTAL))
    judge(equivariance.lattice_wraps(p, TILTED))


@every
def test_a_batch_is_its_structures(case: Case) -> None:
    frames = [CLUSTER, LONE, CRYSTAL, ROW, TILTED, LONE]
    judge(consistency.batch_equals_single(probe(case), frames))
    judge(consistency.no_gradient_across(probe(case), [ROW, LONE, CRYSTAL]))


@every
def test_isolated_atoms(case: Case) -> None:
    judge(*consistency.isolated_atoms(probe(case)))


@some(local=True)
def test_atoms_alone(case: Case) -> None:
    p = probe(case)
    judge(consistency.no_edges(p))
    beside = structure([*CLUSTER.numbers, 8], np.concatenate([CLUSTER.positions, [[100.0, 0, 0]]]))
    forces = p(beside).forces
    assert forces is not None and forces[-1].abs().max() == 0
    assert (p(beside).energy - p(CLUSTER).energy - p(LONE).energy).abs() < 1e-12


@every
def test_no_atoms(case: Case) -> None:
    spec = probe(case).spec
    empty = atom_graph(np.zeros(0, dtype=np.int64), np.zeros((0, 3)), spec)
    water = atom_graph(np.array([1]), np.zeros((1, 3)), spec)
    assert potential(case).eval().predict(empty).energy.tolist() == [0.0]
    both = potential(case).eval().predict(AtomGraph.collate([empty, water, empty]))
    assert both.energy[0] == 0 and both.energy[2] == 0 and both.energy[1] != 0


@every
def test_extensive(case: Case) -> None:
    if case.local:
        judge(consistency.far_apart(probe(case), CLUSTER, ROW))
    if probe(case).spec.rule != "nearest":  # it cuts ties, and not the same ones in another cell
        judge(consistency.supercell(probe(case), CRYSTAL))


@every
def test_repeats_and_precision(case: Case) -> None:
    judge(consistency.deterministic(probe(case), [CLUSTER, CRYSTAL]))
    judge(consistency.single_precision(probe(case), CLUSTER))
    again = Probe(potential(case))
    assert torch.equal(again(CLUSTER).forces, probe(case)(CLUSTER).forces), "the same seed builds the same model"


@every
def test_finite_at_short_distances(case: Case) -> None:
    judge(smoothness.short_distances(probe(case), points=30))


@some(forces="gradient", exact=True)
@pytest.mark.parametrize("frame", [STAR, ROW], ids=["axes", "row"])
def test_forces_are_the_derivative_with_bonds_on_the_axes(case: Case, frame: Frame) -> None:
    judge(smoothness.finite_difference_forces(probe(case), frame))


@some(forces="gradient", exact=True)
def test_forces_are_the_derivative_next_to_the_axes(case: Case) -> None:
    nearly = replace(STAR, positions=STAR.positions + np.random.default_rng(0).normal(size=(7, 3)) * 1e-8)
    judge(smoothness.finite_difference_forces(probe(case), nearly))
    forces, near = probe(case)(STAR).forces, probe(case)(nearly).forces
    assert (forces - near).abs().max() < 1e-5 * forces.abs().max().clamp(min=0.1)


@some(forces="gradient", exact=True)
def test_stress_is_the_derivative(case: Case) -> None:
    judge(smoothness.finite_difference_stress(probe(case), CRYSTAL))


@some(smooth=True)
def test_nothing_jumps_at_the_cutoff(case: Case) -> None:
    judge(*smoothness.cutoff_jump(probe(case)))


@some(forces="gradient")
def test_no_net_force(case: Case) -> None:
    forces = probe(case)(CLUSTER).forces
    assert forces is not None and forces.sum(0).abs().max() < 1e-12 * max(1.0, float(forces.abs().max()))


@every
def test_perfect_crystal_has_no_forces(case: Case) -> None:
    copper = bulk("C", "fcc", a=3.0, cubic=True)
    perfect = structure(copper.numbers.tolist(), copper.positions, copper.cell.array)
    forces = probe(case)(perfect).forces
    assert forces is not None
    largest = float(forces.abs().max())
    if probe(case).spec.rule == "nearest" and case.config.max_neighbours < 12:
        assert largest > 1e-6, "5 of 12 equal neighbours are no symmetric choice"
        return
    if getattr(case.config, "vector_epsilon", 1.0) == 0:
        assert largest > 1e-6, "the published length of a vector has a cusp at zero, where rounding points anywhere"
        return
    # degrees 1 to 3 vanish on a cubic site; a norm of their own divides their rounding by √eps, three times over
    alone = getattr(case.config, "norm_type", "") in NORM_PER_DEGREE
    assert largest < (1e-9 if alone else 1e-12)


@every
def test_dropout_is_equivariant_and_drawn_from_the_generator(case: Case) -> None:
    model = build(case).train()
    system = AtomGraph.collate([probe(case).system([f]) for f in (CLUSTER, ROW, CRYSTAL)])

    def train_step(graph: AtomGraph, seed: int = 0) -> Prediction:
        positions = graph.positions.clone().requires_grad_()
        energy = model(replace(graph, positions=positions), torch.Generator().manual_seed(seed)).energy
        (gradient,) = torch.autograd.grad(energy.sum(), positions)
        return Prediction(energy=energy.detach(), atom_energy=energy.detach(), forces=-gradient)

    found = equivariance.check_equivariance(train_step, system, model.group, samples=3)
    assert max(d.relative for d in found.values()) <= max(case.rotation, 1e-10)
    one, same, other = train_step(system), train_step(system), train_step(system, 1)
    assert torch.equal(one.forces, same.forces)
    drops = any(getattr(case.config, name, 0) for name in DROPOUTS)
    assert torch.equal(one.energy, other.energy) != drops
    with torch.no_grad():
        quiet = model.eval()(system, torch.Generator().manual_seed(0)).energy
        assert torch.equal(quiet, model(system).energy), "nothing is dropped in evaluation"


@every
def test_protocol(case: Case) -> None:
    model = build(case)
    system = probe(case).system([CLUSTER, CRYSTAL])
    output = model(system)
    assert output.energy.shape == (system.num_atoms,) and output.energy.dtype == torch.float64
    assert (output.forces is not None) == ("forces" in model.outputs)
    assert model.reads <= {"charge", "spin"} and model.group in equivariance.GROUPS
    names = dict(model.named_parameters())
    assert model.no_weight_decay() < names.keys()
    exempt = ("norm", "embedding", "rbf")
    assert all(names[name].ndim <= 1 or any(part in name for part in exempt) for name in model.no_weight_decay())
    output.energy.sum().backward()
    # heads that this pass does not ask, and parts of published heads and first layers whose output nothing reads
    idle = ("force_block", "energy_block", "stress_block", "dens_block", "force_embedding", "auxiliary_head",
            "output_model.output_network.1.vec2_proj", "representation_model.attention_layers.0.vec_proj")  # fmt: skip
    silent = [n for n, p in names.items() if p.grad is None and not n.startswith(idle)]
    assert not silent, "parameters that cannot learn"
    assert set(REFERENCES) <= set(range(case.config.max_num_elements))


@pytest.mark.parametrize("model", sorted({case.model for case in CASES}))
def test_every_value_of_every_switch_is_under_contract(model: str) -> None:
    configs = [case.config for case in CASES if case.model == model]
    for name, hint in get_type_hints(MODELS[model][1]).items():
        unions = [set(get_args(part)) for part in get_args(hint) if get_origin(part) is Literal]
        allowed = set().union(*unions) or set(get_args(hint))
        if name != "output" and allowed and all(isinstance(value, str) for value in allowed):
            seen = {getattr(config, name) for config in configs}
            assert seen == allowed, f"{name}: no contract case has {sorted(allowed - seen)}"


def test_the_contracts_can_fail() -> None:
    class Tilted(torch.nn.Module):
        """Reads the x axis of the laboratory, jumps at the cutoff, and counts atoms by their index."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner, self.spec, self.outputs = inner, inner.spec, inner.outputs
            self.group, self.reads = inner.group, inner.reads

        def forward(self, graph: AtomGraph, rng: torch.Generator | None = None):
            output = self.inner(graph, rng)
            degree = torch.bincount(graph.edge_index[1], minlength=graph.num_atoms)
            index = torch.arange(graph.num_atoms)
            x = graph.positions[:, 0]
            return output._replace(energy=output.energy + 1e-6 * (x + degree + index * x.square()))

    broken = Probe(Potential(Tilted(build(CASES[1])), references=REFERENCES))
    assert not all(c.passed for c in equivariance.equivariance(broken, STAR))
    assert not equivariance.translation(broken, CLUSTER).passed
    assert not equivariance.permutation(broken, CLUSTER).passed
    assert not equivariance.lattice_wraps(broken, CRYSTAL).passed
    assert not consistency.batch_equals_single(broken, [CLUSTER, CRYSTAL]).passed
    assert not consistency.supercell(broken, CRYSTAL).passed
    assert not equivariance.two_charts(broken, flat(ELEMENTS, SPACING)).passed
    assert not smoothness.cutoff_jump(broken)[0].passed
    rough = next(c for c in CASES if c.name == "no_envelope")
    assert smoothness.cutoff_jump(probe(rough))[0].value > 1e-3

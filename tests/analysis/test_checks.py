"""A sound potential passes every check; each fault that was built in is found by the check made for it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from covarium.analysis import conservation, consistency, equivariance, smoothness
from covarium.analysis.check import Check, Probe, axes_star, cluster, crystal, flat, straight_row
from covarium.analysis.suite import check_potential
from covarium.errors import CovariumError
from covarium.physics import Harmonic, LennardJones
from covarium.systems import AtomOutput, GraphSpec
from covarium.tasks import Potential

ELEMENTS = {6: -1000.0, 8: -2000.0}
SPACING = 2.8


def probe(model: torch.nn.Module, **options) -> Probe:
    return Probe(Potential(model, references=ELEMENTS, **options))


class Changed(LennardJones):
    """Lennard-Jones with a fault."""

    def __init__(self, fault, **attributes):
        super().__init__(0.01, 2.5)
        self.fault = fault
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, graph, rng=None):
        return self.fault(super().forward(graph, rng), graph)


def sheared(output, graph):
    """Energies that know which way is up."""
    i = graph.edge_index[1]
    tilt = graph.vectors()[:, 1].square()
    return AtomOutput(output.energy + 1e-6 * torch.zeros_like(output.energy).index_add(0, i, tilt))


def handed(output, graph):
    """Energies with a part that is odd under mirrors: a sum of triple products around each atom."""
    r = graph.vectors()
    i = graph.edge_index[1]

    def moment(power):
        weighted = r * r.square().sum(1, keepdim=True) ** power
        return torch.zeros_like(graph.positions).index_add(0, i, weighted)

    odd = (torch.linalg.cross(moment(-1), moment(-2)) * moment(-3)).sum(1)
    return AtomOutput(output.energy + odd)


def test_a_sound_potential_passes_all():
    checks = list(check_potential(Potential(LennardJones(0.01, 2.5), references=ELEMENTS), spacing=SPACING))
    assert [c for c in checks if not c.passed] == []
    assert len(checks) > 20
    assert [c.name for c in checks if c.level is None] == ["isolated atom beyond E0 (eV)"]
    names = " ".join(c.name for c in checks)
    assert "NVE drift" in names and "dt² law" in names and "two charts" in names


def test_frames_of_the_user_are_looked_at_too():
    potential = Potential(LennardJones(0.01, 2.5), references=ELEMENTS)
    few = list(check_potential(potential, spacing=SPACING))
    more = list(check_potential(potential, [crystal((8, 6), 2.6, seed=3)], spacing=SPACING))
    assert len(more) > len(few)
    assert all(c.passed for c in more)


def test_references_do_not_hide_errors():
    # relative to 3000 eV the tilt would be 1e-10
    frame = axes_star((6, 8), SPACING)
    by_name = {c.name: c for c in equivariance.equivariance(probe(Changed(sheared)), frame)}
    assert not by_name["E(3) energy"].passed
    assert by_name["E(3) energy"].value > 1e-6


def test_turned_forces_are_found():
    frame = cluster((6, 8), SPACING)
    fault = lambda output, graph: AtomOutput(output.energy, torch.ones_like(graph.positions))  # noqa: E731
    model = Changed(fault, outputs=frozenset({"energy", "forces"}))
    by_name = {c.name: c for c in equivariance.equivariance(probe(model, forces="direct"), frame)}
    assert not by_name["E(3) forces"].passed
    assert by_name["E(3) energy"].passed


def test_mirrors_belong_to_e3_only():
    frame = cluster((6, 8), SPACING)
    claims_too_much = {c.name: c for c in equivariance.equivariance(probe(Changed(handed)), frame)}
    assert not claims_too_much["E(3) energy"].passed
    modest = probe(Changed(handed, group="SE(3)"))
    assert all(c.passed for c in equivariance.equivariance(modest, frame))
    reported = equivariance.inversion(modest, frame)
    assert reported.level is None and reported.passed and reported.value > 1e-3
    assert not equivariance.inversion(probe(Changed(handed)), frame).passed


def test_frames_that_differ_between_the_charts_are_found():
    """A bond counts a little more below y = 0: finite differences of the forces do not see it."""

    def charted(output, graph):
        below = (graph.vectors()[:, 1] < 0) != (graph.vectors()[:, 1] < -1e-2)
        return AtomOutput(output.energy + 1e-6 * below.sum())

    frame = flat((6, 8), SPACING)
    assert equivariance.two_charts(probe(Changed(lambda output, graph: output)), frame).passed
    assert not equivariance.two_charts(probe(Changed(charted)), frame).passed


def test_energy_that_is_not_conserved_is_found():
    frame = cluster((6, 8), SPACING)
    assert all(c.passed for c in conservation.constant_energy(probe(LennardJones(0.01, 2.5)), frame))

    def lost(output, graph):
        """A part of the energy that the gradient does not reach."""
        far = graph.vectors().norm(dim=1).detach().sum() / graph.num_atoms
        return AtomOutput(output.energy + 1e-3 * far)

    for check in conservation.constant_energy(probe(Changed(lost)), frame):
        assert check.value > check.level
    push = lambda output, graph: AtomOutput(output.energy, torch.ones_like(graph.positions))  # noqa: E731
    direct = probe(Changed(push, outputs=frozenset({"energy", "forces"})), forces="direct")
    told = conservation.constant_energy(direct, frame)
    assert all(c.level is None for c in told) and told[0].value > 10


def test_an_atom_alone_is_told_beside_its_reference():
    shifted = lambda output, graph: AtomOutput(output.energy + 0.25)  # noqa: E731
    force, energy = consistency.isolated_atoms(probe(Changed(shifted)))
    assert force.passed and energy.value == pytest.approx(0.25) and energy.level is None


def test_generic_check_needs_only_transform():
    class Vector:
        def __init__(self, value):
            self.value = value

        def transform(self, g):
            return Vector(g @ self.value)

    @dataclass
    class Twice:
        value: torch.Tensor
        note: str = ""

        def transform(self, g):
            return Twice(g @ self.value)

    start = Vector(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    good = equivariance.check_equivariance(lambda s: Twice(2 * s.value), start, "O(3)")
    bad = equivariance.check_equivariance(lambda s: Twice(s.value.abs()), start, "SO(3)")
    plane = lambda n, _: torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)).expand(n, 3, 3)  # noqa: E731
    assert good["value"].relative < 1e-15
    assert bad["value"].relative > 0.1
    assert equivariance.check_equivariance(lambda s: Twice(s.value**3), start, plane, 1)["value"].relative < 1e-15
    with pytest.raises(CovariumError, match=r"SE\(4\).*did you mean 'SE\(3\)'"):
        equivariance.check_equivariance(lambda s: Twice(s.value), start, "SE(4)")


def test_random_elements_are_in_their_group():
    for name, sampler in equivariance.GROUPS.items():
        g = sampler(8, torch.Generator().manual_seed(1))
        assert torch.allclose(g @ g.mT, torch.eye(3, dtype=torch.float64).expand_as(g), atol=1e-14)
        improper = int((torch.linalg.det(g) < 0).sum())
        assert improper == (4 if name in ("O(3)", "E(3)") else 0)


def test_positions_in_the_model_break_translation_and_wraps():
    at = lambda output, graph: AtomOutput(output.energy + 1e-6 * graph.positions.square().sum(1))  # noqa: E731
    broken = probe(Changed(at))
    assert not equivariance.translation(broken, cluster((6, 8), SPACING)).passed
    assert not equivariance.lattice_wraps(broken, crystal((6, 8), SPACING)).passed
    with pytest.raises(CovariumError, match="periodic"):
        equivariance.lattice_wraps(broken, cluster((6, 8), SPACING))


def test_order_of_atoms_matters_to_a_broken_model():
    first = lambda output, graph: AtomOutput(output.energy * (1 + 1e-6 * torch.arange(graph.num_atoms)))  # noqa: E731
    assert not equivariance.permutation(probe(Changed(first)), cluster((6, 8), SPACING)).passed


class WrongSign(Potential):
    def predict(self, system, **options):
        p = super().predict(system, **options)
        return replace(
            p, forces=None if p.forces is None else -p.forces, stress=None if p.stress is None else -p.stress
        )


@pytest.mark.parametrize("frame", [axes_star((6, 8), SPACING), straight_row((6, 8), SPACING)], ids=["axes", "line"])
def test_forces_of_the_wrong_sign_are_found(frame):
    broken = Probe(WrongSign(LennardJones(0.01, 2.5), references=ELEMENTS))
    found = smoothness.finite_difference_forces(broken, frame)
    size = float(probe(LennardJones(0.01, 2.5))(frame).forces.abs().max())
    assert not found.passed
    assert found.value == pytest.approx(2 * size, rel=1e-6)


def test_stress_of_the_wrong_sign_is_found():
    solid = crystal((6, 8), SPACING)
    broken = Probe(WrongSign(LennardJones(0.01, 2.5), references=ELEMENTS))
    assert not smoothness.finite_difference_stress(broken, solid).passed
    assert smoothness.finite_difference_stress(probe(LennardJones(0.01, 2.5)), solid).passed
    with pytest.raises(CovariumError, match="three periodic directions"):
        smoothness.finite_difference_stress(broken, cluster((6, 8), SPACING))


def test_a_detached_part_of_the_energy_is_found():
    cut = lambda output, graph: AtomOutput(0.5 * output.energy + 0.5 * output.energy.detach())  # noqa: E731
    assert not smoothness.finite_difference_forces(probe(Changed(cut)), cluster((6, 8), SPACING)).passed


def test_direct_forces_are_reported_not_judged():
    fault = lambda output, graph: AtomOutput(output.energy, torch.ones_like(graph.positions))  # noqa: E731
    model = Changed(fault, outputs=frozenset({"energy", "forces"}))
    found = smoothness.finite_difference_forces(probe(model, forces="direct"), cluster((6, 8), SPACING))
    assert found.level is None and found.passed and found.value > 0.1


def test_a_jump_at_the_cutoff_is_measured():
    # a spring that ends at the cutoff: energy ½k(r_c − r₀)² and force k(r_c − r₀) vanish there at once
    energy, force = smoothness.cutoff_jump(probe(Harmonic(2.0, 1.5, cutoff=4.0)))
    assert energy.value == pytest.approx(0.5 * 2.0 * 2.5**2, rel=1e-6)
    assert not energy.passed and not force.passed


def test_a_kink_at_the_cutoff_is_a_jump_of_the_force_only():
    # r₀ at the cutoff: energy and force arrive at zero, and the second derivative jumps
    smooth_enough = smoothness.cutoff_jump(probe(Harmonic(2.0, 4.0, cutoff=4.0)))
    assert all(c.passed for c in smooth_enough)

    class Linear(Harmonic):
        def forward(self, graph, rng=None):
            distance = graph.vectors().square().sum(-1).sqrt()
            return AtomOutput(
                distance.new_zeros(graph.num_atoms).index_add(0, graph.edge_index[1], 0.3 * (self.length - distance))
            )

    energy, force = smoothness.cutoff_jump(probe(Linear(1.0, 4.0, cutoff=4.0)))
    assert energy.passed
    assert not force.passed
    assert force.value > 0.1


def test_truncated_neighbours_jump():
    model = LennardJones(0.01, 2.5)
    model.spec = GraphSpec(7.5, "nearest", 6)
    energy, force = smoothness.rule_jump(probe(model))
    assert not energy.passed or not force.passed
    names = [c.name for c in check_potential(Potential(model, references=ELEMENTS), spacing=SPACING)]
    assert any("nearest 6" in name for name in names)
    with pytest.raises(CovariumError, match="'all'"):
        smoothness.rule_jump(probe(LennardJones(0.01, 2.5)))


def test_overlap_that_is_not_finite_is_found():
    fault = lambda output, graph: AtomOutput(torch.log(5.0 - output.energy))  # noqa: E731
    found = smoothness.short_distances(probe(Changed(fault)))
    assert not found.passed
    assert "0.300" in found.note


def mixing(output, graph):
    """Energies that depend on the other structures of the batch."""
    return AtomOutput(output.energy * (1 + 1e-6 * output.energy.sum()))


def test_batches_that_mix_are_found():
    frames = [axes_star((6, 8), SPACING), crystal((6, 8), SPACING)]
    broken = probe(Changed(mixing))
    assert not consistency.batch_equals_single(broken, frames).passed
    assert not consistency.no_gradient_across(broken, frames).passed
    assert not consistency.supercell(broken, frames[1]).passed
    assert not consistency.far_apart(broken, frames[0], frames[0]).passed


def test_forces_on_nothing_and_random_answers_are_found():
    push = lambda output, graph: AtomOutput(output.energy, torch.ones_like(graph.positions))  # noqa: E731
    model = Changed(push, outputs=frozenset({"energy", "forces"}))
    assert not consistency.isolated_atoms(probe(model, forces="direct"))[0].passed
    noisy = lambda output, graph: AtomOutput(output.energy * (1 + 1e-12 * torch.rand((), dtype=torch.float64)))  # noqa: E731
    assert not consistency.deterministic(probe(Changed(noisy)), [axes_star((6, 8), SPACING)]).passed
    extra = lambda output, graph: AtomOutput(output.energy + 1e-6 * graph.positions.square().sum(1))  # noqa: E731
    assert not consistency.no_edges(probe(Changed(extra))).passed


def test_lost_digits_are_found():
    fine = consistency.single_precision(probe(LennardJones(0.01, 2.5)), cluster((6, 8), SPACING))
    assert fine.passed and 0 < fine.value < 1e-4
    # an angle of thousands of turns: float32 does not know its fraction
    coarse = lambda output, graph: AtomOutput(output.energy * (graph.positions.detach() * 1e5).sum(1).cos())  # noqa: E731
    assert not consistency.single_precision(probe(Changed(coarse)), cluster((6, 8), SPACING)).passed


def test_not_a_number_never_passes():
    assert not Check("x", float("nan"), 1.0).passed
    assert Check("x", float("nan"), None).passed


ENERGY_ONLY = {
    "E(3) energy",
    "E(3) atom_energy",
    "energy jump at cutoff (eV)",
    "graph without edges (eV)",
    "isolated atom beyond E0 (eV)",
}


def torn(output, graph):
    """Sound energies whose derivatives are not numbers."""
    nothing = (graph.positions - graph.positions.detach()).abs().sqrt().sum(1)
    return AtomOutput(output.energy + nothing)


def test_forces_that_are_no_numbers_pass_no_check():
    checks = list(check_potential(Potential(Changed(torn), references=ELEMENTS), spacing=SPACING))
    assert {c.name for c in checks if c.passed} == ENERGY_ONLY


def test_one_element_without_a_number_is_enough():
    """Not the last of the samples: a later, sound one must not cover it."""

    @dataclass
    class Turned:
        value: torch.Tensor

        def transform(self, g):
            return Turned(g @ self.value)

    answers = iter([1.0, 1.0, float("nan"), 1.0, 1.0])
    start = Turned(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    found = equivariance.check_equivariance(lambda s: Turned(next(answers) * s.value), start, "O(3)", samples=4)
    assert np.isnan(found["value"].relative) and np.isnan(found["value"].absolute)


def test_probe_leaves_the_potential_alone():
    potential = Potential(LennardJones(0.01, 2.5), references=ELEMENTS).train()
    table = potential.reference_table.clone()
    Probe(potential)(axes_star((6, 8), SPACING))
    assert potential.training
    assert np.array_equal(potential.reference_table.numpy(), table.numpy(), equal_nan=True)

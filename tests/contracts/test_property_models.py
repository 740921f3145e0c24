"""Every readout of a property obeys what ``covarium check model`` looks for; built-in faults are found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases_torchmd_et import TINY
from contract_case import ELEMENTS, Case, build

from covarium.analysis import consistency, equivariance, smoothness
from covarium.analysis.check import PropertyProbe, axes_star, cluster, structure
from covarium.analysis.suite import check_property
from covarium.physics import LennardJones
from covarium.tasks import Property, PropertySemantics

SPACING = 1.6
# output of the model, readout, whether values are vectors
READOUTS = [
    ("equivariant_scalar", "sum"),
    ("scalar", "mean"),
    ("scalar", "mean_with_zero"),
    ("vector", "value"),
    ("equivariant_dipole", "value"),
    ("dipole", "length"),
    ("spatial_extent", "value"),
]


def task(output: str, readout: str) -> Property:
    model = build(Case(output, "torchmd_et", replace(TINY, output=output)))
    return made(model, readout)


def made(model: torch.nn.Module, readout: str) -> Property:
    atoms = readout in ("sum", "mean", "mean_with_zero")
    references = {z: -100.0 * z if atoms else 0.0 for z in ELEMENTS}
    return Property(model, semantics=PropertySemantics("x"), readout=readout, references=references, scale=3.0)


@pytest.mark.parametrize(("output", "readout"), READOUTS, ids=lambda x: x)
def test_every_readout_passes(output: str, readout: str) -> None:
    checks = list(check_property(task(output, readout), spacing=SPACING))
    assert [c for c in checks if not c.passed] == []
    names = {c.name for c in checks}
    assert {"translation", "permutation", "batch = single", "repeat", "float32 against float64"} <= names
    assert "slope jump at cutoff (scale/Å)" in names and "isolated atom (scale, scale/Å)" in names
    assert ("lattice wraps" in names) == (output not in ("dipole", "equivariant_dipole", "spatial_extent"))


@pytest.mark.parametrize(("output", "readout"), [("vector", "value"), ("dipole", "value"), ("dipole", "length")])
def test_what_vanishes_by_symmetry(output: str, readout: str) -> None:
    """Methane's dipole moment is zero: nothing is relative to it, and its length has a cusp there."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.63
    methane = structure([6, 1, 1, 1, 1], np.concatenate([np.zeros((1, 3)), corners]))
    one = task(output, readout)
    assert PropertyProbe(one)(methane).value.abs().max() < 1e-12
    checks = list(check_property(one, [methane], spacing=SPACING))
    assert [c for c in checks if not c.passed] == []
    unjudged = [c for c in checks if c.name.startswith("slope =") and c.level is None]
    assert len(unjudged) == (readout == "length")


class Broken(LennardJones):
    """Lennard-Jones with a fault of its own."""

    def __init__(self, fault) -> None:
        super().__init__(0.01, 1.5, cutoff=4.0)
        self.fault = fault

    def forward(self, graph, rng=None):
        return self.fault(super().forward(graph, rng), graph)


def up(output, graph):
    return output._replace(energy=output.energy + graph.positions[:, 1] * 1e-6)


def neighbours_in_the_batch(output, graph):
    return output._replace(energy=output.energy + 1e-6 * output.energy.mean())


def counted(output, graph):
    degree = torch.zeros_like(output.energy).index_add(
        0, graph.edge_index[1], torch.ones(graph.edge_index.shape[1]).to(output.energy)
    )
    return output._replace(energy=output.energy + 1e-6 * degree)


def first_atom(output, graph):
    return output._replace(energy=output.energy * (1 + 1e-6 * (torch.arange(graph.num_atoms) == 0)))


FRAME = cluster(ELEMENTS, SPACING)
STAR = axes_star(ELEMENTS, SPACING)
FAULTS = [
    (up, lambda p: equivariance.equivariance(p, FRAME)),
    (up, lambda p: [equivariance.translation(p, FRAME)]),
    (up, lambda p: [consistency.isolated_values(p)]),
    (neighbours_in_the_batch, lambda p: [consistency.batch_equals_single(p, [FRAME, STAR])]),
    (neighbours_in_the_batch, lambda p: [consistency.no_gradient_across(p, [FRAME, STAR])]),
    (counted, smoothness.cutoff_jump),
    (first_atom, lambda p: [equivariance.permutation(p, FRAME)]),
]


@pytest.mark.parametrize(("fault", "check"), FAULTS, ids=lambda x: getattr(x, "__name__", "check"))
def test_faults_are_found(fault, check) -> None:
    sound = PropertyProbe(made(LennardJones(0.01, 1.5, cutoff=4.0), "sum"))
    assert all(c.passed for c in check(sound))
    assert not all(c.passed for c in check(PropertyProbe(made(Broken(fault), "sum"))))


def test_the_task_is_left_as_it_is() -> None:
    one = made(LennardJones(0.01, 1.5, cutoff=4.0), "sum")
    PropertyProbe(one)
    assert (float(one.scale), one.references[8], float(one.reference_table[8])) == (3.0, -800.0, -800.0)

"""Pair potentials against answers known on paper and against ASE's Lennard-Jones."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones as AseLennardJones
from scipy.optimize import minimize_scalar

from covarium.errors import CovariumError
from covarium.physics import Harmonic, LennardJones, Morse
from covarium.simulation import Calculator
from covarium.systems import atom_graph
from covarium.tasks import Potential


def dimer_energy(model, distance):
    graph = atom_graph(np.array([18, 18]), np.array([[0.0, 0, 0], [0, 0, distance]]), model.spec)
    return float(model(graph).energy.sum())


@pytest.mark.parametrize(
    ("model", "length", "energy"),
    [
        (LennardJones(0.0104, 3.4), 2 ** (1 / 6) * 3.4, -0.0104),
        (Morse(2.5, 1.4, 1.1, cutoff=6.0), 1.1, -2.5),
        (Harmonic(20.0, 0.9, cutoff=2.0), 0.9, 0.0),
    ],
)
def test_dimer_minimum(model, length, energy):
    found = minimize_scalar(
        lambda r: dimer_energy(model, r),
        bounds=(0.8 * length, 1.3 * length),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert abs(found.x - length) < 1e-6
    assert abs(dimer_energy(model, length) - energy) < 1e-14


def test_morse_force_constant():
    model, h = Morse(2.5, 1.4, 1.1, cutoff=6.0), 1e-4
    curvature = sum(w * dimer_energy(model, 1.1 + k * h) for k, w in ((-1, 1), (0, -2), (1, 1))) / h**2
    assert abs(curvature - 2 * 2.5 * 1.4**2) < 1e-5


def test_each_atom_has_half_of_every_pair():
    model = LennardJones(0.0104, 3.4)
    graph = atom_graph(np.array([18, 18]), np.array([[0.0, 0, 0], [0, 0, 4.0]]), model.spec)
    energy = model(graph).energy
    assert energy[0] == energy[1]


def test_fcc_lattice_sum():
    """Long-range limit of the fcc sums A12 = 12.13188, A6 = 14.45392 (J. E. Jones and A. E. Ingham, 1925)."""
    sigma, epsilon = 1.0, 1.0
    length = (2 * 12.13188 / 14.45392) ** (1 / 6) * sigma  # nearest neighbours in equilibrium
    atoms = bulk("Ar", "fcc", a=length * np.sqrt(2))
    model = LennardJones(epsilon, sigma, cutoff=16.0, onset=15.9)
    graph = atom_graph(atoms.numbers, atoms.positions, model.spec, cell=atoms.cell.array, pbc=atoms.pbc)
    tail = -2 * np.pi * epsilon * np.sqrt(2) / length**3 * 4 / (3 * 15.95**3)  # ½ ρ ∫ 4πr² u dr beyond the cutoff
    exact = -epsilon * 14.45392**2 / (2 * 12.13188)
    assert abs(float(model(graph).energy.sum()) + tail - exact) < 1e-4


def test_agrees_with_ase():
    rng = np.random.default_rng(3)
    atoms = bulk("Ar", "fcc", a=5.2, cubic=True) * 2
    atoms.set_cell(atoms.cell.array + rng.normal(size=(3, 3)) * 0.1, scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    model = LennardJones(0.0104, 3.4, cutoff=7.0, onset=5.0)
    reference = atoms.copy()
    reference.calc = AseLennardJones(epsilon=0.0104, sigma=3.4, rc=7.0, ro=5.0, smooth=True)
    atoms.calc = Calculator(Potential(model, references={18: 0.0}))
    assert abs(atoms.get_potential_energy() - reference.get_potential_energy()) < 1e-12
    np.testing.assert_allclose(atoms.get_potential_energies(), reference.get_potential_energies(), atol=1e-13)
    np.testing.assert_allclose(atoms.get_forces(), reference.get_forces(), atol=1e-13)
    np.testing.assert_allclose(atoms.get_stress(), reference.get_stress(), atol=1e-14)


def test_switch_is_smooth_at_both_ends():
    model = LennardJones(1.0, 1.0, cutoff=3.0, onset=2.0)
    for radius in (2.0, 3.0):
        left, right = (dimer_energy(model, radius + s) for s in (-1e-9, 1e-9))
        assert abs(left - right) < 1e-9
    slopes = [(dimer_energy(model, r + 1e-6) - dimer_energy(model, r - 1e-6)) / 2e-6 for r in (2.0 - 1e-5, 2.0 + 1e-5)]
    assert abs(slopes[0] - slopes[1]) < 1e-4
    assert dimer_energy(model, 3.0) == 0.0


def test_isolated_atom_has_no_energy():
    model = LennardJones(1.0, 1.0)
    assert float(model(atom_graph(np.array([18]), np.zeros((1, 3)), model.spec)).energy) == 0.0


def test_second_derivatives():
    graph = atom_graph(
        np.array([18] * 3), np.array([[0.0, 0, 0], [1.2, 0, 0], [0.3, 1.1, 0.2]]), Morse(1, 1, 1, cutoff=4).spec
    )
    for model in (LennardJones(1.0, 1.0, cutoff=4.0), Morse(1.0, 1.0, 1.0, cutoff=4.0), Harmonic(1.0, 1.0, cutoff=4.0)):

        def energy(positions, model=model):
            return model(type(graph)(**{**vars(graph), "positions": positions})).energy.sum()

        assert torch.autograd.gradgradcheck(energy, graph.positions.clone().requires_grad_())


@pytest.mark.parametrize("wrong", [{"epsilon": -1.0, "sigma": 1.0}, {"epsilon": 1.0, "sigma": 1.0, "onset": 9.0}])
def test_refuses_nonsense(wrong):
    with pytest.raises(CovariumError):
        LennardJones(**wrong)


def test_atoms_of_no_kind_are_refused():
    atoms = Atoms("Kr2", [[0, 0, 0], [0, 0, 4.0]])
    atoms.calc = Calculator(Potential(LennardJones(0.0104, 3.4), references={18: 0.0}))
    with pytest.raises(CovariumError, match="36"):
        atoms.get_potential_energy()

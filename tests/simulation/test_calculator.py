"""The ASE calculator: same answers as the potential, derivatives that are derivatives, refusals."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from known_potentials import ARGON, Misbehaving, argon_calculator, argon_crystal

from covarium.errors import CovariumError
from covarium.simulation import Calculator, NotFiniteError, StressUndefinedError
from covarium.systems import atom_graph
from covarium.tasks import Potential


def strained_crystal():
    atoms = argon_crystal()
    atoms.rattle(0.1, seed=4)
    deformation = np.eye(3) + 0.03 * np.random.default_rng(5).normal(size=(3, 3))
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return atoms


def test_same_as_the_potential_to_the_bit():
    atoms = strained_crystal()
    atoms.calc = argon_calculator()
    potential = Potential(ARGON, references={18: 0.0})
    graph = atom_graph(atoms.numbers, atoms.positions, ARGON.spec, cell=atoms.cell.array, pbc=atoms.pbc)
    expected = potential.predict(graph, stress=True)
    assert atoms.get_potential_energy() == float(expected.energy)
    assert atoms.get_potential_energy(force_consistent=True) == float(expected.energy)
    np.testing.assert_array_equal(atoms.get_forces(), expected.forces.numpy())
    np.testing.assert_array_equal(atoms.get_stress(voigt=False), expected.stress[0].numpy())
    np.testing.assert_array_equal(atoms.get_potential_energies(), expected.atom_energy.numpy())


def test_forces_are_the_gradient():
    atoms = strained_crystal()
    atoms.calc = argon_calculator()
    forces, h = atoms.get_forces(), 1e-3
    for atom, axis in ((0, 0), (7, 1), (20, 2)):
        numeric = 0.0
        for k, w in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            moved = atoms.copy()
            moved.positions[atom, axis] += k * h
            moved.calc = atoms.calc
            numeric -= w * moved.get_potential_energy() / (12 * h)
        assert abs(numeric - forces[atom, axis]) < 1e-8


def test_stress_is_the_strain_derivative():
    """Finite differences of the six strains, ASE's sign and order."""
    atoms = strained_crystal()
    atoms.calc = argon_calculator()
    stress, volume, h = atoms.get_stress(), atoms.get_volume(), 1e-4
    for voigt, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        numeric = 0.0
        for k, w in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            strain = np.eye(3)
            strain[a, b] += 0.5 * k * h
            strain[b, a] += 0.5 * k * h
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            moved.calc = atoms.calc
            numeric += w * moved.get_potential_energy() / (12 * h * volume)
        assert abs(numeric - stress[voigt]) < 1e-9


def test_tension_is_positive():
    atoms = bulk("Ar", "fcc", a=5.6)
    atoms.calc = argon_calculator()
    assert atoms.get_stress()[:3].min() > 0.0


@pytest.mark.parametrize("pbc", [False, (True, True, False)])
def test_no_volume_no_stress(pbc):
    atoms = argon_crystal()
    atoms.pbc = pbc
    atoms.calc = argon_calculator()
    energy = atoms.get_potential_energy()
    with pytest.raises(StressUndefinedError, match="pbc"):
        atoms.get_stress()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    assert atoms.get_potential_energy() == energy


def test_every_change_is_seen():
    atoms = argon_crystal()
    atoms.calc = argon_calculator()
    energies = [atoms.get_potential_energy()]
    atoms.positions[3, 0] += 1e-13
    assert atoms.calc.check_state(atoms) == ["positions"]
    atoms.positions[3] += 0.1
    energies.append(atoms.get_potential_energy())
    atoms.set_cell(atoms.cell * 1.01)
    energies.append(atoms.get_potential_energy())
    atoms.pbc = (True, False, True)
    energies.append(atoms.get_potential_energy())
    del atoms[5]
    energies.append(atoms.get_potential_energy())
    assert len(set(energies)) == len(energies)


def test_unchanged_structure_costs_nothing():
    atoms = argon_crystal()
    atoms.calc = argon_calculator()
    model = atoms.calc.potential.model
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    atoms.get_forces(), atoms.get_potential_energy(), atoms.get_stress(), atoms.get_potential_energies()
    assert len(calls) == 1


def test_wrapping_changes_nothing():
    atoms = strained_crystal()
    atoms.calc = argon_calculator()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.positions[::3] += atoms.cell.array[1] - 2 * atoms.cell.array[0]
    assert abs(atoms.get_potential_energy() - energy) < 1e-11
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-12)


def test_charge_is_read_or_refused():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    atoms.calc = Calculator(Potential(Misbehaving(99, "nothing"), references={1: 0.0}))
    neutral = atoms.get_potential_energy()
    atoms.info["charge"] = 1
    assert abs(atoms.get_potential_energy() - neutral - 0.2) < 1e-14
    atoms.info["spin"] = 1
    with pytest.raises(CovariumError, match="spin"):
        atoms.get_potential_energy()
    atoms.info.update(spin="two")
    with pytest.raises(CovariumError, match="must be a number"):
        atoms.get_potential_energy()


def test_every_way_to_state_a_charge_counts():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    atoms.calc = Calculator(Potential(Misbehaving(99, "nothing"), references={1: 0.0}))
    neutral = atoms.get_potential_energy()
    atoms.info["total_charge"] = -2
    assert abs(atoms.get_potential_energy() - neutral + 0.4) < 1e-14
    del atoms.info["total_charge"]
    atoms.set_initial_charges([0.4, 0.6])
    assert abs(atoms.get_potential_energy() - neutral - 0.2) < 1e-14
    atoms.set_initial_charges([0.4, -0.4])
    assert atoms.get_potential_energy() == neutral
    atoms.info["multiplicity"] = 3
    with pytest.raises(CovariumError, match="spin"):
        atoms.get_potential_energy()


def test_failure_leaves_no_stale_answer():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    atoms.calc = Calculator(Potential(Misbehaving(1, "nan"), references={1: 0.0}))
    atoms.get_forces()
    atoms.positions[0, 0] += 0.1
    for _ in range(2):
        with pytest.raises(NotFiniteError, match="atom 0"):
            atoms.get_forces()
    assert atoms.calc.results == {}


def test_a_running_simulation_keeps_its_potential():
    potential = Potential(ARGON, references={18: 0.0})
    calculator = Calculator(potential, dtype=torch.float32)
    potential.scale.mul_(2.0)
    assert float(calculator.potential.scale) == 1.0
    atoms = argon_crystal()
    atoms.calc = calculator
    assert atoms.get_forces().dtype == np.float64
    reference = argon_crystal()
    reference.calc = argon_calculator()
    assert 0.0 < abs(atoms.get_potential_energy() - reference.get_potential_energy()) < 1e-5


def test_single_atom():
    alone = Atoms("Ar", [[0.0, 0, 0]])
    alone.calc = Calculator(Potential(ARGON, references={18: -1.5}))
    assert alone.get_potential_energy() == -1.5
    np.testing.assert_array_equal(alone.get_forces(), np.zeros((1, 3)))


def test_direct_forces_come_from_the_head():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1.0]], cell=[9, 9, 9], pbc=True)
    atoms.calc = Calculator(Potential(Misbehaving(99, "nothing"), references={1: 0.0}, forces="direct"))
    np.testing.assert_array_equal(atoms.get_forces(), np.zeros((2, 3)))
    assert "stress" not in atoms.calc.results
    assert not atoms.calc.potential.has_stress
    for error in (StressUndefinedError, PropertyNotImplementedError):
        with pytest.raises(error, match="this potential with direct forces has none"):
            atoms.get_stress()

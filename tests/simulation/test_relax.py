"""Relaxation: known minima, cells, guards."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms, FixScaled
from ase.io import read
from known_potentials import Misbehaving, argon_calculator
from scipy.optimize import minimize_scalar

from covarium.errors import CovariumError
from covarium.physics import LennardJones
from covarium.simulation import Calculator, RelaxSettings, relax
from covarium.tasks import Potential
from covarium.units import GPA


def lj_calculator():
    return Calculator(Potential(LennardJones(0.0104, 3.4, cutoff=20.0, onset=19.0), references={18: 0.0}))


@pytest.mark.parametrize("optimiser", ["lbfgs", "bfgs", "bfgs_line", "fire"])
def test_tetrahedron(optimiser, tmp_path):
    """Four Lennard-Jones atoms: every pair at its minimum, E = −6 ε."""
    atoms = Atoms("Ar4", np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 1.45)
    atoms.rattle(0.1, seed=2)
    before = atoms.positions.copy()
    settings = RelaxSettings(fmax=1e-5, steps=2000, optimiser=optimiser, interval=5)
    result = relax(atoms, lj_calculator(), settings, tmp_path)
    assert result.reason == "converged" and result.message == "" and result.fmax < 1e-5
    assert abs(result.energies[-1] + 6 * 0.0104) < 1e-8
    np.testing.assert_allclose(result.atoms.get_all_distances()[np.triu_indices(4, 1)], 2 ** (1 / 6) * 3.4, atol=1e-2)
    np.testing.assert_array_equal(atoms.positions, before)
    assert len(result.energies) == result.steps + 1
    relaxed = read(result.files["relaxed"])
    np.testing.assert_allclose(relaxed.positions, result.atoms.positions, atol=1e-7)
    assert abs(read(result.files["trajectory"], -1).get_potential_energy() - result.energies[-1]) < 1e-6


def test_cell_finds_the_lattice_constant(tmp_path):
    """A skewed, stretched fcc cell comes back to the energy and volume of the cubic minimum, without stress."""
    calculator = argon_calculator()

    def cubic_energy(length):
        cubic = bulk("Ar", "fcc", a=length)
        cubic.calc = calculator
        return cubic.get_potential_energy()

    best = minimize_scalar(cubic_energy, bounds=(5.1, 5.6), method="bounded", options={"xatol": 1e-9}).x
    atoms = bulk("Ar", "fcc", a=5.4)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0.02, 0.01, 0], [0.01, -0.01, 0], [0, 0, 0.0]])), True)
    result = relax(atoms, calculator, RelaxSettings(fmax=1e-6, cell=True, optimiser="bfgs"), tmp_path)
    assert result.reason == "converged"
    assert abs(result.atoms.get_volume() - best**3 / 4) < 1e-3
    assert np.abs(result.atoms.get_stress()).max() < 1e-7


def test_cell_under_pressure(tmp_path):
    settings = RelaxSettings(fmax=1e-6, cell=True, pressure=1.0, optimiser="bfgs")
    result = relax(bulk("Ar", "fcc", a=5.26), argon_calculator(), settings, tmp_path)
    assert result.reason == "converged"
    np.testing.assert_allclose(-result.atoms.get_stress()[:3] / GPA, 1.0, atol=1e-4)


def test_steps_exhausted(tmp_path):
    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 4.4]])
    result = relax(atoms, lj_calculator(), RelaxSettings(fmax=1e-8, steps=3), tmp_path)
    assert (result.reason, result.steps) == ("steps_exhausted", 3)
    assert "largest force" in result.message and "relaxed" in result.files


def test_already_converged(tmp_path):
    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 2 ** (1 / 6) * 3.4]])
    result = relax(atoms, lj_calculator(), RelaxSettings(), tmp_path)
    assert (result.reason, result.steps, len(result.energies)) == ("converged", 0, 1)
    assert len(read(result.files["trajectory"], ":")) == 1


def test_fixed_atoms_stay(tmp_path):
    atoms = Atoms("Ar3", [[0, 0, 0], [0, 0, 4.4], [0, 4.0, 0]])
    atoms.set_constraint(FixAtoms([0, 1]))
    result = relax(atoms, lj_calculator(), RelaxSettings(fmax=1e-4), tmp_path)
    assert result.reason == "converged"
    np.testing.assert_array_equal(result.atoms.positions[:2], atoms.positions[:2])
    assert np.linalg.norm(result.atoms.positions[2] - atoms.positions[2]) > 0.05


@pytest.mark.parametrize(
    ("deed", "reason"), [("nan", "not_finite"), ("memory", "out_of_memory"), ("collapse", "overlap")]
)
def test_guards_name_their_reason(deed, reason, tmp_path):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.65 if deed == "collapse" else 0.9]])
    calculator = Calculator(Potential(Misbehaving(2, deed), references={1: 0.0}))
    result = relax(atoms, calculator, RelaxSettings(fmax=1e-6, optimiser="fire"), tmp_path)
    assert result.reason == reason and result.message
    assert set(result.files) == {"trajectory", "stopped"}
    for frame in read(result.files["trajectory"], ":"):
        assert np.isfinite(frame.get_potential_energy())


def test_constraints_and_info_are_kept(tmp_path):
    """An atom that may move along z only does so."""
    atoms = bulk("Ar", "fcc", a=5.26, cubic=True)
    atoms.positions[0] += [0.2, 0.1, 0.3]
    atoms.set_constraint(FixScaled(0, (True, True, False)))
    atoms.info = {"name": "argon", "energy": 3.0}
    result = relax(atoms, argon_calculator(), RelaxSettings(fmax=1e-3), tmp_path)
    np.testing.assert_allclose(result.atoms.positions[0, :2], atoms.positions[0, :2], atol=1e-12)
    assert abs(result.atoms.positions[0, 2] - 0.3) > 0.1
    relaxed = read(result.files["relaxed"])
    assert relaxed.info["name"] == "argon"
    assert relaxed.get_potential_energy() == pytest.approx(result.energies[-1], abs=1e-7)


def test_crystal_that_explodes(tmp_path):
    """Under tension beyond the cohesion there is no minimum; the relaxation says so instead of going on."""
    settings = RelaxSettings(cell=True, pressure=-2.0, optimiser="fire", steps=5000)
    result = relax(bulk("Ar", "fcc", a=5.4), argon_calculator(), settings, tmp_path)
    assert result.reason == "volume"


def test_direct_forces_warn(tmp_path):
    calculator = Calculator(Potential(Misbehaving(99, "nothing"), references={1: 0.0}, forces="direct"))
    with pytest.warns(UserWarning, match="direct forces"):
        result = relax(Atoms("H2", [[0, 0, 0], [0, 0, 0.9]]), calculator, RelaxSettings(steps=2), tmp_path)
    assert len(result.warnings) == 1


def test_a_potential_without_stress_relaxes_no_cell(tmp_path):
    calculator = Calculator(Potential(Misbehaving(99, "nothing"), references={1: 0.0}, forces="direct"))
    crystal = Atoms("H2", [[0, 0, 0], [0, 0, 0.9]], cell=[9, 9, 9], pbc=True)
    with pytest.raises(CovariumError, match="relaxing the cell needs a stress"):
        relax(crystal, calculator, RelaxSettings(cell=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refusals(tmp_path):
    slab = bulk("Ar", "fcc", a=5.4)
    slab.pbc = (True, True, False)
    with pytest.raises(CovariumError, match="three periodic directions"):
        relax(slab, argon_calculator(), RelaxSettings(cell=True), tmp_path / "a")
    with pytest.raises(CovariumError, match="did you mean 'lbfgs'"):
        RelaxSettings(optimiser="l-bfgs")
    with pytest.raises(CovariumError, match="cell=True"):
        RelaxSettings(pressure=1.0)
    relax(bulk("Ar", "fcc", a=5.26), argon_calculator(), RelaxSettings(), tmp_path / "b")
    with pytest.raises(CovariumError, match="exists already; give another folder$"):
        relax(bulk("Ar", "fcc", a=5.26), argon_calculator(), RelaxSettings(), tmp_path / "b")
    assert not (tmp_path / "a").exists()

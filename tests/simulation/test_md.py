"""Molecular dynamics: known physics, exact resume, files that survive a kill, and guards that name their reason."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read
from known_potentials import ARGON, SPRING, Misbehaving, argon_calculator, argon_crystal

from covarium.errors import CovariumError
from covarium.simulation import Calculator, MDSettings, energy_drift, md, resume_md, start_velocities, timestep_law
from covarium.simulation.md import read_log
from covarium.simulation.velocities import temperature_of
from covarium.tasks import Potential
from covarium.units import FS, GPA


def hydrogen(stretch=0.05):
    return Atoms("H2", [[0, 0, 0], [0, 0, 0.75 + stretch]])


def spring_calculator(after=10**9, deed="nothing", **options):
    return Calculator(Potential(Misbehaving(after, deed), references={1: 0.0}, **options))


def test_period_of_the_harmonic_dimer(tmp_path):
    """ω = √(k/μ); Verlet oscillates with sin(ω′dt/2) = ωdt/2 exactly, so p(t+dt) + p(t−dt) = 2 cos(ω′dt) p(t)."""
    atoms = hydrogen()
    settings = MDSettings(steps=200, timestep=0.5, temperature=None, interval=1)
    result = md(atoms, Calculator(Potential(SPRING, references={1: 0.0})), settings, tmp_path)
    momenta = np.array([f.get_momenta()[1, 2] for f in read(result.files["trajectory"], ":")])
    cosine = (momenta[2:] + momenta[:-2]) @ momenta[1:-1] / (2 * momenta[1:-1] @ momenta[1:-1])
    frequency = 2 / 0.5 * np.sin(np.arccos(cosine) / 2)
    exact = np.sqrt(30.0 / (0.5 * atoms.get_masses()[0])) * FS
    assert abs(frequency / exact - 1) < 1e-6
    assert np.ptp(momenta) > 0.1


def test_nve_conserves_energy_and_momentum(tmp_path):
    atoms = argon_crystal()
    settings = MDSettings(steps=600, timestep=4.0, temperature=40.0, interval=5)
    result = md(atoms, argon_calculator(), settings, tmp_path)
    assert result.reason == "finished" and result.steps == 600 and result.warnings == ()
    log = read_log(result.files["log"])
    assert abs(result.drift) < 0.05
    assert np.ptp(log["total_ev"]) / len(atoms) < 2e-5
    assert abs(log["temperature_k"][0] - 40.0) < 1e-9
    final = read(result.files["trajectory"], -1)
    assert np.abs(final.get_momenta().sum(0)).max() < 1e-6
    assert final.info["step"] == 600 and final.info["time_fs"] == 2400.0
    assert abs(final.get_potential_energy() - log["potential_ev"][-1]) < 1e-6
    assert {"pressure_gpa", "volume_a3"} <= log.keys()


def test_energy_error_falls_as_the_square_of_the_time_step():
    ratio = timestep_law(argon_crystal(), argon_calculator(), timestep=10.0, steps=150)
    assert 3.5 < ratio < 4.5


def test_a_force_that_is_no_gradient_breaks_the_law():
    atoms = hydrogen()
    atoms.set_momenta([[0, 0, 0.3], [0, 0, -0.3]])
    direct = spring_calculator(forces="direct")
    assert not 3.5 < timestep_law(atoms, direct, timestep=0.5, steps=40) < 4.5


def test_drift_of_a_straight_line():
    times = np.linspace(0.0, 1000.0, 11)
    assert abs(energy_drift(times, -1e4 + 0.003 * times / 1000.0, 3) - 1.0) < 1e-6
    with pytest.raises(CovariumError, match="two times"):
        energy_drift(np.array([1.0]), np.array([1.0]), 3)


def test_langevin_temperature(tmp_path):
    """Mean over 32 atoms and many correlation times; the standard error is about 2 %."""
    settings = MDSettings(1300, ensemble="langevin", timestep=10.0, temperature=50.0, relaxation=100.0, interval=10)
    result = md(argon_crystal(), argon_calculator(), settings, tmp_path)
    temperatures = read_log(result.files["log"])["temperature_k"][30:]
    assert abs(temperatures.mean() / 50.0 - 1) < 0.08
    assert abs(temperatures.std() / (50.0 * np.sqrt(2 / 96)) - 1) < 0.35  # canonical, not pinned
    assert result.drift is None


def test_langevin_harmonic_equipartition(tmp_path):
    """BAOAB samples a harmonic stretch with its exact width, kT/k, at any stable time step."""
    atoms = Atoms("H128", [[6.0 * (i // 2), 0, 0.75 * (i % 2)] for i in range(128)])
    settings = MDSettings(900, ensemble="langevin", timestep=1.0, temperature=300.0, relaxation=20.0, interval=10)
    result = md(atoms, spring_calculator(), settings, tmp_path)
    frames = read(result.files["trajectory"], "10:")
    stretches = [np.linalg.norm(f.positions[1::2] - f.positions[::2], axis=1) - 0.75 for f in frames]
    assert abs(np.var(stretches) / (8.617333e-5 * 300.0 / 30.0) - 1) < 0.12


def test_npt_reaches_its_pressure(tmp_path):
    settings = MDSettings(
        steps=1000, ensemble="npt", timestep=10.0, temperature=40.0, relaxation=100.0, pressure=0.1,
        pressure_relaxation=500.0, interval=5,
    )  # fmt: skip
    result = md(argon_crystal(), argon_calculator(), settings, tmp_path)
    assert result.reason == "finished"
    log = read_log(result.files["log"])
    settled = slice(80, None)
    assert abs(log["pressure_gpa"][settled].mean() - 0.1) < 0.03
    assert abs(log["temperature_k"][settled].mean() / 40.0 - 1) < 0.08
    assert np.ptp(log["volume_a3"]) > 10.0
    cell = read(result.files["trajectory"], -1).cell.array
    np.testing.assert_allclose(cell, cell[0, 0] * np.eye(3), atol=1e-6)


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "npt"])
def test_resume_is_exact(ensemble, tmp_path):
    """The resumed run writes the same bytes as the uninterrupted one."""
    whole = MDSettings(steps=60, ensemble=ensemble, timestep=5.0, temperature=30.0, interval=10, seed=3)
    full = md(argon_crystal(), argon_calculator(), whole, tmp_path / "full")
    md(argon_crystal(), argon_calculator(), MDSettings(**{**vars(whole), "steps": 30}), tmp_path / "cut")
    result = resume_md(tmp_path / "cut", argon_calculator(skin=0.3), steps=60)
    assert result.steps == 60 and result.drift == full.drift
    for name in ("trajectory", "log"):
        assert result.files[name].read_bytes() == full.files[name].read_bytes()
    with np.load(full.files["state"]) as a, np.load(result.files["state"]) as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])


def test_torn_files_are_cut_on_resume(tmp_path):
    whole = MDSettings(steps=40, ensemble="langevin", timestep=5.0, temperature=30.0, interval=10)
    full = md(argon_crystal(), argon_calculator(), whole, tmp_path / "full")
    md(argon_crystal(), argon_calculator(), MDSettings(**{**vars(whole), "steps": 20}), tmp_path / "cut")
    with open(tmp_path / "cut" / "trajectory.extxyz", "a") as file:
        file.write('32\nLattice="10.52 0.0 0.0 0.0 10')
    with open(tmp_path / "cut" / "md.csv", "a") as file:
        file.write("30,150.0,-2.")
    (tmp_path / "cut" / "state.npz.part").write_bytes(b"half a state")
    result = resume_md(tmp_path / "cut", argon_calculator(), steps=40)
    for name in ("trajectory", "log"):
        assert result.files[name].read_bytes() == full.files[name].read_bytes()


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from known_potentials import argon_calculator, argon_crystal
from covarium.simulation import MDSettings, md
settings = MDSettings(steps=4000, ensemble="langevin", timestep=5.0, temperature=30.0, interval=1)
md(argon_crystal(), argon_calculator(), settings, Path({out!r}), progress=lambda step, *_: print(step, flush=True))
"""


def test_killed_run_goes_on(tmp_path):
    """kill −9 in the middle: the files load, and the run goes on as if nothing had happened."""
    script = KILLED.format(root=str(Path(__file__).parent), out=str(tmp_path / "cut"))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) >= 25:
            break
    time.sleep(0.013)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    steps = len(read_log(tmp_path / "cut" / "md.csv")["step"]) + 5
    result = resume_md(tmp_path / "cut", argon_calculator(), steps=steps)
    settings = MDSettings(steps=steps, ensemble="langevin", timestep=5.0, temperature=30.0, interval=1)
    full = md(argon_crystal(), argon_calculator(), settings, tmp_path / "full")
    assert result.files["trajectory"].read_bytes() == full.files["trajectory"].read_bytes()
    assert len(read(result.files["trajectory"], ":")) == steps + 1


def test_resume_refuses_another_potential(tmp_path):
    md(argon_crystal(), argon_calculator(), MDSettings(steps=10, timestep=5.0, temperature=30.0), tmp_path)
    other = Calculator(Potential(ARGON, references={18: 0.0}, scale=1.1))
    with pytest.raises(CovariumError, match="another potential"):
        resume_md(tmp_path, other, steps=20)
    with pytest.raises(CovariumError, match="no run to resume"):
        resume_md(tmp_path / "nothing", other)
    (tmp_path / "state.npz").write_bytes(b"PK\x03\x04 not a state")
    with pytest.raises(CovariumError, match="not the state"):
        resume_md(tmp_path, other)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    settings = MDSettings(steps=2, temperature=30.0)
    md(argon_crystal(), argon_calculator(), settings, tmp_path)
    before = (tmp_path / "md.csv").read_bytes()
    with pytest.raises(CovariumError, match="exists already"):
        md(argon_crystal(), argon_calculator(), settings, tmp_path)
    assert (tmp_path / "md.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("deed", "reason"),
    [("nan", "not_finite"), ("memory", "out_of_memory"), ("kick", "temperature"), ("collapse", "overlap")],
)
def test_guards_name_their_reason(deed, reason, tmp_path):
    settings = MDSettings(steps=400, timestep=0.2, temperature=1000.0, interval=1)
    result = md(hydrogen(0.0), spring_calculator(20, deed), settings, tmp_path)
    assert result.reason == reason and result.message
    assert 19 <= result.steps < 400
    frames = read(result.files["trajectory"], ":")
    assert len(frames) == read_log(result.files["log"])["step"][-1] + 1
    assert np.isfinite(np.array([f.get_potential_energy() for f in frames])).all()
    assert read(result.files["stopped"]).info["step"] == result.steps
    assert np.isfinite(read(result.files["stopped"]).get_momenta()).all()


def test_guard_at_the_very_start(tmp_path):
    result = md(hydrogen(-0.5), spring_calculator(), MDSettings(steps=5), tmp_path)
    assert (result.reason, result.steps) == ("overlap", 0)
    assert set(result.files) == {"stopped"} and result.temperature is None
    assert "0.250 Å apart" in result.message


def test_bug_in_a_model_is_not_swallowed(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"):
        md(hydrogen(), spring_calculator(3, "bug"), MDSettings(steps=9), tmp_path)


def test_direct_forces_warn(tmp_path):
    with pytest.warns(UserWarning, match="direct forces"):
        result = md(hydrogen(), spring_calculator(forces="direct"), MDSettings(steps=3), tmp_path)
    assert "not conserved" in result.warnings[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"ensemble": "nvt"}, "allowed: nve, langevin, npt"),
        ({"timestep": 0.0}, "timestep"),
        ({"steps": -1}, "steps"),
        ({"ensemble": "npt", "temperature": None}, "needs a temperature"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_settings_are_checked(change, match):
    with pytest.raises(CovariumError, match=match):
        MDSettings(**{"steps": 1, **change})


def test_what_cannot_run_is_refused_and_leaves_nothing(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(CovariumError, match="three periodic directions"):
        md(hydrogen(), spring_calculator(), MDSettings(steps=1, ensemble="npt"), out)
    periodic = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], cell=[9, 9, 9], pbc=True)
    with pytest.raises(CovariumError, match="npt needs a stress"):
        md(periodic, spring_calculator(forces="direct"), MDSettings(steps=1, ensemble="npt"), out)
    fixed = argon_crystal()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(CovariumError, match="cannot keep atoms fixed"):
        md(fixed, argon_calculator(), MDSettings(steps=1, ensemble="npt"), out)
    bonded = hydrogen()
    bonded.set_constraint(FixBondLength(0, 1))
    with pytest.raises(CovariumError, match="FixBondLength"):
        md(bonded, spring_calculator(), MDSettings(steps=1), out)
    with pytest.raises(CovariumError, match="18"):
        md(Atoms("Ar2", [[0, 0, 0], [0, 0, 3.0]]), spring_calculator(), MDSettings(steps=1), out)
    with pytest.raises(CovariumError, match="at least one atom"):
        md(Atoms(), spring_calculator(), MDSettings(steps=1), out)
    assert not out.exists()


@pytest.mark.parametrize("ensemble", ["nve", "langevin"])
def test_fixed_atoms_stay(ensemble, tmp_path):
    atoms = argon_crystal()
    atoms.set_constraint(FixAtoms([0, 5]))
    settings = MDSettings(steps=30, ensemble=ensemble, timestep=5.0, temperature=30.0, interval=10)
    result = md(atoms, argon_calculator(), settings, tmp_path)
    resumed = resume_md(tmp_path, argon_calculator(), steps=50)
    assert (result.steps, resumed.steps) == (30, 50)
    frames = read(resumed.files["trajectory"], ":")
    for frame in frames:
        np.testing.assert_allclose(frame.positions[[0, 5]], atoms.positions[[0, 5]], atol=1e-8)
    assert np.abs(frames[-1].positions[1] - atoms.positions[1]).max() > 1e-4


@pytest.mark.parametrize(("name", "freedom"), [("CH3CH2OH", 21), ("CO2", 4), ("O", 0)])
def test_start_velocities(name, freedom):
    """Exact temperature, no momentum, no angular momentum: bent, linear and single."""
    atoms = molecule(name) if name != "O" else Atoms("O", [[1.0, 2.0, 3.0]])
    atoms.rotate(33.0, (1.0, 2.0, 0.5))
    atoms.translate([5.0, -3.0, 1.0])
    start_velocities(atoms, 300.0, np.random.default_rng(1))
    assert abs(temperature_of(atoms.get_kinetic_energy(), freedom) - (300.0 if freedom else 0.0)) < 1e-9
    assert np.abs(atoms.get_momenta().sum(0)).max() < 1e-12
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-10


@pytest.mark.parametrize("ensemble", ["nve", "langevin"])
def test_the_first_row_has_the_temperature_asked_for(ensemble, tmp_path):
    """Whatever the ensemble conserves: six motions of nine atoms in nve, none under a thermostat."""
    atoms = Atoms("H9", np.random.default_rng(0).permutation(27)[:9, None] // [9, 3, 1] % 3 * 2.0)
    settings = MDSettings(steps=0, ensemble=ensemble, temperature=300.0)
    result = md(atoms, spring_calculator(), settings, tmp_path)
    first = read(result.files["trajectory"], 0)
    motions = 27 - (6 if ensemble == "nve" else 0)
    assert abs(read_log(result.files["log"])["temperature_k"][0] - 300.0) < 1e-9
    assert abs(2 * first.get_kinetic_energy() / (motions * 8.617333262e-5) - 300.0) < 1e-4
    assert (np.abs(first.get_momenta().sum(0)).max() < 1e-6) == (ensemble == "nve")


def test_velocities_are_maxwell_boltzmann():
    """Kinetic energies of light and heavy atoms agree, and the components are normal."""
    atoms = Atoms("H2000Ar2000", np.random.default_rng(0).uniform(0, 99, (4000, 3)), cell=[99] * 3, pbc=True)
    start_velocities(atoms, 500.0, np.random.default_rng(1))
    scaled = atoms.get_momenta() / np.sqrt(atoms.get_masses()[:, None] * 8.617333e-5 * 500.0)
    assert abs(scaled[:2000].var() - 1) < 0.06 and abs(scaled[2000:].var() - 1) < 0.06
    assert abs((scaled**4).mean() - 3) < 0.2


def test_pressure_of_the_ideal_gas(tmp_path):
    """Far apart, P = NkT/V: the kinetic part alone."""
    atoms = Atoms("Ar27", np.indices((3, 3, 3)).reshape(3, -1).T * 20.0, cell=[60.0] * 3, pbc=True)
    result = md(atoms, argon_calculator(), MDSettings(steps=0, temperature=300.0), tmp_path)
    log = read_log(result.files["log"])
    kinetic_temperature = 300.0 * 78 / 81  # without the three motions of the whole
    assert abs(log["pressure_gpa"][0] - 27 * 8.617333e-5 * kinetic_temperature / 60.0**3 / GPA) < 1e-9


def test_what_the_structure_brings_is_kept(tmp_path):
    """Masses, text and arrays, also over a resume; labels do not survive a move."""
    atoms = hydrogen()
    atoms.set_masses([1.008, 2.014])
    atoms.set_tags([3, 4])
    atoms.info = {"name": "HD", "id": np.int64(7), "REF_energy": -1.0}
    atoms.set_array("REF_forces", np.ones((2, 3)))
    md(atoms, spring_calculator(), MDSettings(steps=2, interval=1), tmp_path)
    result = resume_md(tmp_path, spring_calculator(), steps=4)
    frames = read(result.files["trajectory"], ":")
    assert len(frames) == 5
    for frame in frames:
        assert frame.get_masses().tolist() == [1.008, 2.014] and frame.get_tags().tolist() == [3, 4]
        assert (frame.info["name"], frame.info["id"]) == ("HD", 7)
        assert "REF_energy" not in frame.info and "REF_forces" not in frame.arrays

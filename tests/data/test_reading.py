"""Labels found, converted, or refused with the reason and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixBondLengths
from spring_waters import WATER, springs, waters

from covarium.data import read, read_structures
from covarium.errors import CovariumError
from covarium.units import BOHR, HARTREE, KCAL_PER_MOL


def written(path: Path, images: list[Atoms]) -> Path:
    ase.io.write(path / "a.extxyz", images)
    return path / "a.extxyz"


def bare(images: list[Atoms], energy: str, forces: str, factor: tuple[float, float] = (1.0, 1.0)) -> list[Atoms]:
    """The same structures with their labels under other keys, multiplied by factors."""
    result = []
    for atoms in images:
        copy = Atoms(atoms.numbers, positions=atoms.positions, info={energy: springs(atoms.positions)[0] * factor[0]})
        copy.new_array(forces, springs(atoms.positions)[1] * factor[1])
        result.append(copy)
    return result


@pytest.mark.parametrize(
    ("energy", "forces"),
    [("energy", "forces"), ("REF_energy", "REF_forces"), ("dft_energy", "dft_forces"), ("free_energy", "force"),
     ("Energy", "forces"), ("E", "F"), ("TotEnergy", "force")],
)  # fmt: skip
def test_usual_names(tmp_path: Path, energy: str, forces: str) -> None:
    reading = read([written(tmp_path, bare(waters(4), energy, forces))])
    assert reading.keys == {"energy": energy, "forces": forces}
    assert f"labels: energy from '{energy}', forces from '{forces}'" in reading.notes
    assert reading.frames[2].labels["energy"] == pytest.approx(springs(waters(4)[2].positions)[0], abs=1e-7)


def test_unknown_names_are_refused_with_the_keys(tmp_path: Path) -> None:
    path = written(tmp_path, bare(waters(3), "my_energy", "forces"))
    with pytest.raises(CovariumError, match="no energy.*'forces', 'my_energy'.*data.keys.energy=KEY"):
        read([path])
    with pytest.raises(CovariumError, match="no key 'my_enrgy'.*did you mean 'my_energy'"):
        read([path], keys={"energy": "my_enrgy"})
    with pytest.raises(CovariumError, match="data.keys.enrgy is unknown; did you mean 'energy'"):
        read([path], keys={"enrgy": "my_energy"})
    assert read([path], keys={"energy": "my_energy"}).keys["energy"] == "my_energy"


def test_two_different_energies_are_refused(tmp_path: Path) -> None:
    images = waters(3)
    for atoms in images:
        atoms.info["REF_energy"] = atoms.calc.results["energy"] - 1.0
    path = written(tmp_path, images)
    with pytest.raises(CovariumError, match="energy, REF_energy.*differ by up to 1.*data.keys.energy=REF_energy"):
        read([path])
    chosen = read([path], keys={"energy": "REF_energy"}).frames[0]
    assert chosen.labels["energy"] == pytest.approx(springs(images[0].positions)[0] - 1.0, abs=1e-7)


def test_two_equal_energies_are_noted(tmp_path: Path) -> None:
    images = waters(3)
    for atoms in images:
        atoms.info["REF_energy"] = atoms.calc.results["energy"]
    reading = read([written(tmp_path, images)])
    assert reading.keys["energy"] == "energy"
    assert any("energy and REF_energy with the same values" in note for note in reading.notes)


def test_free_energy_beside_energy_is_noted(tmp_path: Path) -> None:
    images = waters(3)
    for atoms in images:
        results = atoms.calc.results
        atoms.calc = SinglePointCalculator(atoms, **results, free_energy=results["energy"] - 0.01)
    reading = read([written(tmp_path, images)])
    assert reading.keys["energy"] == "energy"
    assert any("'free_energy'" in note and "0.01" in note for note in reading.notes)


def broken(change: Callable[[Atoms], None]) -> list[Atoms]:
    images = bare(waters(5), "energy", "forces")
    change(images[3])
    return images


def drop_energy(atoms: Atoms) -> None:
    del atoms.info["energy"]


def drop_forces(atoms: Atoms) -> None:
    del atoms.arrays["forces"]


def nan_energy(atoms: Atoms) -> None:
    atoms.info["energy"] = np.nan


def inf_force(atoms: Atoms) -> None:
    atoms.arrays["forces"][1, 2] = np.inf


def nan_position(atoms: Atoms) -> None:
    atoms.positions[0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_energy, r"frame 3 is the first of 1 frames of 5 without energy"),
        (drop_forces, r"frame 3 is the first of 1 frames of 5 without forces"),
        (nan_energy, r"frame 3: energy is nan eV"),
        (inf_force, r"frame 3: forces\[1, 2\] is inf eV/Å"),
        (nan_position, r"frame 3: positions\[0, 0\] is nan Å"),
    ],
)
def test_broken_frames_are_named(tmp_path: Path, change: Callable[[Atoms], None], message: str) -> None:
    with pytest.raises(CovariumError, match=r"a\.extxyz, " + message):
        read([written(tmp_path, broken(change))])


def test_zeroed_forces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CovariumError, match="forces 'forces' is exactly zero in all frames"):
        read([written(tmp_path, bare(waters(3), "energy", "forces", (1.0, 0.0)))])


def test_partial_labels_that_are_not_needed_are_left_out(tmp_path: Path) -> None:
    reading = read([written(tmp_path, broken(drop_forces))], need=["energy"])
    assert set(reading.frames[0].labels) == {"energy"}
    assert "forces" not in reading.keys
    assert reading.left_out[0].startswith("forces is left out")


def test_single_atoms_need_no_forces(tmp_path: Path) -> None:
    atom = Atoms("H", info={"energy": -3.0, "config_type": "IsolatedAtom"})
    reading = read([written(tmp_path, [*bare(waters(2), "energy", "forces"), atom])])
    assert reading.frames[2].isolated and not reading.frames[1].isolated
    np.testing.assert_array_equal(reading.frames[2].labels["forces"], np.zeros((1, 3)))
    assert any("1 single-atom frames have no forces" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("energy", "length"), [("kcal/mol", "Å"), ("Hartree", "Bohr"), ("kJ/mol", "nm"), ("Ha", "angstrom")]
)
def test_given_units(tmp_path: Path, energy: str, length: str) -> None:
    eV = {"kcal/mol": KCAL_PER_MOL, "Hartree": HARTREE, "kJ/mol": KCAL_PER_MOL / 4.184, "Ha": HARTREE}[energy]
    aa = {"Å": 1.0, "Bohr": BOHR, "nm": 10.0, "angstrom": 1.0}[length]
    images = bare(waters(4), "energy", "forces", (1 / eV, aa / eV))
    for atoms in images:
        atoms.positions /= aa
    frame = read([written(tmp_path, images)], units={"energy": energy, "length": length}).frames[1]
    true_energy, true_forces = springs(waters(4)[1].positions)
    np.testing.assert_allclose(frame.positions, waters(4)[1].positions, atol=2e-7)
    assert frame.labels["energy"] == pytest.approx(true_energy, rel=1e-7)
    np.testing.assert_allclose(frame.labels["forces"], true_forces, atol=2e-6)


def test_stated_units_are_used(tmp_path: Path) -> None:
    images = bare(waters(4), "energy", "forces", (1 / KCAL_PER_MOL, 1 / KCAL_PER_MOL))
    for atoms in images:
        atoms.info["units"] = "kcal/mol, kcal/mol/Angstrom"
    reading = read([written(tmp_path, images)])
    assert reading.units["energy"] == "kcal/mol"
    assert reading.frames[0].labels["energy"] == pytest.approx(springs(images[0].positions)[0], rel=1e-7)


def test_unknown_units_are_refused(tmp_path: Path) -> None:
    images = bare(waters(2), "energy", "forces")
    with pytest.raises(CovariumError, match="unit of energy 'kcal/mole' is unknown; did you mean 'kcal/mol'"):
        read([written(tmp_path, images)], units={"energy": "kcal/mole"})
    images[0].info["units"] = "furlongs"
    with pytest.raises(CovariumError, match="states its units as 'furlongs'"):
        read([written(tmp_path, images)])


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        ((1 / KCAL_PER_MOL, 1.0), "units of energy, length and forces do not belong together"),
        ((1.0, 1 / BOHR), "units of energy, length and forces do not belong together"),
        ((1.0, -1.0), "forces look like gradients, of the wrong sign"),
    ],
)
def test_contradictions_of_energies_and_forces(tmp_path: Path, factor: tuple[float, float], message: str) -> None:
    path = written(tmp_path, bare(waters(30, spread=0.02), "energy", "forces", factor))
    with pytest.raises(CovariumError, match=message):
        read([path])
    notes = read([path], units={"energy": "eV"}).notes
    assert any(note.startswith("doubtful") and message in note for note in notes)


@pytest.mark.parametrize(("unit", "size"), [("Hartree", HARTREE), ("kcal/mol", KCAL_PER_MOL)])
def test_all_electron_energies_tell_their_unit(tmp_path: Path, unit: str, size: float) -> None:
    def shifted(scale: float) -> Path:
        images = bare(waters(4), "energy", "forces", (1 / scale, 1 / scale))
        for atoms in images:
            atoms.info["energy"] += (-76.42 * HARTREE + 14.2) / scale  # B3LYP water
        return written(tmp_path, images)

    with pytest.raises(CovariumError, match=f"they look like {unit}"):
        read([shifted(size)])
    assert read([shifted(size)], units={"energy": unit}).notes[-1].startswith("energies agree")
    assert read([shifted(1.0)]).notes[-1].startswith("energies agree")


def test_positions_in_bohr_are_refused(tmp_path: Path) -> None:
    images = bare(waters(4), "energy", "forces")
    for atoms in images:
        atoms.positions /= BOHR
    with pytest.raises(CovariumError, match="positions look like Bohr"):
        read([written(tmp_path, images)])


def boxed(stress: np.ndarray, key: str) -> list[Atoms]:
    images = bare(waters(2), "energy", "forces")
    for atoms in images:
        atoms.set_cell([4.0, 5.0, 6.0])
        atoms.set_pbc(True)
        atoms.info[key] = stress
    return images


@pytest.mark.parametrize("key", ["stress", "REF_stress", "virial", "virials"])
def test_stress_and_virial(tmp_path: Path, key: str) -> None:
    stress = np.array([[0.01, 0.002, 0.003], [0.002, -0.02, 0.004], [0.003, 0.004, 0.03]])
    value = -stress * 120.0 if key.startswith("virial") else stress
    reading = read([written(tmp_path, boxed(value, key))])
    np.testing.assert_allclose(reading.frames[0].labels["stress"], stress, atol=1e-9)
    assert ("stress = −'" + key + "' / volume" in reading.notes) == key.startswith("virial")


def test_stress_units_and_voigt_order(tmp_path: Path) -> None:
    reading = read([written(tmp_path, boxed(np.arange(1.0, 7.0), "REF_stress"))], units={"stress": "GPa"})
    expected = np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]]) / 160.21766208
    np.testing.assert_allclose(reading.frames[0].labels["stress"], expected, rtol=1e-12)


def test_stress_without_a_volume(tmp_path: Path) -> None:
    images = boxed(np.eye(3), "stress")
    images[1].set_pbc([True, True, False])
    path = written(tmp_path, images)
    assert "stress" not in read([path]).frames[0].labels
    with pytest.raises(CovariumError, match="frame 1 is the first of 1 frames of 2 without stress .* with a volume"):
        read([path], need=["energy", "stress"])


def test_charge_spin_and_multiplicity(tmp_path: Path) -> None:
    images = bare(waters(2), "energy", "forces")
    for atoms in images:
        atoms.info |= {"charge": 1, "multiplicity": 2}
    frame = read([written(tmp_path, images)]).frames[1]
    assert (frame.charge, frame.spin) == (1.0, 1.0)


def test_multiplicity_under_the_name_of_spin_is_refused(tmp_path: Path) -> None:
    images = bare(waters(2), "energy", "forces")
    for atoms in images:
        atoms.info["spin"] = 1
    path = written(tmp_path, images)
    with pytest.raises(CovariumError, match="data.keys.multiplicity=spin"):
        read([path])
    assert read([path], keys={"multiplicity": "spin"}).frames[0].spin == 0.0


def test_charge_on_some_frames_is_refused(tmp_path: Path) -> None:
    images = bare(waters(3), "energy", "forces")
    images[0].info["charge"] = 1
    with pytest.raises(CovariumError, match="2 of 3 frames lack charge 'charge', the first is .*frame 1"):
        read([written(tmp_path, images)])


def test_theory_groups_and_config_types(tmp_path: Path) -> None:
    images = bare(waters(4), "energy", "forces")
    for k, atoms in enumerate(images):
        atoms.info |= {"functional": "PBE0", "mol": k // 2, "config_type": "liquid", "sid": k}
    reading = read([written(tmp_path, images)])
    assert reading.theory == "functional PBE0"
    assert [frame.group for frame in reading.frames] == ["0", "0", "1", "1"]
    assert reading.frames[0].config_type == "liquid"
    assert reading.keys["group"] == "mol"


def test_what_was_inferred_reproduces_the_reading(tmp_path: Path) -> None:
    images = bare(waters(4), "REF_energy", "F")
    for k, atoms in enumerate(images):
        atoms.info |= {"mol": k // 2, "virials": np.eye(3)}
        atoms.set_cell(np.eye(3) * 5)
        atoms.set_pbc(True)
    path = written(tmp_path, images)
    first = read([path])
    again = read([path], keys=first.keys, units=first.units)
    assert (again.keys, again.units) == (first.keys, first.units)
    for one, other in zip(first.frames, again.frames, strict=True):
        assert one.group == other.group
        np.testing.assert_equal(one.labels, other.labels)


def test_structures_alone_need_no_labels(tmp_path: Path) -> None:
    images = waters(2)
    for atoms in images:
        atoms.info["REF_energy"] = 0.0
    reading = read([written(tmp_path, images)], need=())
    assert "energy" not in reading.frames[0].labels and "choose with" in reading.left_out[0].lower()
    (tmp_path / "bare.xyz").write_text("1\n\nHe 0 0 0\n")
    assert read([tmp_path / "bare.xyz"], need=()).frames[0].labels == {}


def test_limit_and_sources(tmp_path: Path) -> None:
    path = written(tmp_path, waters(5))
    reading = read([path, path], limit=2)
    assert [(frame.source, frame.index) for frame in reading.frames] == [(str(path), 0), (str(path), 1)] * 2


def test_periodic_without_a_volume_is_refused(tmp_path: Path) -> None:
    images = bare(waters(2), "energy", "forces")
    images[1].set_cell(np.ones((3, 3)))
    images[1].set_pbc(True)
    with pytest.raises(CovariumError, match="frame 1: periodic directions .* span no volume"):
        read([written(tmp_path, images)])


def test_positions_of_the_reference_structure() -> None:
    assert springs(WATER)[0] == -14.2 and not springs(WATER)[1].any()


def test_structures_are_read_without_judging_labels(tmp_path: Path) -> None:
    """Energies in kcal/mol and forces lost on writing stop training, but not a relaxation."""
    images = bare(waters(3), "energy", "forces", (1e4, 0.0))
    images[1].set_masses([15.9, 2.014, 2.014])
    images[1].set_momenta(np.ones((3, 3)))
    images[1].set_constraint(FixBondLengths([[0, 1]]))
    images[1].info["name"] = "heavy"
    ase.io.write(tmp_path / "a.traj", images)
    with pytest.raises(CovariumError):
        read([tmp_path / "a.traj"])
    _, second, third = read_structures([tmp_path / "a.traj"])
    assert (second.index, second.atoms.info["name"]) == (1, "heavy")
    np.testing.assert_array_equal(second.atoms.get_masses(), images[1].get_masses())
    np.testing.assert_array_equal(second.atoms.get_momenta(), np.ones((3, 3)))
    assert isinstance(second.atoms.constraints[0], FixBondLengths) and not third.atoms.constraints


def test_structures_honour_units_of_length_and_fixed_atoms(tmp_path: Path) -> None:
    water = waters(1)[0]
    np.savez(tmp_path / "a.npz", R=water.positions[None] / BOHR, z=water.numbers, E=[1.0], charge=[0], r_unit="Bohr")
    (structure,) = read_structures([tmp_path / "a.npz"])
    np.testing.assert_allclose(structure.atoms.positions, water.positions, atol=1e-12)
    assert structure.atoms.info["charge"] == 0
    plain = Atoms(water.numbers, water.positions)
    plain.new_array("fixed", np.array([1, 0, 1]))
    (structure,) = read_structures([written(tmp_path, [plain])], units={"length": "nm"})
    np.testing.assert_allclose(structure.atoms.positions, 10 * water.positions, atol=1e-6)
    assert structure.atoms.constraints[0].index.tolist() == [0, 2]

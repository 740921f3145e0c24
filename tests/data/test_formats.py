"""Every format gives the same structures and labels, raw, whatever ASE does to them."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from spring_waters import springs, waters

from covarium.data import read
from covarium.data.conversion import resolve
from covarium.data.formats import load
from covarium.errors import CovariumError
from covarium.units import HARTREE

VASP = Path(ase.__file__).parent / "test" / "testdata" / "vasp"


def assert_springs(path: Path) -> None:
    reading = read([path])
    assert len(reading.frames) == 5
    for frame, atoms in zip(reading.frames, waters(5), strict=True):
        energy, forces = springs(atoms.positions)
        np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-7)
        assert frame.labels["energy"] == pytest.approx(energy, abs=1e-6)
        np.testing.assert_allclose(frame.labels["forces"], forces, atol=1e-6)


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.db"])
def test_ase_formats(tmp_path: Path, name: str) -> None:
    ase.io.write(tmp_path / name, waters(5))
    assert_springs(tmp_path / name)


@pytest.mark.parametrize(("suffix", "opener"), [(".xz", lzma.open), (".gz", gzip.open), (".bz2", bz2.open)])
@pytest.mark.parametrize("name", ["a.extxyz", "a.traj"])
def test_compressed(tmp_path: Path, name: str, suffix: str, opener: type) -> None:
    ase.io.write(tmp_path / name, waters(5))
    packed = tmp_path / (name + suffix)
    with opener(packed, "wb") as out:
        out.write((tmp_path / name).read_bytes())
    assert_springs(packed)


@pytest.mark.parametrize("names", [("z", "R", "E", "F"), ("nuclear_charges", "coords", "energies", "forces")])
def test_npz(tmp_path: Path, names: tuple[str, ...]) -> None:
    images = waters(5)
    labels = [springs(atoms.positions) for atoms in images]
    arrays = (
        images[0].numbers,
        np.array([atoms.positions for atoms in images]),
        np.array([energy for energy, _ in labels])[:, None],
        np.array([forces for _, forces in labels]),
    )
    np.savez(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True)))
    assert_springs(tmp_path / "a.npz")


def test_npz_filled_up_molecules(tmp_path: Path) -> None:
    positions = np.arange(18.0).reshape(2, 3, 3)
    np.savez(tmp_path / "a.npz", z=[[1, 1, 0], [8, 1, 1]], R=positions, E=[-3.0, -9.0], F=positions + 1)
    short, full = read([tmp_path / "a.npz"], units={"length": "Å"}).frames
    assert short.numbers.tolist() == [1, 1] and full.numbers.tolist() == [8, 1, 1]
    np.testing.assert_array_equal(short.labels["forces"], positions[0, :2] + 1)


def test_npz_of_several_sets_says_how_to_choose(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    images = waters(4)
    positions = np.array([atoms.positions for atoms in images])
    labels = [springs(atoms.positions) for atoms in images]
    energies, forces = np.array([e for e, _ in labels]), np.array([f for _, f in labels])
    np.savez(path, z=[8, 1, 1], train_R=positions, train_E=energies, train_F=forces, test_R=positions[:2])
    with pytest.raises(CovariumError, match="data.keys.positions=train_R .*energy=train_E .*forces=train_F"):
        read([path])
    keys = {"positions": "train_R", "energy": "train_E", "forces": "train_F"}
    assert len(read([path], keys=keys).frames) == 4


def test_npz_in_another_layout_is_refused_with_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", z=np.ones(6), R=np.zeros((6, 3)), E=np.zeros(2))
    with pytest.raises(CovariumError, match=r"shape \[6, 3\], expected floats \[frames, atoms, 3\]"):
        read([tmp_path / "a.npz"])
    np.savez(tmp_path / "b.npz", data=np.zeros(3))
    with pytest.raises(CovariumError, match=r"no array with a usual name for the positions; it has data \[3\]"):
        read([tmp_path / "b.npz"])


def test_db_of_key_value_pairs_and_data(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "a.db") as rows:
        for atoms in waters(3):
            energy, forces = springs(atoms.positions)
            bare = Atoms("OHH", positions=atoms.positions)
            rows.write(bare, REF_energy=energy, data={"REF_forces": forces})
        rows.metadata = {"_distance_unit": "Ang", "_property_unit_dict": {"energy": "eV", "forces": "eV/Ang"}}
    reading = read([tmp_path / "a.db"])
    assert reading.keys == {"energy": "REF_energy", "forces": "REF_forces"}
    assert any(note.startswith("units stated") for note in reading.notes)


def test_fixed_atoms_keep_their_forces(tmp_path: Path) -> None:
    images = waters(3)
    for atoms in images:
        atoms.set_constraint(FixAtoms([0, 2]))
    for name in ("a.traj", "a.db"):
        ase.io.write(tmp_path / name, images)
    ase.io.write(tmp_path / "a.extxyz", images, columns=["symbols", "positions", "move_mask", "forces"])
    for name in ("a.traj", "a.db", "a.extxyz"):
        for frame, atoms in zip(read([tmp_path / name]).frames, images, strict=True):
            assert frame.fixed.tolist() == [True, False, True]
            np.testing.assert_allclose(frame.labels["forces"], springs(atoms.positions)[1], atol=1e-6)


def test_fixed_column(tmp_path: Path) -> None:
    images = waters(2)
    for atoms in images:
        atoms.new_array("fixed", np.array([1, 0, 0]))
    ase.io.write(tmp_path / "a.extxyz", images)
    assert read([tmp_path / "a.extxyz"]).frames[1].fixed.tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["OUTCAR", "vasprun.xml"])
@pytest.mark.parametrize("packed", [False, True])
def test_vasp(tmp_path: Path, name: str, packed: bool) -> None:
    original = VASP / {"OUTCAR": "OUTCAR_example_1", "vasprun.xml": "vasprun_pstress.xml"}[name]
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(original.read_bytes()) if packed else original.read_bytes())
    reading = read([path])
    assert reading.frames[0].pbc.all()
    assert set(reading.frames[0].labels) == {"energy", "forces", "stress"}
    expected = ase.io.read(original, index=0, format="vasp-out" if name == "OUTCAR" else "vasp-xml")
    assert isinstance(expected, Atoms) and expected.calc is not None
    results = expected.calc.results
    assert reading.frames[0].labels["energy"] == results["energy"]
    np.testing.assert_array_equal(reading.frames[0].labels["forces"], results["forces"])
    np.testing.assert_allclose(reading.frames[0].labels["stress"], expected.get_stress(voigt=False), rtol=1e-12)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "waters.extxyz", waters(2))
    with pytest.raises(CovariumError, match="did you mean 'waters.extxyz'"):
        read([tmp_path / "water.extxyz"])
    whole = (tmp_path / "waters.extxyz").read_text().splitlines()
    (tmp_path / "cut.extxyz").write_text("\n".join(whole[:-1]))
    with pytest.raises(
        CovariumError, match=r"cut\.extxyz, frame 1: it is cut off: 3 atoms are announced, and the file ends after 2"
    ):
        read([tmp_path / "cut.extxyz"])
    (tmp_path / "a.extxyz.xz").write_bytes(b"not xz")
    with pytest.raises(CovariumError, match="a.extxyz.xz cannot be read"):
        read([tmp_path / "a.extxyz.xz"])


def test_atoms_of_all_frames_one_after_another(tmp_path: Path) -> None:
    images = [molecule(name) for name in ("H2O", "CH4", "H2O")]
    places = np.concatenate([atoms.positions for atoms in images])
    arrays = dict(
        n_atoms=np.array([3, 5, 3], np.uint8), z=np.concatenate([atoms.numbers for atoms in images]),
        R=np.round(places * 1e6).astype(np.int32), gap=np.arange(3.0), spread=np.arange(11.0),
    )  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    found = read([tmp_path / "a.npz"], keys={"property": "gap"}, units={"length": "1e-6 Å"}, need=("property",))
    assert [float(frame.labels["property"]) for frame in found.frames] == [0.0, 1.0, 2.0]
    for frame, atoms in zip(found.frames, images, strict=True):
        np.testing.assert_allclose(frame.positions, atoms.positions, rtol=0, atol=1e-6)
        assert frame.numbers.tolist() == atoms.numbers.tolist()
    records = load(tmp_path / "a.npz", {}, None)
    assert records[1].values["spread"].tolist() == [3.0, 4.0, 5.0, 6.0, 7.0]
    for changed, message in (
        ({"n_atoms": np.array([3, 5, 2])}, "'n_atoms' counts 10 atoms in 3 frames"),
        ({"n_atoms": np.array([3, 8, 0])}, "counts 11 atoms"),
        ({"natoms": np.array([3, 5, 3])}, "expected .*beside one array of their numbers"),
    ):
        np.savez(tmp_path / "b.npz", **(arrays | changed))
        with pytest.raises(CovariumError, match=message):
            load(tmp_path / "b.npz", {}, None)


def test_a_number_before_a_unit() -> None:
    found = resolve({"length": "1e-3 nm", "energy": "0.5 Hartree", "forces": "1e-3 eV/Å"}, [])
    assert found.size["length"] == pytest.approx(0.01) and found.names["length"] == "1e-3 nm"
    assert found.size["energy"] == pytest.approx(HARTREE / 2) and found.size["forces"] == pytest.approx(1e-3)
    for wrong in ("1e-3", "e3 Å", "1e-3 lightyears"):
        with pytest.raises(CovariumError, match="unit of length"):
            resolve({"length": wrong}, [])

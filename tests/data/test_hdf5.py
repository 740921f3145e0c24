"""HDF5 in the layouts of ANI-1 and QM7-X; links out of the file are not followed."""

from __future__ import annotations

from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from damage import assert_damage_is_named
from spring_waters import springs, waters

from covarium.data import read
from covarium.data.convert import convert
from covarium.errors import CovariumError


def ani(path: Path) -> None:
    """A group for each molecule, many structures in it."""
    with h5py.File(path, "w") as file:
        for g in range(2):
            images = waters(4, seed=g)
            labels = [springs(atoms.positions) for atoms in images]
            group = file.create_group(f"gdb/molecule-{g}")
            group["coordinates"] = np.array([atoms.positions for atoms in images])
            group["energies"] = np.array([energy for energy, _ in labels])
            group["forces"] = np.array([forces for _, forces in labels])
            group["species"] = np.array([b"O", b"H", b"H"])
            group["smiles"] = np.array([b"O"])


def test_ani_layout(tmp_path: Path) -> None:
    ani(tmp_path / "a.h5")
    reading = read([tmp_path / "a.h5"])
    assert reading.keys == {"energy": "energies", "forces": "forces", "group": "molecule"}
    expected = [*waters(4, seed=0), *waters(4, seed=1)]
    for k, (frame, atoms) in enumerate(zip(reading.frames, expected, strict=True)):
        np.testing.assert_array_equal(frame.positions, atoms.positions)
        assert frame.labels["energy"] == springs(atoms.positions)[0] and frame.numbers.tolist() == [8, 1, 1]
        assert frame.group == f"gdb/molecule-{k // 4}" and frame.index == k


def test_qm7x_layout(tmp_path: Path) -> None:
    images = waters(4)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for k, atoms in enumerate(images):
            energy, forces = springs(atoms.positions)
            group = file.create_group(f"{k // 2}/Geom-m{k // 2}-i1-c{k}-opt")
            group["atNUM"], group["atXYZ"] = atoms.numbers, atoms.positions
            group["ePBE0+MBD"], group["totFOR"], group["HLgap"] = [energy], forces, [7.0]
    reading = read([tmp_path / "a.hdf5"])
    assert reading.keys == {"energy": "ePBE0+MBD", "forces": "totFOR", "group": "molecule"}
    assert [frame.group for frame in reading.frames] == ["0", "0", "1", "1"]
    for frame, atoms in zip(reading.frames, images, strict=True):
        np.testing.assert_array_equal(frame.labels["forces"], springs(atoms.positions)[1])
    convert(tmp_path / "a.hdf5", tmp_path / "b.extxyz")
    assert ase.io.read(tmp_path / "b.extxyz").info["HLgap"] == 7.0


def test_conversion_goes_on_within_a_group(tmp_path: Path) -> None:
    from covarium.data.formats import stream

    ani(tmp_path / "a.h5")
    every = list(stream(tmp_path / "a.h5", {}))
    for k in range(8):
        rest = list(stream(tmp_path / "a.h5", {}, after=(str(tmp_path / "a.h5"), k)))
        assert [record.index for record in rest] == [record.index for record in every[k + 1 :]]
        for one, other in zip(rest, every[k + 1 :], strict=True):
            np.testing.assert_array_equal(one.positions, other.positions)


def test_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    ani(tmp_path / "other.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["away"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/gdb")
    with pytest.raises(CovariumError, match="'//away' is a link to another file|'/away' is a link to another file"):
        read([tmp_path / "a.h5"])
    (tmp_path / "secret").write_bytes(bytes(240))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("coordinates", (10, 1, 3), "f8", external=[(str(tmp_path / "secret"), 0, 240)])
        file["species"] = np.array([b"H"])
    with pytest.raises(CovariumError, match="keeps its values in other files; they are not read"):
        read([tmp_path / "b.h5"])


@pytest.mark.parametrize("own", [False, True])
def test_damaged_files_are_refused_and_do_not_end_the_process(tmp_path: Path, own: bool) -> None:
    whole, path = tmp_path / "whole.h5", tmp_path / "a.h5"
    ani(tmp_path / "ani.h5")
    if own:
        convert(tmp_path / "ani.h5", whole)
    else:
        whole = tmp_path / "ani.h5"
    content = whole.read_bytes()
    assert_damage_is_named(content, path, (len(content) - 1, len(content) // 2, 100, 0), places=10, seed=2)


def test_missing_roles_name_the_group(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["g/coordinates"] = np.zeros((2, 3, 3))
    with pytest.raises(
        CovariumError, match=r"group '/g' has no data set for the numbers; it has coordinates \[2, 3, 3\]"
    ):
        read([tmp_path / "a.h5"])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(CovariumError, match="b.h5 holds no structures"):
        read([tmp_path / "b.h5"])

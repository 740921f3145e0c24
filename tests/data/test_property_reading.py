"""A property is read under the key that the user names, in the file's own unit, and its statistics are exact."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from covarium.data import property_statistics, read, sum_or_mean
from covarium.errors import CovariumError

NAMES = ("CH4", "H2O", "CO2", "C2H6", "NH3", "CH3OH", "C6H6", "HCN", "C2H4", "H2CO")
PARTS = {1: 0.3, 6: -2.0, 7: 1.1, 8: 4.0}


def molecules() -> list[Atoms]:
    frames = []
    for k, name in enumerate(NAMES):
        atoms = molecule(name)
        sizes = [PARTS[int(z)] for z in atoms.numbers]
        atoms.info = {
            "total": sum(sizes),
            "mean": sum(sizes) / len(sizes) + 10,
            "mu": np.arange(3.0) + k,
            "energy": 1e9,
        }
        frames.append(atoms)
    return frames


def write(folder: Path, frames: list[Atoms]) -> Path:
    path = folder / "mols.extxyz"
    ase.io.write(path, frames, format="extxyz")
    return path


def test_scalars_and_vectors_under_their_own_key(tmp_path: Path) -> None:
    path = write(tmp_path, molecules())
    scalars = read([path], keys={"property": "total"}, need=("property",))
    assert [float(f.labels["property"]) for f in scalars.frames] == pytest.approx(
        [a.info["total"] for a in molecules()]
    )
    assert set(scalars.frames[0].labels) == {"property"}, "the energies, which are nonsense, are not looked at"
    assert scalars.units["property"] == "" and "unit not stated" in " ".join(scalars.notes)
    vectors = read([path], keys={"property": "mu"}, need=("property",), units={"property": "D"})
    assert vectors.frames[1].labels["property"].tolist() == [1.0, 2.0, 3.0] and vectors.units["property"] == "D"


def test_a_stated_unit_is_taken(tmp_path: Path) -> None:
    frames = molecules()
    for atoms in frames:
        atoms.info["total_unit"] = "Hartree"
    path = write(tmp_path, frames)
    assert read([path], keys={"property": "total"}, need=("property",)).units["property"] == "Hartree"
    frames[3].info["total_unit"] = "eV"
    with pytest.raises(CovariumError, match="'total' in several units, Hartree, eV"):
        read([write(tmp_path, frames)], keys={"property": "total"}, need=("property",))


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "mols.npz"
    np.savez(path, R=np.random.default_rng(0).normal(size=(4, 2, 3)) * 3, z=np.array([1, 8]), gap=np.arange(4.0))
    frames = read([path], keys={"property": "gap"}, need=("property",)).frames
    assert [float(f.labels["property"]) for f in frames] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({}, "totla", "no key 'totla' for property; did you mean 'total'"),
        ({"total": "high"}, "total", r"frame 3: property 'total' is of type str.*one number or a vector of 3"),
        ({"total": float("nan")}, "total", "frame 3: property is nan"),
        ({"total": np.arange(3.0)}, "total", "a scalar in some frames and a vector in others"),
        ({"total": np.arange(4.0)}, "total", "expected one number or a vector of 3"),
        (None, "total", r"frame 3 is the first of 1 frames of 10 without property 'total'"),
    ],
)
def test_what_cannot_be_learnt_is_named(tmp_path: Path, change: dict | None, key: str, message: str) -> None:
    frames = molecules()
    if change is None:
        del frames[3].info["total"]
    else:
        frames[3].info.update(change)
    with pytest.raises(CovariumError, match=message):
        read([write(tmp_path, frames)], keys={"property": key}, need=("property",))


def test_extensive_or_intensive(tmp_path: Path) -> None:
    path = write(tmp_path, molecules())
    for key, expected in (("total", "sum"), ("mean", "mean")):
        frames = read([path], keys={"property": key}, need=("property",)).frames
        how, reason = sum_or_mean(frames)
        assert how == expected and "0.000" in reason
    same = [f for f in frames if len(f.numbers) == 3][:1] * 3
    assert "do not tell" in sum_or_mean(same)[1]


def test_statistics_of_a_sum_and_a_mean(tmp_path: Path) -> None:
    frames = molecules()
    rng = np.random.default_rng(0)
    for atoms in frames:
        atoms.info["total"] += rng.normal(0, 1e-3)
    read_frames = read([write(tmp_path, frames)], keys={"property": "total"}, need=("property",)).frames
    found = property_statistics(read_frames, "sum", "auto")
    assert found.references.energies == pytest.approx(PARTS, abs=2e-3)
    assert found.offset == 0 and found.scale == found.spread and 1e-4 < found.spread < 2e-3
    values = np.array([atoms.info["total"] for atoms in frames])
    for readout, references in (("sum", "none"), ("mean", "auto")):
        found = property_statistics(read_frames, readout, references)
        assert (found.offset, found.scale) == (pytest.approx(values.mean()), pytest.approx(values.std()))
        assert not any(found.references.energies.values())


def test_statistics_of_heads(tmp_path: Path) -> None:
    path = write(tmp_path, molecules())
    vectors = read([path], keys={"property": "mu"}, need=("property",)).frames
    found = property_statistics(vectors, "value", "auto")
    components = np.stack([f.labels["property"] for f in vectors])
    assert found.scale == pytest.approx(np.sqrt(np.mean(components**2))) and found.offset == 0
    scalars = read([path], keys={"property": "mean"}, need=("property",)).frames
    extent = property_statistics(scalars, "value", "auto")
    moments = []
    for atoms in molecules():
        r = atoms.positions - atoms.get_center_of_mass()
        moments.append((r**2).sum())
    assert extent.scale * np.mean(moments) == pytest.approx(np.mean([float(f.labels["property"]) for f in scalars]))
    with pytest.raises(CovariumError, match="nothing to learn from 3 values"):
        property_statistics(scalars[:1] * 3, "mean", "auto")
    with pytest.raises(CovariumError, match="has no references of elements"):
        property_statistics(vectors, "value", {"H": 1.0})

"""From file to file through our own format: nothing lost, and our own format trains as the file it came from."""

from __future__ import annotations

import zlib
from pathlib import Path

import ase.io
import lmdb
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from covarium.data import FrameDataset, StoredFrames, element_references, property_statistics, read, sum_or_mean
from covarium.data.convert import convert
from covarium.data.formats import stream
from covarium.data.survey import Survey
from covarium.errors import CovariumError
from covarium.systems import GraphSpec

FORMATS = [".extxyz", ".traj", ".db", ".aselmdb", ".npz", ".h5"]


def slabs(count: int = 6) -> list[Atoms]:
    """Periodic slabs with frozen and tagged atoms, stress, two scalar properties with a unit, and a vector."""
    rng = np.random.default_rng(1)
    images = []
    for k in range(count):
        symbols = ["CuOH", "Cu2OH"][k % 2]
        n = len(Atoms(symbols))
        start = np.array([[0.0, 0, 0], [2.2, 0, 0], [1.1, 1.2, 0.9], [1.1, 2.1, 1.3]])[:n]
        atoms = Atoms(symbols, start + rng.normal(0, 0.05, (n, 3)), cell=np.diag([6.0, 6.5, 7.0]), pbc=True)
        atoms.set_tags([0, 1, 2, 2][:n])
        atoms.set_constraint(FixAtoms([0]))
        atoms.info.update(gap=float(rng.normal(n)), gap_unit="eV", moment=rng.normal(size=3), group=f"run{k // 2}")
        forces, stress = rng.normal(size=(n, 3)), rng.normal(0, 0.01, 6)
        atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal(-3 * n)), forces=forces, stress=stress)
        images.append(atoms)
    return images


@pytest.fixture
def file(tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "slabs.extxyz", slabs())
    return tmp_path / "slabs.extxyz"


def assert_same(path: Path, original: Path) -> None:
    for need in (("energy", "forces", "stress"), ("property",)):
        keys = {"property": "gap"} if need == ("property",) else {}
        here, there = (read([p], keys=keys, need=need) for p in (path, original))
        assert len(here.frames) == len(there.frames)
        assert here.units.get("property") == there.units.get("property")
        for one, other in zip(here.frames, there.frames, strict=True):
            for name in ("numbers", "positions", "cell", "pbc", "fixed", "tags"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert one.group == other.group and one.labels.keys() == other.labels.keys()
            for name, label in other.labels.items():
                np.testing.assert_array_equal(one.labels[name], label)


@pytest.mark.parametrize("suffix", FORMATS)
def test_there_and_back(file: Path, tmp_path: Path, suffix: str) -> None:
    own, other, again = tmp_path / "a.frames", tmp_path / f"b{suffix}", tmp_path / "c.frames"
    for source, out in ((file, own), (own, other), (other, again)):
        assert convert(source, out).frames == 6
    for path in (own, other, again):
        assert_same(path, file)
    assert read([own]).frames[1].tags.tolist() == [0, 1, 2, 2]


def test_batches_carry_tags_and_labels(file: Path, tmp_path: Path) -> None:
    convert(file, tmp_path / "a.frames")
    made = []
    for path in (file, tmp_path / "a.frames"):
        data = FrameDataset(read([path]).frames, GraphSpec(cutoff=4.0), torch.float64)
        made.append(data.batch([4, 1]))
    assert made[0].system.tags.tolist() == made[1].system.tags.tolist() and made[0].system.tags.any()
    for name, label in made[0].labels.items():
        assert torch.equal(label, made[1].labels[name])


def test_a_property_of_a_set(file: Path, tmp_path: Path) -> None:
    """Any value may be learnt later; statistics are those of the file."""
    convert(file, tmp_path / "a.frames")
    here, there = (read([p], keys={"property": "gap"}, need=["property"]) for p in (tmp_path / "a.frames", file))
    assert isinstance(here.frames, StoredFrames) and here.units["property"] == "eV"
    assert sum_or_mean(here.frames) == sum_or_mean(there.frames)
    for readout in ("sum", "mean", "mean_with_zero", "value"):
        one, other = (property_statistics(r.frames, readout, "none") for r in (here, there))
        assert one == other
    fit = [element_references(r.frames, "least_squares", "property").energies for r in (here, there)]
    assert fit[0] == pytest.approx(fit[1], abs=1e-12)
    vectors = read([tmp_path / "a.frames"], keys={"property": "moment"}, need=["property"]).frames
    assert vectors[3].labels["property"].shape == (3,)
    with pytest.raises(CovariumError, match="no key 'gab' for property.*gap"):
        read([tmp_path / "a.frames"], keys={"property": "gab"}, need=["property"])
    with pytest.raises(CovariumError, match="leave out data.keys.energy"):
        read([tmp_path / "a.frames"], keys={"energy": "E"})
    with pytest.raises(CovariumError, match="not chosen in a conversion"):
        convert(file, tmp_path / "b.frames", keys={"property": "gap"})


def test_goes_on_where_it_was_ended(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a file, with blocks of two frames and an error in place of a kill."""
    monkeypatch.setattr("covarium.data.store_writing.BLOCK", 2)

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    ase.io.write(tmp_path / "long.extxyz", [atoms for _ in range(20) for atoms in slabs()])
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "long.extxyz", tmp_path / "a.frames", progress=stop)
    assert not (tmp_path / "a.frames").exists()
    done = convert(tmp_path / "long.extxyz", tmp_path / "a.frames")
    assert (done.resumed, done.frames) == (100, 120)
    assert_same(tmp_path / "a.frames", tmp_path / "long.extxyz")


@pytest.mark.parametrize("suffix", [".extxyz", ".traj", ".db", ".aselmdb", ".npz", ".h5", ".frames"])
def test_starts_and_limits(file: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    convert(file, path)
    assert [r.index for r in stream(path, {}, after=(str(path), 2))] == [3, 4, 5]
    assert [r.index for r in stream(path, {}, limit=2)] == [0, 1]
    assert [r.index for r in stream(path, {}, limit=2, after=(str(path), 0))] == [1, 2]


def test_shards_and_a_damaged_record(file: Path, tmp_path: Path) -> None:
    """A folder is one set; a check names the damaged row and goes on, reading refuses it by its place."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("data.2.aselmdb", "data.10.aselmdb"):
        convert(file, folder / name)
    assert len(read([folder], limit=8).frames) == 8
    records = list(stream(folder, {}))
    assert [Path(r.source).name for r in records] == ["data.2.aselmdb"] * 6 + ["data.10.aselmdb"] * 6
    with lmdb.open(str(folder / "data.10.aselmdb"), subdir=False, lock=False) as environment:
        with environment.begin(write=True) as put:
            put.put(b"3", zlib.compress(b"{not json"))
    with pytest.raises(CovariumError, match=r"data.10.aselmdb, frame 2: its row 3 is damaged"):
        read([folder])
    survey = Survey()
    survey.read(folder)
    (damage,) = survey.notes["unreadable"]
    assert damage.source.endswith("data.10.aselmdb") and damage.frame == 2
    assert len(survey.columns) == 11


def test_changed_bytes_are_found(file: Path, tmp_path: Path) -> None:
    own = tmp_path / "a.frames"
    convert(file, own)
    content = bytearray((own / "tags.bin").read_bytes())
    content[8] ^= 1
    (own / "tags.bin").write_bytes(content)
    with pytest.raises(CovariumError, match="do not match their sha256"):
        list(stream(own, {}))

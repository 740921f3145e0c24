"""Real structures and labels in the layouts of the official files; needs COVARIUM_DATA with rmd17/, qm9/ and so on."""

from __future__ import annotations

import io
import lzma
import os
from dataclasses import replace
from pathlib import Path

import ase.io
import h5py
import numpy as np
import official_files as official
import pytest
from ase.data import chemical_symbols

from covarium.data import getting, read
from covarium.data.download import Source
from covarium.data.plausibility import findings
from covarium.data.sets import SETS, DataSet
from covarium.data.store import Store
from covarium.units import HARTREE, KCAL_PER_MOL

ROOT = Path(os.environ.get(getting.VARIABLE, "/nowhere"))


def real(name: str) -> Path:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"COVARIUM_DATA has no {name}")
    return path


def unpacked(name: str) -> io.BytesIO:
    return io.BytesIO(lzma.decompress(real(name).read_bytes()))


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(getting.VARIABLE, str(tmp_path))
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads"


def known(name: str, **changes: object) -> DataSet:
    card = SETS[name]
    sources = tuple(Source(source.url, source.name) for source in card.sources)
    return replace(card, sources=sources, **changes)  # type: ignore[arg-type]


def stores(got: getting.Got) -> dict[str, Store]:
    return {path.name.removesuffix(".frames"): Store(path) for path in sorted(got.folder.glob("*.frames"))}


def test_rmd17_aspirin(folder: Path) -> None:
    arrays = dict(np.load(real("rmd17/rmd17_aspirin_split01.npz")))
    both = {x: np.concatenate([arrays[f"train_{x}"], arrays[f"test_{x}"]]) for x in ("R", "E", "F", "idx", "E_md17")}
    kept = official.npz(
        nuclear_charges=arrays["z"], coords=both["R"], energies=both["E"] / KCAL_PER_MOL,
        forces=both["F"].astype(np.float64) / KCAL_PER_MOL, old_indices=both["idx"], old_energies=both["E_md17"],
    )  # fmt: skip
    files = {"rmd17/npz_data/rmd17_aspirin.npz": kept}
    for k, part in enumerate(("train", "test")):
        files[f"rmd17/splits/index_{part}_01.csv"] = "\n".join(str(1000 * k + i) for i in range(1000)).encode()
    official.tar(folder / "rmd17.tar.bz2", files, "bz2")
    got = getting.get(known("rmd17-aspirin", frames=2000))
    found = stores(got)
    assert {part: len(store) for part, store in found.items()} == {"test": 1000, "train": 950, "valid": 50}
    np.testing.assert_allclose(found["test"].column("energy"), arrays["test_E"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["train"].frame(7).labels["forces"], arrays["train_F"][7], rtol=0, atol=1e-6)
    reading = read([got.folder / "train.frames"])
    assert not [finding for finding in findings(reading.frames, 1.0) if finding.wrong]


def test_qm9(folder: Path) -> None:
    data = np.load(unpacked("qm9/qm9_12targets_26k.npz.xz"))
    ends = np.cumsum(data["n_atoms"].astype(int))
    in_ev = ("homo", "lumo", "gap", "zpve", "u0", "u298", "h298", "g298")
    columns = [data[name] / (HARTREE if name in in_ev else 1.0) for name in official.QM9_ROWS]
    molecules = {}
    for i in range(300):
        rows = slice(ends[i] - data["n_atoms"][i], ends[i])
        molecules[int(data["gdb_id"][i])] = data["z"][rows], data["R"][rows] * 1e-6, np.array([c[i] for c in columns])
    official.qm9(folder, molecules, excluded=sorted(molecules)[:3])
    got = getting.get(known("qm9", sizes=(200, 50)))
    frames = read([got.folder / "train.frames"], keys={"property": "homo"}, need=("property",)).frames
    assert len(frames) == 200
    store = stores(got)["train"]
    row = data["gdb_id"].tolist().index(store.rest(0).info["gdb_id"])
    assert float(frames[0].labels["property"]) == pytest.approx(data["homo"][row], rel=1e-12)
    # the same molecules, all atoms one after another in one archive
    plain = read(
        [real("qm9/qm9_12targets_26k.npz.xz")],
        keys={"property": "homo"}, units={"length": "1e-6 Å", "property": "eV"}, need=("property",), limit=400,
    )  # fmt: skip
    assert len(plain.frames) == 400 and plain.units["length"] == "1e-6 Å"
    if row < 400:
        np.testing.assert_allclose(plain.frames[row].positions, frames[0].positions, rtol=0, atol=1e-12)


def test_ani_1(folder: Path) -> None:
    arrays = np.load(real("ani_wb97x/ani1_s01.npz"), allow_pickle=False)
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for k in range(3):
            group = file.create_group(f"gdb11_s01/gdb11_s01-{k}")
            group["coordinates"], group["energies"] = arrays[f"gdb11_s01-{k}_R"], arrays[f"gdb11_s01-{k}_E"] / HARTREE
            group["species"] = arrays[f"gdb11_s01-{k}_species"].astype("S1")
    official.tar(folder / "ANI1_release.tar.gz", {"ANI-1_release/ani_gdb_s01.h5": content.getvalue()}, "gz")
    store = stores(getting.get(known("ani-1", large=False, frames=10_800)))["all"]
    assert len(store) == 10_800
    np.testing.assert_allclose(store.column("energy")[:5400], arrays["gdb11_s01-0_E"], rtol=0, atol=1e-9)


def test_3bpa(folder: Path) -> None:
    names = {"train_300K": "train_300K", "train_mixedT": "train_mixedT", "iso_atoms": "iso_atoms"}
    names |= {f"test_{t}": f"proxy_test_{t}" for t in ("300K", "600K", "1200K")}
    for file, stored in names.items():
        (folder / f"3bpa_{file}.xyz").write_bytes(unpacked(f"3bpa/{stored}.extxyz.xz").read())
    got = getting.get(known("3bpa"))
    assert got.card["frames"] == {
        "train_300K": 504, "train_mixedT": 504, "test_300K": 136, "test_600K": 167, "test_1200K": 166,
    }  # fmt: skip
    assert any("isolated" in note or "energies" in note for note in got.notes)


def test_water(folder: Path) -> None:
    text = unpacked("water_deepmd/water_192atoms.extxyz.xz").read().decode()
    images = ase.io.read(io.StringIO(text), ":", format="extxyz")
    for atoms in images:
        assert chemical_symbols[atoms.numbers[0]] == "O"
    for name in sorted({atoms.info["system"] for atoms in images}):
        system, _, part = name.partition("/")
        here = [atoms for atoms in images if atoms.info["system"] == name]
        (folder / f"water_{system}_type.raw").write_text(" ".join("0" if z == 8 else "1" for z in here[0].numbers))
        arrays = {"box": [a.cell.array.ravel() for a in here], "coord": [a.positions.ravel() for a in here],
                  "energy": [a.get_potential_energy() for a in here],
                  "force": [a.get_forces().ravel() for a in here]}  # fmt: skip
        for what, array in arrays.items():
            np.save(folder / f"water_{system}_{part}_{what}.npy", np.array(array))
    found = stores(getting.get(known("water")))
    assert {part: len(store) for part, store in found.items()} == {"train": 320, "valid": 80}
    frame = found["train"].frame(0)
    np.testing.assert_allclose(frame.positions, images[0].positions, rtol=0, atol=1e-12)
    assert frame.labels["energy"] == images[0].get_potential_energy() and frame.cell[0, 0] == images[0].cell[0, 0]

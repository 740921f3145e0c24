"""Published sets by name: every layout from small files that are laid out like the official ones, splits, cards."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import official_files as official
import pytest
import yaml
from command import call

from covarium.data import getting
from covarium.data.archives import unpack
from covarium.data.download import Source
from covarium.data.set_layouts import LAYOUTS, formal_charge, permuted, qm9_molecule
from covarium.data.sets import SETS, DataSet, data_set_named
from covarium.data.store import Store
from covarium.errors import CovariumError
from covarium.units import BOHR, HARTREE


@pytest.fixture(autouse=True)
def no_local_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of all sets, empty."""
    monkeypatch.setenv(getting.VARIABLE, str(tmp_path / "sets"))
    return tmp_path / "sets"


@pytest.fixture
def folder(no_local_copies: Path) -> Path:
    (no_local_copies / "downloads").mkdir(parents=True)
    return no_local_copies / "downloads"


def small(known: str, **changes: object) -> DataSet:
    """A set whose files are small, without the hashes and numbers of the official ones."""
    card = replace(SETS[known], frames=None)
    sources = tuple(Source(f"http://127.0.0.1:9/{s.name}", s.name) for s in card.sources)
    return replace(card, sources=sources, **changes)  # type: ignore[arg-type]


def parts(got: getting.Got) -> dict[str, Store]:
    return {path.name.removesuffix(".frames"): Store(path) for path in sorted(got.folder.glob("*.frames"))}


def energies(store: Store) -> np.ndarray:
    return np.array(store.column("energy"))


def test_the_table_holds_together() -> None:
    assert len(SETS) == 60
    for name, one in SETS.items():
        assert one.layout in LAYOUTS and re.fullmatch(r"[a-z0-9-]+", name) and one.licence and one.citation, name
        assert one.where.startswith("http") and one.split and one.theory, name
        assert len({source.name for source in one.sources}) == len(one.sources), name
        for source in one.sources:
            assert re.fullmatch(r"https?://\S+", source.url) and re.fullmatch(r"[\w.-]+", source.name), name
            assert re.fullmatch(r"[0-9a-f]{32}|", source.md5), name
        one.train[1].format(train="a", valid="b", test="c", test_300K="d")
    # sets that share a file agree on what it is
    named: dict[str, Source] = {}
    for one in SETS.values():
        for source in one.sources:
            assert named.setdefault(source.name, source) == source
    families = [sum(name.startswith(f) for name in SETS) for f in ("rmd17-", "md17-", "md22-", "oc20-", "omat24-")]
    assert families == [10, 15, 7, 8, 11]


def test_a_misspelt_name() -> None:
    with pytest.raises(CovariumError, match="did you mean 'rmd17-aspirin'"):
        data_set_named("rmd17-asprin")


def test_md17(folder: Path) -> None:
    expected = official.md17(folder / "md17_aspirin.npz", 60)
    got = getting.get(small("md17-aspirin", sizes=(30, 10)))
    found = parts(got)
    order = np.random.default_rng(1).permutation(60)  # of Equiformer and ET
    rows = {"train": order[:30], "valid": order[30:40], "test": order[40:]}
    for part, store in found.items():
        np.testing.assert_allclose(energies(store), expected[np.sort(rows[part])], rtol=0, atol=1e-12)
        assert store.labels["forces"] == len(store) and store.header["theory"] == "PBE+vdW-TS"
    assert got.commands == [
        f"covarium train {got.folder}/train.frames --valid {got.folder}/valid.frames --test {got.folder}/test.frames "
        "--recipe torchmd-et-md17 --out runs/md17-aspirin"
    ]
    assert got.card["frames"] == {"test": 20, "train": 30, "valid": 10}
    assert yaml.safe_load((got.folder / "card.yaml").read_text()) == got.card
    again = getting.get(small("md17-aspirin", sizes=(30, 10)))
    assert again.card == got.card and again.commands == got.commands and again.notes == []
    with pytest.raises(CovariumError, match="60 structures cannot be split into 950 for training, 50"):
        getting.get(small("md17-aspirin", name="md17-other"))


def test_md22_and_coupled_cluster(folder: Path) -> None:
    official.md17(folder / "md22_AT-AT.npz", 50)
    got = getting.get(small("md22-at-at", sizes=(19, 1)))
    assert {part: len(store) for part, store in parts(got).items()} == {"train": 19, "valid": 1, "test": 30}
    official.ccsd(folder / "ethanol_ccsd_t.zip")
    got = getting.get(small("md17-ethanol-ccsd-t"))
    found = parts(got)
    expected = official.labelled(90)[1]
    assert {part: len(store) for part, store in found.items()} == {"train": 20, "valid": 50, "test": 20}
    np.testing.assert_allclose(energies(found["valid"]), expected[20:70], rtol=0, atol=1e-12)
    np.testing.assert_allclose(energies(found["test"]), expected[70:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("split", [1, 4])
def test_rmd17(folder: Path, split: int) -> None:
    expected, splits = official.rmd17(folder / "rmd17.tar.bz2")
    one = small("rmd17-uracil", sizes=(90, 10))
    got = getting.get(one, split=split)
    train, test = splits[split]
    for part, rows in {"train": train[:90], "valid": train[90:], "test": test}.items():
        store = parts(got)[part]
        np.testing.assert_allclose(energies(store), expected[np.sort(rows)], rtol=0, atol=1e-12)
        assert [store.rest(k).info["old_indices"] for k in range(3)] == (np.sort(rows)[:3] * 7).tolist()
    assert got.folder.name == ("rmd17-uracil" if split == 1 else "rmd17-uracil-split4")
    with pytest.raises(CovariumError, match="5 official splits"):
        getting.get(one, split=6)
    with pytest.raises(CovariumError, match="holds no .*rmd17_ethanol.npz|no rmd17_ethanol"):
        getting.get(small("rmd17-ethanol"))


def molecules(count: int) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    positions = official.labelled(count)[0]
    rng = np.random.default_rng(1)
    return {k + 1: (np.array([8, 1, 1]), positions[k], rng.normal(size=15) * 10.0 ** rng.integers(-6, 3, 15))
            for k in range(count)}  # fmt: skip


def test_qm9(folder: Path) -> None:
    made = molecules(40)
    official.qm9(folder, made, excluded=[3, 17])
    got = getting.get(small("qm9", sizes=(20, 10)))
    found = parts(got)
    kept = [number for number in made if number not in (3, 17)]
    order = np.random.default_rng(1).permutation(38)
    rows = {"train": order[:20], "valid": order[20:30], "test": order[30:]}
    for part, store in found.items():
        numbers = [kept[row] for row in np.sort(rows[part])]
        for k, number in enumerate(numbers):
            info, (_, positions, values) = store.rest(k).info, made[number]
            assert info["gdb_id"] == number and info["smiles"] == "C"
            np.testing.assert_allclose(store.frame(k).positions, positions, rtol=1e-9)
            factors = [1.0] * 5 + [HARTREE] * 3 + [1.0] + [HARTREE] * 5 + [1.0]
            for name, value, factor in zip(official.QM9_ROWS, values, factors, strict=True):
                assert info[name] == pytest.approx(value * factor, rel=1e-9)
            assert (info["homo_unit"], info["mu_unit"], info["r2_unit"]) == ("eV", "D", "a0^2")
    references = yaml.safe_load((got.folder / "u298.yaml").read_text())["task"]["references"]
    assert references["C"] == pytest.approx((official.ATOMS["C"] + 0.001) * HARTREE)
    assert got.commands[0].endswith("--recipe torchmd-et-qm9 --property homo --out runs/qm9-homo")
    assert f"--recipe torchmd-et-qm9 --property u0 --config {got.folder}/u0.yaml --out " in got.commands[1]


def test_a_molecule_of_qm9_that_is_none() -> None:
    for text in ("", "3\ngdb 1\t1.0", "1\ngdb 1" + "\t1.0" * 15 + "\nXx 0 0 0 0\n1\nC\n"):
        with pytest.raises(CovariumError, match="a.xyz is not a molecule as QM9 has them"):
            qm9_molecule(text, "a.xyz", 0)


def test_the_split_of_the_published_qm9_models() -> None:
    split = permuted(130_831, (110_000, 10_000))
    assert [split.count(part) for part in ("train", "valid", "test")] == [110_000, 10_000, 10_831]
    order = np.random.default_rng(1).permutation(130_831)
    assert split[order[0]] == "train" and split[order[110_000]] == "valid" and split[order[-1]] == "test"


def test_ani(folder: Path) -> None:
    expected = official.ani1(folder / "ANI1_release.tar.gz")
    store = parts(getting.get(small("ani-1", large=False)))["all"]
    np.testing.assert_allclose(energies(store), np.concatenate(list(expected.values())), rtol=0, atol=1e-12)
    assert store.frame(5).group == "gdb11_s01/gdb11_s01-1" and store.header["group"] == "molecule"
    assert "forces" not in store.header["nonzero"] and dict(store.rest(0).info) == {"molecule": "gdb11_s01/gdb11_s01-0"}
    dft, coupled = official.ani1x(folder / "ani1x-release.h5")
    store = parts(getting.get(small("ani-1x")))["all"]
    np.testing.assert_allclose(energies(store), dft, rtol=0, atol=1e-12)
    np.testing.assert_allclose(store.frame(0).labels["forces"], official.labelled(6)[2][0], rtol=0, atol=1e-12)
    store = parts(getting.get(small("ani-1ccx")))["all"]
    np.testing.assert_allclose(energies(store), coupled, rtol=0, atol=1e-12)
    assert store.labels["forces"] == 0


def test_qm7x(folder: Path) -> None:
    one = small("qm7x", large=False)
    for k, source in enumerate(one.sources[:-1]):
        official.qm7x(folder / source.name, folder / one.sources[-1].name)
        if k > 1:
            (folder / source.name).unlink()
    one = replace(one, sources=(*one.sources[:2], one.sources[-1]))
    store = parts(getting.get(one))["all"]
    # of two times eight structures, each time two are of a conformer that is another's copy
    names = [store.rest(k).info["structure"] for k in range(len(store))]
    assert len(store) == 12 and not any(name.startswith("Geom-m0-i1-c2") for name in names)
    assert {store.frame(k).group for k in range(12)} == {"0", "1"}
    np.testing.assert_allclose(energies(store)[:2], np.sort(official.labelled(2, seed=1)[1][::-1]), atol=0.2)
    row = names.index("Geom-m1-i1-c2-opt")
    assert energies(store)[row] == official.labelled(2, seed=12)[1][0]


def test_spice(folder: Path) -> None:
    expected, forces = official.spice(folder / "SPICE-2.0.1.hdf5")
    store = parts(getting.get(small("spice")))["all"]
    np.testing.assert_allclose(energies(store), expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(store.frame(5).labels["forces"], forces[5], rtol=0, atol=1e-12)
    np.testing.assert_allclose(store.frame(0).positions, official.labelled(4)[0][0], rtol=0, atol=1e-14)
    assert [store.rest(k).info["formal_charge"] for k in (0, 4)] == [0, 1]
    assert store.frame(4).charge == 0 and store.rest(0).info["subset"] == "SPICE Dipeptides v1.3"
    assert abs(store.frame(0).positions).max() < 3 * BOHR


@pytest.mark.parametrize(
    ("smiles", "charge"),
    [("[O-]C", -1), ("[NH3+:4]CC(=O)[O-:2]", 0), ("[Ca+2]", 2), ("[Fe++].[Cl-:12]", 1), ("C[C@@H:1](N)-C", 0), ("", 0)],
)
def test_charges_of_smiles(smiles: str, charge: int) -> None:
    assert formal_charge(smiles) == charge


def test_3bpa(folder: Path) -> None:
    one = small("3bpa")
    *files, atoms = one.sources
    for k, source in enumerate(files):
        positions, values, forces = official.labelled(3, seed=k)
        text = ""
        for place, energy, force in zip(positions, values, forces, strict=True):
            rows = [" ".join(map(str, (x, *p, *f))) for x, p, f in zip("OHH", place, force, strict=True)]
            text += (
                f'3\nProperties=species:S:1:pos:R:3:forces:R:3 energy={energy} pbc="F F F"\n' + "\n".join(rows) + "\n"
            )
        (folder / source.name).write_text(text)
    (folder / atoms.name).write_text(
        "".join(
            f'1\nProperties=species:S:1:pos:R:3 energy={e} pbc="F F F"\n{x} 0 0 0\n' for x, e in (("H", -1), ("O", -9))
        )
    )
    got = getting.get(one)
    found = parts(got)
    assert {part: len(store) for part, store in found.items()} == {
        "test_1200K": 3, "test_300K": 3, "test_600K": 3, "train_300K": 5, "train_mixedT": 5,
    }  # fmt: skip
    np.testing.assert_allclose(energies(found["train_300K"]), [-1, -9, *official.labelled(3)[1]], rtol=0, atol=1e-12)
    assert got.commands[0].endswith(f"--test {got.folder}/test_300K.frames --set data.valid_part=50 --out runs/3bpa")


def test_water(folder: Path) -> None:
    expected = official.water(folder)
    found = parts(getting.get(small("water")))
    assert {part: len(store) for part, store in found.items()} == {"train": 8, "valid": 2}
    np.testing.assert_array_equal(np.concatenate([energies(found["train"]), energies(found["valid"])]), expected)
    frame = found["valid"].frame(0)
    assert frame.numbers.tolist() == [8, 1, 1] and frame.pbc.all() and frame.cell[0, 0] == 12.0
    assert frame.group == "data_3"


def test_oc20(folder: Path) -> None:
    totals, references = official.oc20(folder / "s2ef_train_200K.tar")
    got = getting.get(small("oc20-200k"))
    store = parts(got)["train"]
    np.testing.assert_allclose(energies(store), totals - references, rtol=0, atol=1e-6)
    frame = store.frame(0)
    assert frame.fixed.tolist() == [True, False, False] and frame.tags.tolist() == [0, 2, 2]
    assert store.rest(4).info["sid"] == "random11" and store.rest(4).info["reference_energy"] == -92.0
    assert "--set task.energy=adsorption" in got.commands[0]


def test_materials(folder: Path, tmp_path: Path) -> None:
    official.mptrj(folder / "2024-09-03-mp-trj.extxyz.zip")
    store = parts(getting.get(small("mptrj", large=False)))["all"]
    assert len(store) == 6 and [store.frame(k).group for k in (0, 5)] == ["mp-0", "mp-1"]
    one = small("omat24-rattled-300")
    for k, source in enumerate(one.sources):
        official.aselmdb(folder / source.name, k, tmp_path)
    found = parts(getting.get(one))
    for k, part in enumerate(("train", "valid")):
        np.testing.assert_allclose(energies(found[part]), official.labelled(4, seed=k)[1], rtol=0, atol=1e-12)
    assert not list(folder.parent.glob("*.partial")), "nothing is left of what was unpacked"


def test_large_sets_are_agreed_to(no_local_copies: Path) -> None:
    for name, size in (("spice", "37.5 GB"), ("mptrj", "several GB")):
        with pytest.raises(CovariumError, match=f"{name} is a download of {size} .*--yes"):
            getting.get(SETS[name])
    assert not no_local_copies.exists()


def test_downloaded_then_read(tmp_path: Path, no_local_copies: Path) -> None:
    expected = official.md17(tmp_path / "a.npz", 60)
    told = []
    with official.serving() as server:
        server.files["/a.npz"] = (tmp_path / "a.npz").read_bytes()
        one = replace(SETS["md17-uracil"], sources=(Source(f"{server.url}/a.npz", "a.npz"),), sizes=(30, 10))
        one = replace(one, frames=60)
        got = getting.get(one, told=lambda *words: told.append(words))
        assert len(server.asked) == 1
        # the other folder has no copy; the one that the environment names has
        again = getting.get(one, tmp_path / "other")
        assert len(server.asked) == 1 and again.card["sources"][0]["came"] == "local copy"
    assert sum(map(len, parts(got).values())) == len(expected)
    assert got.card["sources"][0]["came"] == "downloaded" and told[0][0] == "downloading a.npz"
    assert (no_local_copies / "downloads" / "a.npz").is_file()


def test_an_ended_attempt_leaves_nothing_in_the_way(folder: Path) -> None:
    path = folder / "md17_toluene.npz"
    official.md17(path, 60)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    one = small("md17-toluene", sizes=(30, 10))
    with pytest.raises(CovariumError, match="md17_toluene.npz is not the official file"):
        getting.get(one)
    path.write_bytes(b"<html>please log in</html>")
    with pytest.raises(CovariumError, match="it is no npz archive, but a page of the web; remove it") as error:
        getting.get(one)
    assert "pickle" not in str(error.value)
    assert not (folder.parent / "md17-toluene").exists()
    path.write_bytes(whole)
    assert sum(map(len, parts(getting.get(one)).values())) == 60


@pytest.mark.parametrize(
    ("name", "make", "file", "count"),
    [("md17-uracil", lambda path: official.md17(path, 60), "md17_uracil.npz", "60"),
     ("rmd17-uracil", official.rmd17, "rmd17.tar.bz2", "300"),
     ("md17-ethanol-ccsd-t", official.ccsd, "ethanol_ccsd_t.zip", "90")],
)  # fmt: skip
def test_a_local_copy_has_as_many_structures_as_the_set(
    folder: Path, name: str, make: Callable[[Path], object], file: str, count: str
) -> None:
    make(folder / file)
    changes = {"frames": SETS[name].frames, "sizes": (30, 10)}
    with pytest.raises(CovariumError, match=rf"{file} is a local copy with {count}.*has [\d,]+: .*covarium train"):
        getting.get(small(name, **changes))
    assert not (folder / "downloads.lock.json").exists(), "the right file may come yet"


def test_a_local_copy_that_changes_is_told(folder: Path) -> None:
    path = folder.parent / "md17_toluene.npz"
    folder.mkdir(exist_ok=True)
    official.md17(path, 60)
    one = small("md17-toluene", sizes=(30, 10))
    got = getting.get(one)
    assert got.card["sources"][0]["came"] == "local copy"
    shutil.rmtree(got.folder)
    official.md17(path, 61)
    with pytest.raises(CovariumError, match="when md17_toluene.npz first came it had"):
        getting.get(one)


@pytest.mark.parametrize("name", ["md17-ethanol", "water"])
def test_empty_files_are_told(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """EOFError is what the option parser takes for a closed terminal."""
    if name == "water":
        official.water(folder)
    for source in SETS[name].sources:
        if source.name.endswith(("npz", "energy.npy")):
            (folder / source.name).write_bytes(b"")
    assert call("data", "get", name) == 2
    assert "is not the official file, or damaged: No data left in file" in capsys.readouterr().err


def test_archives_write_only_where_they_are_told(tmp_path: Path) -> None:
    for name in ("../evil.h5", "/evil.h5", "a/../../evil.h5"):
        with pytest.raises(CovariumError, match="leads out of the archive"):
            unpack(official.tar(tmp_path / "a.tar", {name: b"x"}, ""), tmp_path / "in", "*.h5")
    assert not list(tmp_path.rglob("evil.h5"))
    with pytest.raises(CovariumError, match="two files called b.h5"):
        unpack(official.tar(tmp_path / "a.tar", {"x/b.h5": b"x", "y/b.h5": b"y"}, ""), tmp_path / "in", "*.h5")
    packed = official.tar(tmp_path / "a.tar.gz", {"b.h5": np.random.default_rng(0).bytes(200_000)}, "gz")
    packed.write_bytes(packed.read_bytes()[:-1000])
    with pytest.raises(CovariumError, match="damaged"):
        unpack(packed, tmp_path / "in", "*.h5")
    with pytest.raises(CovariumError, match="holds no \\*.csv"):
        unpack(official.tar(tmp_path / "a.tar", {"b.h5": b"x"}, ""), tmp_path / "in", "*.csv")

"""What goes into a conversion comes out of it, bit for bit, whatever format is between; and a killed one goes on."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spring_waters import waters

from covarium.data import Frame, read, store_writing, writers
from covarium.data.convert import convert
from covarium.data.formats import load
from covarium.data.store import Rest, Store
from covarium.data.store_writing import Writer
from covarium.errors import CovariumError
from covarium.files import replace_text

FORMATS = (".frames", ".extxyz", ".traj", ".db", ".aselmdb", ".npz", ".h5")
number = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: x + 0.0)  # no −0, which JSON and text keep as they like
text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).map(
    lambda word: "c" + word.strip()  # ASE strips texts, and takes those of digits for numbers
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Anything a set may hold: molecules and crystals, some labels, charges, frozen atoms, kinds."""
    n = draw(st.integers(2, 4))  # a single atom without forces would get zeros
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pbc = np.array(draw(st.sampled_from([(0, 0, 0), (1, 1, 1), (1, 1, 0)])), dtype=bool)
    cell = rng.normal(size=(3, 3)) + 5 * np.eye(3) if pbc.any() or draw(st.booleans()) else np.zeros((3, 3))
    labels: dict[str, np.ndarray] = {"energy": np.array(draw(number))}
    if draw(st.booleans()):
        labels["forces"] = rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-9, 3)
    if pbc.all() and draw(st.booleans()):
        half = rng.normal(size=(3, 3))
        labels["stress"] = half + half.T
    numbers, charge = rng.integers(1, 119, size=n), draw(st.sampled_from([0, 0, -1]))
    # a molecule of an even number of electrons has an even number of unpaired ones
    spin = (numbers.sum() - charge) % 2 + draw(st.sampled_from([0, 2])) if draw(st.booleans()) or charge else 0
    spin = (numbers.sum() - charge) % 2 if not pbc.any() and spin == 0 else spin
    return Frame(
        numbers=numbers, positions=rng.normal(size=(n, 3)) * 4, cell=cell, pbc=pbc, labels=labels,
        fixed=rng.random(n) < draw(st.sampled_from([0.0, 0.5])), charge=float(charge),
        spin=float(spin), config_type=draw(st.one_of(st.just(""), text)),
    )  # fmt: skip


@st.composite
def rests(draw: st.DrawFn, n: int, config_type: str) -> Rest:
    values = st.one_of(number, st.integers(-(10**9), 10**9), text, st.lists(number, min_size=2, max_size=3))
    info = draw(st.dictionaries(st.sampled_from(["level", "note", "gap", "with space"]), values, max_size=2))
    if config_type:
        info["config_type"] = config_type
    arrays = draw(st.sampled_from([{}, {"layer": np.arange(n)}, {"spread": np.arange(n * 3.0).reshape(n, 3) / 7}]))
    return Rest(info, arrays)


def write(path: Path, pairs: list[tuple[Frame, Rest]]) -> None:
    writer = Writer(path)
    for frame, rest in pairs:
        writer.append(frame, rest)
    writer.finish(theory="", group=None, notes=[], left_out=[])
    writer.close()


def assert_equal(store: Store, pairs: list[tuple[Frame, Rest]]) -> None:
    assert len(store) == len(pairs)
    for k, (frame, rest) in enumerate(pairs):
        found = store.frame(k)
        assert found.labels.keys() == frame.labels.keys()
        same = [(found.labels[name], label) for name, label in frame.labels.items()]
        same += [(getattr(found, x), getattr(frame, x)) for x in ("numbers", "positions", "cell", "pbc", "fixed")]
        for one, other in same:
            np.testing.assert_array_equal(one, other)
        assert (found.charge, found.spin, found.config_type) == (frame.charge, frame.spin, frame.config_type)
        beside = {**store.rest(k).info, **store.rest(k).arrays}
        assert beside.keys() == {**rest.info, **rest.arrays}.keys()
        for name, value in {**rest.info, **rest.arrays}.items():
            np.testing.assert_array_equal(beside[name], value, err_msg=name)


@pytest.mark.parametrize("suffix", FORMATS[1:])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_there_and_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("trip")
    made = data.draw(st.lists(frames(), min_size=1, max_size=4))
    if suffix == ".extxyz":
        # where one frame alone lacks forces, its file has no key to take them from: the labels must be the same
        made = [frame for frame in made if frame.labels.keys() == made[0].labels.keys()]
    pairs = [(frame, data.draw(rests(len(frame.numbers), frame.config_type))) for frame in made]
    write(folder / "a.frames", pairs)
    convert(folder / "a.frames", folder / f"b{suffix}")
    # what random numbers tell of their units is wrong: they are given
    convert(folder / f"b{suffix}", folder / "c.frames", units={"energy": "eV", "length": "Å"})
    assert_equal(Store(folder / "c.frames"), pairs)


def rich(count: int) -> list[Atoms]:
    """Waters in a cell, with everything that a file may say of them."""
    images = waters(count)
    for k, atoms in enumerate(images):
        atoms.calc = SinglePointCalculator(
            atoms, energy=atoms.calc.results["energy"], forces=atoms.calc.results["forces"], free_energy=-14.0 - k
        )
        atoms.info |= {
            "config_type": f"kind {k % 3}",
            "mol": f"m{k % 4}",
            "functional": "PBE",
            "dipole_au": [0.1, k, 0.0],
        }
        atoms.set_tags([0, 1, 2])
        atoms.new_array("spread", np.full((3, 2), k / 7))
    return images


@pytest.mark.parametrize("first", FORMATS[1:])
def test_from_format_to_format(tmp_path: Path, first: str) -> None:
    """A chain through two foreign formats ends in the same set as the direct way."""
    ase.io.write(tmp_path / "a.traj", rich(7))
    convert(tmp_path / "a.traj", tmp_path / "direct.frames")
    convert(tmp_path / "a.traj", tmp_path / f"one{first}")
    direct = Store(tmp_path / "direct.frames")
    assert direct.header["theory"] == "functional PBE"
    second = FORMATS[1:][FORMATS.index(first) % 6]  # the next one, and after the last the first
    convert(tmp_path / f"one{first}", tmp_path / f"two{second}")
    convert(tmp_path / f"two{second}", tmp_path / "end.frames")
    assert_equal(Store(tmp_path / "end.frames"), [(direct.frame(k), direct.rest(k)) for k in range(7)])
    for path in (tmp_path / f"two{second}", tmp_path / "end.frames"):
        assert [frame.group for frame in read([path]).frames] == [f"m{k % 4}" for k in range(7)]


def test_units_are_converted_once_and_other_labels_stay_apart(tmp_path: Path) -> None:
    images = waters(6)
    for atoms in images:
        results = atoms.calc.results
        atoms.info |= {"REF_energy": results["energy"] / 27.211386245988, "energy_low": -1.0, "units": "Hartree, Bohr"}
        atoms.info["energies"] = 5.0  # a usual name, and another quantity
        atoms.positions /= 0.529177210903
        atoms.calc = None
    ase.io.write(tmp_path / "a.extxyz", images)
    with pytest.raises(CovariumError, match="energy under several keys.*data.keys.energy="):
        convert(tmp_path / "a.extxyz", tmp_path / "a.frames")
    assert not (tmp_path / "a.frames").exists() and not (tmp_path / "a.frames.partial").exists()
    convert(tmp_path / "a.extxyz", tmp_path / "a.frames", keys={"energy": "REF_energy"})
    convert(tmp_path / "a.frames", tmp_path / "b.extxyz")
    for frame, atoms in zip(read([tmp_path / "b.extxyz"], need=["energy"]).frames, waters(6), strict=True):
        assert frame.labels["energy"] == pytest.approx(atoms.calc.results["energy"], abs=1e-6)
        np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-7)
    assert Store(tmp_path / "a.frames").rest(0).info == {"energy_low": -1.0, "original_energies": 5.0}


def test_refusals_leave_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ase.io.write(tmp_path / "a.extxyz", waters(5))
    (tmp_path / "b.frames").mkdir()
    with pytest.raises(CovariumError, match="'.*b.frames' exists already"):
        convert(tmp_path / "a.extxyz", tmp_path / "b.frames")
    with pytest.raises(CovariumError, match=r"no known format; did you mean '.frames'\?"):
        convert(tmp_path / "a.extxyz", tmp_path / "b.frame")
    with pytest.raises(CovariumError, match="data.keys.enrgy is unknown; did you mean 'energy'"):
        convert(tmp_path / "a.extxyz", tmp_path / "c.frames", keys={"enrgy": "E"})
    renamed = waters(3)
    for atoms in renamed:
        atoms.info["E"] = atoms.calc.results["energy"]
        atoms.calc = None
    ase.io.write(tmp_path / "a.extxyz", renamed, append=True)
    monkeypatch.setattr("covarium.data.convert.SAMPLE", 5)  # what comes later is seen one by one
    with pytest.raises(CovariumError, match=r"frame 5 has energy under 'E', the frames before have it under 'energy'"):
        convert(tmp_path / "a.extxyz", tmp_path / "c.frames")


def test_missing_labels_stay_missing_and_training_says_so(tmp_path: Path) -> None:
    images = waters(5)
    images[3].calc = SinglePointCalculator(images[3], energy=-14.0)
    ase.io.write(tmp_path / "a.traj", images)
    convert(tmp_path / "a.traj", tmp_path / "a.frames")
    with pytest.raises(CovariumError, match="4 of 5 frames have forces"):
        read([tmp_path / "a.frames"])
    reading = read([tmp_path / "a.frames"], need=["energy"])
    assert reading.left_out == ["forces is left out. 4 of 5 frames have forces"]
    assert set(reading.frames[0].labels) == {"energy"}


def small_blocks(source: Path, out: Path) -> None:
    before, store_writing.BLOCK = store_writing.BLOCK, 7
    try:
        convert(source, out)
    finally:
        store_writing.BLOCK = before


FORK = multiprocessing.get_context("fork")


def calls_of(work: Callable[[], None]) -> int:
    """How many functions are called in ``work``."""
    count = itertools.count()
    sys.setprofile(lambda frame, event, what: next(count) if event == "call" else None)
    try:
        work()
    finally:
        sys.setprofile(None)
    return next(count)


def killed(work: Callable[[], None], calls: int, since: Callable[[], bool] = lambda: True) -> bool:
    """``work`` in a process of its own, killed at a call of a function, so many calls after ``since`` holds; whether it
    was.

    Calls are counted and not seconds, so that the moments are the same on a machine that is busy with other things.
    """

    def watched() -> None:
        left, begun = calls, False

        def one_more(frame: FrameType, event: str, what: object) -> None:
            nonlocal left, begun
            if event == "call":
                begun = begun or since()
                left -= begun
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(one_more)
        work()
        sys.setprofile(None)

    process = FORK.Process(target=watched)
    process.start()
    process.join(100)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def changed(path: Path) -> Callable[[], bool]:
    """Whether the file has been replaced since now."""
    before = os.stat(path).st_ino if path.exists() else None
    return lambda: path.exists() and os.stat(path).st_ino != before


def test_a_killed_conversion_goes_on_to_an_identical_set(tmp_path: Path) -> None:
    """Killed again and again at random moments, with bytes left over that no journal knows of."""
    source, out = tmp_path / "a.extxyz", tmp_path / "b.frames"
    ase.io.write(source, rich(150))
    calls = calls_of(lambda: small_blocks(source, tmp_path / "whole.frames"))
    rng, stage = np.random.default_rng(), out.with_name("b.frames.partial")
    journal = stage / "journal.jsonl"
    for _ in range(6):
        size = journal.stat().st_size if journal.exists() else 0
        further = lambda size=size: journal.exists() and journal.stat().st_size > size  # noqa: E731
        assert killed(lambda: small_blocks(source, out), rng.integers(calls // 12), further)
        with (stage / "positions.bin").open("ab") as file:
            file.write(b"half a block")
        with journal.open("ab") as file:
            file.write(b'{"totals": {"fra')
    small_blocks(source, out)
    for path in sorted((tmp_path / "whole.frames").iterdir()):
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


@pytest.mark.parametrize("suffix", [".extxyz", ".traj", ".db", ".aselmdb", ".npz", ".h5"])
def test_a_last_step_that_is_killed(tmp_path: Path, suffix: str) -> None:
    """From our own set to another format: extended xyz goes on after the blocks it has, the others begin anew; what
    comes out is whole, the same, and alone in its folder."""
    source, folder = tmp_path / "a.extxyz", tmp_path / "new"
    ase.io.write(source, rich(120))
    small_blocks(source, tmp_path / "own.frames")
    folder.mkdir()
    out = folder / f"b{suffix}"
    calls = calls_of(lambda: convert(tmp_path / "own.frames", tmp_path / f"whole{suffix}"))
    journal = folder / f"{out.name}.partial" / f"{out.name}.journal"
    rng, continued = np.random.default_rng(), suffix == ".extxyz"
    for k in range(4):
        begun = changed(journal) if continued else (folder / f".{out.name}.tmp").exists
        part = 16 if continued else 2  # of all calls, at most, after what it waits for
        assert killed(lambda: convert(tmp_path / "own.frames", out), rng.integers(calls // part), begun)
        assert not out.exists()
        if continued:
            assert json.loads(journal.read_text())["blocks"] > k  # at least one more each time
    convert(tmp_path / "own.frames", out)
    with pytest.raises(CovariumError, match="exists already"):
        convert(tmp_path / "own.frames", out)
    assert [path.name for path in folder.iterdir()] == [out.name]
    if suffix == ".db":  # holds the time of writing
        assert [r.values["energy"] for r in load(out, {}, None)] == [
            r.values["energy"] for r in load(tmp_path / "whole.db", {}, None)
        ]
    else:
        assert out.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("source", "target"), [("own.frames", "b.extxyz"), ("own.frames", "b.npz"), ("a.traj", "b.db")]
)
def test_two_conversions_into_one_file(
    tmp_path: Path, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is refused as long as the first is at work, and the first one's file is whole."""
    ase.io.write(tmp_path / "a.traj", rich(150))
    small_blocks(tmp_path / "a.traj", tmp_path / "own.frames")
    out = tmp_path / target
    at_work, go_on = FORK.Event(), FORK.Event()
    write = writers.WRITERS[out.suffix]

    def held(path: Path, store: Store) -> None:
        at_work.set()
        assert go_on.wait(100)
        write(path, store)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[convert.__module__], "WRITERS", {**writers.WRITERS, out.suffix: held})
        process = FORK.Process(target=convert, args=(tmp_path / source, out))
        process.start()
    assert at_work.wait(100)
    with pytest.raises(CovariumError, match="another process is writing"):
        convert(tmp_path / source, out)
    go_on.set()
    while process.is_alive():
        with pytest.raises(CovariumError, match="another process is writing|exists already"):
            convert(tmp_path / source, out)
        time.sleep(0.001)
    process.join()
    assert process.exitcode == 0
    assert len(load(out, {}, None)) == 150
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.traj", target, "own.frames"]


def test_a_text_half_written_of_another_set_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writing, "BLOCK", 2)
    for name, count in (("a", 6), ("b", 9)):
        ase.io.write(tmp_path / f"{name}.extxyz", rich(count)[-6:])
        convert(tmp_path / f"{name}.extxyz", tmp_path / f"{name}.frames")

    def stop(path: Path, text: str) -> None:
        replace_text(path, text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writers, "replace_text", stop)
        convert(tmp_path / "a.frames", tmp_path / "out.xyz")
    convert(tmp_path / "b.frames", tmp_path / "out.xyz")
    convert(tmp_path / "b.frames", tmp_path / "whole.xyz")
    assert (tmp_path / "out.xyz").read_bytes() == (tmp_path / "whole.xyz").read_bytes()


def test_another_conversion_and_a_changed_source_are_not_continued(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.extxyz", waters(5))
    writer = Writer(tmp_path / "b.frames.partial")
    writer.close()
    with pytest.raises(CovariumError, match="was not made by a conversion"):
        convert(tmp_path / "a.extxyz", tmp_path / "b.frames")
    (tmp_path / "b.frames.partial" / "conversion.json").write_text("{}")
    with pytest.raises(CovariumError, match="belongs to another conversion, or its source has changed; remove it"):
        convert(tmp_path / "a.extxyz", tmp_path / "b.frames")


@pytest.mark.parametrize("suffix", [".extxyz", ".h5", ".npz", ".aselmdb"])
def test_same_bytes_every_time(tmp_path: Path, suffix: str) -> None:
    ase.io.write(tmp_path / "a.traj", rich(5))
    for name in ("one", "two"):
        convert(tmp_path / "a.traj", tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.traj", f"one{suffix}", f"two{suffix}"])


def named_like_structures() -> list[Atoms]:
    found = waters(3)
    for k, atoms in enumerate(found):
        atoms.info |= {"numbers": "z", "positions": f"p{k}", "cell": "x", "momenta": 3, "id": 8, "age": 1.5}
    return found


@pytest.mark.parametrize("suffix", FORMATS)
def test_values_with_the_names_of_a_structure(tmp_path: Path, suffix: str) -> None:
    ase.io.write(tmp_path / "a.traj", named_like_structures())
    first = convert(tmp_path / "a.traj", tmp_path / "a.frames")
    assert not first.left_out
    convert(tmp_path / "a.frames", tmp_path / f"b{suffix}", limit=3 if suffix == ".frames" else None)
    convert(tmp_path / f"b{suffix}", tmp_path / "c.frames")
    for k in range(3):
        rest = Store(tmp_path / "c.frames").rest(k)
        assert rest.info == {"numbers": "z", "positions": f"p{k}", "cell": "x", "momenta": 3, "id": 8, "age": 1.5}
        assert not rest.arrays


@pytest.mark.parametrize("suffix", FORMATS)
def test_types_and_places_are_kept_or_listed(tmp_path: Path, suffix: str) -> None:
    """Truth values, arrays of one number, lists, and what belongs to atoms and not to the whole."""
    atoms = waters(1)[0]
    atoms.info |= {"flag": True, "one": np.array([1.0]), "seven": np.array([7]), "list": [1, 2], "words": ["a", "b c"]}
    atoms.set_masses([16.0, 1.0, 2.0])
    atoms.set_momenta(np.arange(9.0).reshape(3, 3))
    ase.io.write(tmp_path / "a.traj", atoms)
    convert(tmp_path / "a.traj", tmp_path / "a.frames")
    made = convert(tmp_path / "a.frames", tmp_path / f"b{suffix}", limit=1 if suffix == ".frames" else None)
    convert(tmp_path / f"b{suffix}", tmp_path / "c.frames")
    was, now = (Store(tmp_path / name).rest(0) for name in ("a.frames", "c.frames"))
    for part in ("info", "arrays"):
        before, after = dict(getattr(was, part)), dict(getattr(now, part))
        assert before.keys() == after.keys()
        for key, value in before.items():
            if suffix == ".extxyz" and key == "list":
                assert after[key].tolist() == value
                continue
            assert type(after[key]) is type(value) and np.shape(after[key]) == np.shape(value), key
            assert np.array_equal(after[key], value), key
    listed = ["'list': a list, read back as an array, in 1 frames"] if suffix == ".extxyz" else []
    assert made.left_out == listed


def test_a_value_that_another_one_hides_is_listed(tmp_path: Path) -> None:
    atoms = waters(1)[0]
    atoms.set_tags([1, 2, 3])
    atoms.info["tags"] = "of the whole"
    ase.io.write(tmp_path / "a.traj", atoms)
    left_out = convert(tmp_path / "a.traj", tmp_path / "a.frames").left_out
    assert left_out == [
        "'tags' of the whole structure: its atoms or its labels have another value of that name, in 1 frames"
    ]


def test_a_stress_is_none_of_three_atoms(tmp_path: Path) -> None:
    """[frames, 3, 3] is as [frames, atoms, 3] where the largest molecule has three."""
    stress = np.arange(18.0).reshape(2, 3, 3)
    stress = stress + stress.transpose(0, 2, 1)
    numbers = np.array([[8, 1, 0], [8, 1, 1]])
    positions = np.random.default_rng(0).normal(size=(2, 3, 3))
    cell = 9 * np.eye(3)
    np.savez(tmp_path / "a.npz", R=positions, z=numbers, cell=cell, energy=np.zeros(2), forces=positions, stress=stress)
    units = {"energy": "eV", "length": "angstrom"}
    found = read([tmp_path / "a.npz"], units=units)
    for frame, label in zip(found.frames, stress, strict=True):
        np.testing.assert_array_equal(frame.labels["stress"], label)

"""A set that stays in its files trains, splits and is measured as the same frames in memory, to the bit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spring_waters import frame

from covarium.data import (
    BalancedSampler,
    Frame,
    FrameDataset,
    StoredFrames,
    data_set,
    element_references,
    read,
    split,
    statistics,
    store_writing,
)  # fmt: skip
from covarium.data.store import Rest, Store
from covarium.data.store_writing import Writer
from covarium.errors import CovariumError
from covarium.systems import GraphSpec

SPEC = GraphSpec(3.0)
FORMULAS = ("OHH", "CO", "CHHHH", "OO", "H", "NHHH", "C" * 9 + "O" * 61)


def made(count: int, seed: int = 0) -> list[Frame]:
    """Frames of many kinds: molecules, crystals, isolated atoms, frozen atoms."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(count):
        formula = FORMULAS[rng.integers(len(FORMULAS))]
        n = len(frame(formula).numbers)
        box: dict = (
            {"cell": np.eye(3) * 4, "pbc": np.ones(3, bool)} if formula in ("CO", "OO") and rng.random() < 0.5 else {}
        )
        positions = rng.normal(scale=1.2 * n ** (1 / 3), size=(n, 3))
        labels = {"energy": np.array(rng.normal() * 3 - 100.0 * n), "forces": rng.normal(size=(n, 3))}
        if formula == "H" and not box:
            labels["energy"] = np.array(-13.6)
        one = frame(formula, positions=positions, labels=labels, fixed=rng.random(n) < 0.2, index=k, **box,
                    config_type=f"m{k // 3}", group=f"m{k // 3}")  # fmt: skip
        frames.append(one)
    return frames


def stored(folder: Path, frames: list[Frame], *, group: str | None = "config_type", block: int = 5) -> StoredFrames:
    store_writing.BLOCK, before = block, store_writing.BLOCK
    writer = Writer(folder)
    for one in frames:
        writer.append(one, Rest({"config_type": one.config_type}, {}))
    writer.finish(theory="", group=group, notes=[], left_out=[])
    writer.close()
    store_writing.BLOCK = before
    return StoredFrames([Store(folder)], ("energy", "forces"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(20, 60), seed=st.integers(0, 10**6), block=st.integers(1, 70),
    by=st.sampled_from(["auto", "group", "composition", "frame"]), grouped=st.booleans(),
)  # fmt: skip
def test_split_and_statistics_are_those_in_memory(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, block: int, by: str, grouped: bool
) -> None:
    frames = made(count, seed)
    in_files = stored(
        tmp_path_factory.mktemp("s") / "a.frames", frames, group="config_type" if grouped else None, block=block
    )
    if not grouped:
        frames = [Frame(**{**vars(one), "group": ""}) for one in frames]
    chosen = []
    for part in (frames, in_files):
        try:
            chosen.append(split(part, valid=4, test=3, seed=seed, by=by))  # type: ignore[arg-type]
        except CovariumError as error:
            chosen.append(str(error))  # type: ignore[arg-type]
    assert chosen[0] == chosen[1]
    one = statistics(FrameDataset(frames, SPEC, torch.float64))
    other = statistics(data_set(in_files, SPEC, torch.float64, 0)[0])
    assert one.elements == other.elements and one.references.source == other.references.source
    assert one.references.notes == other.references.notes
    for name in ("force_rms", "energy_std_per_atom", "average_degree", "average_atoms"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-10), name
    assert other.references.energies == pytest.approx(one.references.energies, rel=1e-9, abs=1e-7)
    if block >= count:  # one block is one pass over the same arrays
        assert one == other


def test_references_of_the_plain_least_squares(tmp_path: Path) -> None:
    """Gathered block by block, the fit is numpy's over all frames at once."""
    frames = [one for one in made(60) if len(one.numbers) > 1]
    elements = sorted({int(z) for one in frames for z in one.numbers})
    counts = np.array([[(one.numbers == z).sum() for z in elements] for one in frames], dtype=float)
    energies = np.array([float(one.labels["energy"]) for one in frames])
    expected = np.linalg.lstsq(counts, energies, rcond=None)[0]
    found = element_references(stored(tmp_path / "a.frames", frames), "least_squares").energies
    np.testing.assert_allclose([found[z] for z in elements], expected, rtol=1e-12)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_those_in_memory(tmp_path: Path, workers: int) -> None:
    frames = made(40)
    in_files = stored(tmp_path / "a.frames", frames)
    memory = FrameDataset(frames, SPEC, torch.float32)
    data, notes = data_set(in_files, SPEC, torch.float32, workers)
    assert not notes
    np.testing.assert_array_equal(data.costs(), memory.costs())
    batches = BalancedSampler(memory.costs(), 7, seed=3).batches(0)
    for one, other in zip(data.stream(batches), map(memory.batch, batches), strict=True):
        for name, value in vars(other.system).items():
            assert torch.equal(getattr(one.system, name), value) and getattr(one.system, name).dtype == value.dtype, (
                name
            )
        assert one.labels.keys() == other.labels.keys() and torch.equal(one.free, other.free)
        assert all(torch.equal(one.labels[name], label) for name, label in other.labels.items())
        assert [index for _, index in one.sources] == [index for _, index in other.sources]
        assert {file for file, _ in one.sources} == {str(tmp_path / "a.frames")}


def test_two_ranks_see_disjoint_shards(tmp_path: Path) -> None:
    data, _ = data_set(stored(tmp_path / "a.frames", made(53)), SPEC, torch.float32, 0)
    shares = [BalancedSampler(data.costs(), 8, 0, rank=rank, world=2).batches(1) for rank in (0, 1)]
    seen = [[index for batch in data.stream(filter(None, share)) for _, index in batch.sources] for share in shares]
    assert not set(seen[0]) & set(seen[1])
    assert sorted(seen[0] + seen[1]) == list(range(53))


def test_edges_are_counted_once_for_each_neighbourhood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = made(30)
    in_files = stored(tmp_path / "a.frames", frames)
    for spec in (SPEC, GraphSpec(1.5), GraphSpec(3.0, "nearest", 2)):
        told: list[int] = []
        counts = data_set(in_files, spec, torch.float32, 2, lambda done, _, told=told: told.append(done))[
            0
        ].edge_counts()
        np.testing.assert_array_equal(counts, FrameDataset(frames, spec, torch.float32).edge_counts())
        assert told == [30]
    again: list[int] = []
    data_set(in_files.take(np.array([3, 9])), SPEC, torch.float32, 0, lambda done, _: again.append(done))
    assert not again
    kept = next((tmp_path / "a.frames").glob("edges-*.npz"))
    kept.write_bytes(kept.read_bytes()[:-9])
    counts = data_set(in_files, SPEC, torch.float32, 0)[0].edge_counts()
    np.testing.assert_array_equal(counts, FrameDataset(frames, SPEC, torch.float32).edge_counts())


def test_bad_frames_are_named_by_the_workers(tmp_path: Path) -> None:
    frames = made(20)
    in_files = stored(tmp_path / "a.frames", frames)
    data, _ = data_set(in_files, SPEC, torch.float32, 2)
    place = tmp_path / "a.frames" / "positions.bin"
    content = bytearray(place.read_bytes())
    content[-8:] = np.array([np.nan]).tobytes()
    place.write_bytes(bytes(content))
    with pytest.raises(CovariumError, match=r"a\.frames, frame 19: positions\[\d+, 2\] is nan"):
        list(data.stream([[0, 1], [18, 19]]))
    with pytest.raises(CovariumError, match=r"a\.frames, frames 15 to 19: they do not match their sha256"):
        in_files.verify()


def test_several_sets_are_one(tmp_path: Path) -> None:
    frames = made(25)
    for k, part in enumerate((frames[:9], frames[9:])):
        stored(tmp_path / f"{k}.frames", part)
    reading = read([tmp_path / "0.frames", tmp_path / "1.frames"])
    assert len(reading.frames) == 25 and reading.frames[9].source.endswith("1.frames")
    assert [float(one.labels["energy"]) for one in reading.frames] == [float(one.labels["energy"]) for one in frames]
    assert len(read([tmp_path / "0.frames", tmp_path / "1.frames"], limit=4).frames) == 8
    data, _ = data_set(reading.frames, SPEC, torch.float32, 0)
    np.testing.assert_array_equal(data.costs(), FrameDataset(frames, SPEC, torch.float32).costs())


def test_counts_that_cannot_be_kept_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_files = stored(tmp_path / "a.frames", made(10))
    if os.geteuid() == 0:

        def refuse(*_: object) -> None:
            raise CovariumError("cannot write here: Permission denied")

        monkeypatch.setattr("covarium.files.os.replace", refuse)
    else:
        (tmp_path / "a.frames").chmod(0o500)
    data, notes = data_set(in_files, SPEC, torch.float32, 0)
    (tmp_path / "a.frames").chmod(0o700)
    assert len(data.edge_counts()) == 10 and "counts them again" in notes[0]

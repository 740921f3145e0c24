"""Parts are disjoint, complete, reproducible, and leak nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spring_waters import frame

from covarium.data import Frame, Split, split
from covarium.errors import CovariumError


def assert_partition(parts: Split, count: int) -> None:
    assert sorted([*parts.train, *parts.valid, *parts.test]) == list(range(count))
    assert parts.train and parts.valid


@given(count=st.integers(2, 60), valid=st.integers(1, 20), test=st.integers(0, 20), seed=st.integers(0, 5))
def test_single_frames(count: int, valid: int, test: int, seed: int) -> None:
    frames = [frame("OHH", index=k) for k in range(count)]
    if valid + test >= count:
        with pytest.raises(CovariumError, match="must remain for training"):
            split(frames, valid=valid, test=test, seed=seed)
        return
    parts = split(frames, valid=valid, test=test, seed=seed)
    assert_partition(parts, count)
    assert (len(parts.valid), len(parts.test)) == (valid, test)
    assert parts == split(frames, valid=valid, test=test, seed=seed)


def test_defaults() -> None:
    parts = split([frame("OHH")] * 1000)
    assert (len(parts.train), len(parts.valid), len(parts.test)) == (950, 50, 0)
    assert split([frame("OHH")] * 1000, seed=1).valid != parts.valid
    assert len(split([frame("H2")] * 30000).valid) == 1000
    assert len(split([frame("OHH")] * 100, valid=0.1, test=0.2).test) == 20


@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=20), seed=st.integers(0, 3))
def test_groups_stay_together(sizes: list[int], seed: int) -> None:
    groups = [str(k) for k, size in enumerate(sizes) for _ in range(size)]
    frames = [frame("OHH", group=group) for group in groups]
    parts = split(frames, valid=0.2, seed=seed)
    assert_partition(parts, len(frames))
    named = [{groups[k] for k in part} for part in (parts.train, parts.valid)]
    assert not named[0] & named[1]


def test_many_compositions_stay_together() -> None:
    frames = [frame(f"C{n}H{n}") for n in range(1, 21) for _ in range(5)]
    parts = split(frames, valid=10)
    assert "composition" in parts.note
    assert not {len(frames[k].numbers) for k in parts.valid} & {len(frames[k].numbers) for k in parts.train}
    assert len(parts.valid) == 10


def test_every_element_occurs_in_training() -> None:
    frames: list[Frame] = [frame(s, group=s) for s in ("CO", "CN", "CH", "CS", "COH", "CNH") for _ in range(3)]
    for seed in range(10):
        parts = split(frames, seed=seed, valid=3)
        trained, judged = (np.concatenate([frames[k].numbers for k in part]) for part in (parts.train, parts.valid))
        assert np.isin(judged, trained).all()
    alone = [frame(s, group=s) for s in ("C2", "N2", "O2") for _ in range(4)]
    assert "lack an element" in split(alone).note
    with pytest.raises(CovariumError, match="no draw by group leaves every element"):
        split(alone, by="group")


def test_isolated_atoms_are_trained_on() -> None:
    frames = [frame("H"), *[frame("OHH")] * 5, frame("O")]
    for seed in range(5):
        assert {0, 6} <= set(split(frames, valid=4, seed=seed).train)


def test_refusals() -> None:
    with pytest.raises(CovariumError, match="cannot be split"):
        split([frame("OHH")])
    with pytest.raises(CovariumError, match="fraction below 1.0"):
        split([frame("OHH")] * 5, valid=1.0)

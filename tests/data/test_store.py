"""Our own format: whatever is done to its files is found, and a writer never spoils them."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spring_waters import frame

from covarium.data import StoredFrames, read, store_writing
from covarium.data.columns import columns
from covarium.data.store import COLUMNS, Rest, Store, header_hash
from covarium.data.store_writing import Writer
from covarium.errors import CovariumError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten frames in blocks of four."""
    monkeypatch.setattr(store_writing, "BLOCK", 4)
    folder = tmp_path / "a.frames"
    writer = Writer(folder)
    for k in range(10):
        writer.append(frame("OHH" if k % 2 else "CO", -10.0 - k, index=k), Rest({"config_type": f"t{k}"}, {}))
    writer.finish(theory="PBE", group="config_type", notes=[], left_out=[])
    writer.close()
    return folder


def test_frames_and_blocks(path: Path) -> None:
    frames = StoredFrames([Store(path)], ("energy",))
    assert len(frames) == 10 and frames[-1].labels == {"energy": -19.0} and frames[3].group == "t3"
    assert [f.index for f in frames[2:5]] == [2, 3, 4]
    some = frames.take(np.array([0, 1, 5, 9]))
    parts = list(columns(some))
    assert [part.index.tolist() for part in parts] == [[0, 1], [2], [3]]
    assert np.concatenate([part.label("energy") for part in parts]).tolist() == [-10.0, -11.0, -15.0, -19.0]
    assert np.concatenate([part.numbers for part in parts]).tolist() == [6, 8, 8, 1, 1, 8, 1, 1, 8, 1, 1]


@pytest.mark.parametrize("name", [f"{name}.bin" for name in COLUMNS] + ["journal.jsonl", "header.json"])
def test_a_truncated_file_is_named_with_the_remedy(path: Path, name: str) -> None:
    file = path / name
    content = file.read_bytes()
    if not content:
        pytest.skip("nothing in it")
    file.write_bytes(content[:-1])
    with pytest.raises(CovariumError, match=r"a\.frames.*(truncated|not the one|damaged).*; copy it again, or repeat"):
        Store(path)
    file.unlink()
    with pytest.raises(CovariumError, match=r"a\.frames"):
        Store(path)


@pytest.mark.parametrize("name", list(COLUMNS))
def test_a_flipped_bit_is_found_with_its_frames(path: Path, name: str) -> None:
    file = path / f"{name}.bin"
    content = bytearray(file.read_bytes())
    if not content:
        pytest.skip("nothing in it")
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))
    with pytest.raises(CovariumError, match=r"a\.frames, frames 4 to 7: they do not match their sha256.*copy it again"):
        for block in range(3):
            Store(path).verify(block)


def test_unfinished_and_foreign_sets(path: Path, tmp_path: Path) -> None:
    (path / "header.json").unlink()
    with pytest.raises(CovariumError, match="is not finished; repeat the command"):
        read([path])
    (tmp_path / "empty.frames").mkdir()
    with pytest.raises(CovariumError, match="a folder without .aselmdb, .lmdb, .h5"):
        read([tmp_path / "empty.frames"])


def test_what_belongs_to_the_conversion_is_refused_afterwards(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CovariumError, match="has its keys and units from its conversion; leave out data.keys.energy"):
        read([path], keys={"energy": "E"})
    (tmp_path / "b.xyz").write_text("1\n\nH 0 0 0\n")
    with pytest.raises(CovariumError, match="b.xyz cannot be read together.*covarium data convert"):
        read([path, tmp_path / "b.xyz"])


@pytest.mark.parametrize("label", [{"need": ["energy"]}, {"need": ["property"], "keys": {"property": "dose"}}])
def test_changed_bytes_are_found_before_anything_is_read(tmp_path: Path, label: dict[str, Any]) -> None:
    writer = Writer(tmp_path / "a.frames")
    for k in range(10):
        writer.append(frame("OHH", -10.0 - k, index=k), Rest({"dose": k + 1.0}, {}))
    writer.finish(theory="", group=None, notes=[], left_out=[])
    writer.close()
    assert len(read([tmp_path / "a.frames"], **label).frames) == 10
    file = tmp_path / "a.frames" / "positions.bin"
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    with pytest.raises(CovariumError, match=r"a\.frames, frames 0 to 9: they do not match their sha256"):
        read([tmp_path / "a.frames"], **label)


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [3], -1, {"frame": "x"}, {"frame": -1, "atom": 0, "rest": 0}])
@pytest.mark.parametrize("key", ["totals", "elements", "labels", "nonzero", "notes", "left_out", "theory", "journal",
                                 "group", "version", "kind"])  # fmt: skip
def test_a_header_of_wrong_types_with_a_sound_hash(path: Path, key: str, value: object) -> None:
    """Whoever makes a hash may write anything before it."""
    header = json.loads((path / "header.json").read_text())
    header[key] = value
    (path / "header.json").write_text(json.dumps(header | {"sha256": header_hash(header)}))
    try:
        len(read([path], need=["energy"]).frames[-1].numbers)
    except CovariumError as error:
        assert str(path) in str(error)


def test_forces_that_were_lost_are_refused(path: Path) -> None:
    with pytest.raises(CovariumError, match="forces is exactly zero in all frames"):
        read([path], need=["forces"])


def _write(folder: Path, answer: object) -> None:
    try:
        Writer(folder)
        answer.put("written")  # type: ignore[attr-defined]
    except CovariumError as error:
        answer.put(str(error))  # type: ignore[attr-defined]


def test_two_writers_are_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "a.frames")
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_write, args=(tmp_path / "a.frames", answer))
    process.start()
    assert "another process is writing" in answer.get(timeout=30)
    process.join()
    writer.close()


def test_memory_in_use_is_bounded(tmp_path: Path) -> None:
    """Reading much more than what may stay in memory leaves little there."""
    writer = Writer(tmp_path / "a.frames")
    rng = np.random.default_rng(0)
    for k in range(4000):
        one = frame("C" * 100, float(k))
        one.labels["forces"][:] = rng.normal(size=(100, 3))
        writer.append(one, Rest({}, {}))
    writer.finish(theory="", group=None, notes=[], left_out=[])
    writer.close()
    store = Store(tmp_path / "a.frames")

    def resident() -> int:
        inside, total = False, 0
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "a.frames" in line:
                inside = True
            elif inside and line.startswith("Rss:"):
                total, inside = total + int(line.split()[1]), False
        return total

    for k in range(len(store)):
        store.frame(k)
    store.release()
    assert store.column("positions").nbytes > 9e6 and resident() < 1000  # kB

"""Downloads from a server in this process: parts that go on, wrong and truncated files, no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from official_files import Server, serving

from covarium.data.download import LOCK, Source, fetch
from covarium.errors import CovariumError

CONTENT = np.random.default_rng(0).bytes(3 * 2**20 + 17)
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        one.files["/a.bin"] = CONTENT
        yield one


def source(server: Server, **about: object) -> Source:
    return Source(f"{server.url}/a.bin", "a.bin", **about)  # type: ignore[arg-type]


def test_a_file_comes_once_and_is_locked(server: Server, tmp_path: Path) -> None:
    said = []
    found = fetch(source(server, md5=MD5), tmp_path, progress=lambda done, total: said.append((done, total)))
    assert found.path.read_bytes() == CONTENT and found.sha256 == SHA256 and found.how == "downloaded"
    assert said[-1] == (len(CONTENT), len(CONTENT)) and sorted(said) == said
    locked = json.loads((tmp_path / LOCK).read_text())["a.bin"]
    assert locked == {"url": f"{server.url}/a.bin", "bytes": len(CONTENT), "md5": MD5, "sha256": SHA256}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", LOCK], "nothing else is left"
    assert fetch(source(server), tmp_path).how == "downloaded before" and len(server.asked) == 1
    damaged = bytearray(CONTENT)
    damaged[5] ^= 1
    (tmp_path / "a.bin").write_bytes(damaged)
    with pytest.raises(CovariumError, match="when a.bin first came"):
        fetch(source(server), tmp_path)
    with pytest.raises(CovariumError, match=f"published is {MD5}"):
        fetch(source(server, md5=MD5), tmp_path)


def test_another_content_at_a_later_download_is_refused(server: Server, tmp_path: Path) -> None:
    fetch(source(server), tmp_path).path.unlink()
    server.files["/a.bin"] = bytes(len(CONTENT))
    with pytest.raises(CovariumError, match=f"when a.bin first came it had {SHA256}.*remove its entry there"):
        fetch(source(server), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert json.loads((tmp_path / LOCK).read_text())["a.bin"]["sha256"] == SHA256
    (tmp_path / LOCK).unlink()
    assert fetch(source(server), tmp_path).path.read_bytes() == bytes(len(CONTENT))


def test_an_ended_download_goes_on(server: Server, tmp_path: Path) -> None:
    server.cut = 2**20
    found = fetch(source(server, md5=MD5), tmp_path, pause=0.0)
    assert found.sha256 == SHA256
    assert [asked for _, asked in server.asked] == ["", *(f"bytes={k * 2**20}-" for k in (1, 2, 3))]


def test_one_that_was_killed_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    (tmp_path / "a.bin.part.tag").write_text(server.tag)
    assert fetch(source(server), tmp_path).sha256 == SHA256
    assert server.asked == [("/a.bin", "bytes=1000-")]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_another_version_is_not_gone_on_with(server: Server, tmp_path: Path, ranges: bool) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / "a.bin.part.tag").write_text('"another"' if ranges else server.tag)
    server.ranges = ranges
    assert fetch(source(server), tmp_path).sha256 == SHA256 and len(server.asked) == 1


def test_a_part_that_is_too_long_begins_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * (len(CONTENT) + 5))
    (tmp_path / "a.bin.part.tag").write_text(server.tag)
    assert fetch(source(server), tmp_path, pause=0.0).sha256 == SHA256


def test_a_wrong_file_is_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CovariumError, match=f"gave a file with md5 {MD5}, published is {'0' * 32}"):
        fetch(source(server, md5="0" * 32), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_is_never_taken_for_whole(server: Server, tmp_path: Path) -> None:
    server.cut, server.ranges = 10_000, False
    with pytest.raises(CovariumError, match="ended after 10,000 of 3,145,745 bytes.* 10,000 bytes are kept"):
        fetch(source(server), tmp_path, pause=0.0)
    assert not (tmp_path / "a.bin").exists() and (tmp_path / "a.bin.part").stat().st_size == 10_000


def test_what_is_not_there(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CovariumError, match=r"answers 404 .*put it at .*b\.bin.*COVARIUM_DATA"):
        fetch(Source(f"{server.url}/b.bin", "b.bin"), tmp_path)
    assert len(server.asked) == 1, "it is not asked for again"


def test_no_network(tmp_path: Path) -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(CovariumError) as told:
        fetch(Source(f"{url}/a.bin", "a.bin"), tmp_path / "new", pause=0.0)
    for word in (url, "refused", str(tmp_path / "new" / "a.bin"), "COVARIUM_DATA"):
        assert word in str(told.value)
    assert not (tmp_path / "new").exists(), "no empty folder is left"


def test_other_addresses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CovariumError, match="not an http"):
        fetch(Source("file:///etc/passwd", "a.bin"), tmp_path)


def test_a_full_disk_is_foreseen(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CovariumError, match="needs 1,000,000,000,000,000,000 bytes"):
        fetch(source(server, size=10**18), tmp_path)
    assert server.asked == []


def test_a_local_copy_is_read_where_it_is(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.bin").write_bytes(CONTENT)
    local = (tmp_path / "absent" / "a.bin", tmp_path / "mine" / "a.bin")
    found = fetch(source(server, md5=MD5), tmp_path / "new", local=local)
    assert found.path == local[1] and found.how == "local copy" and server.asked == []
    with pytest.raises(CovariumError, match="mine/a.bin has md5"):
        fetch(source(server, md5="1" * 32), tmp_path / "new", local=local)

"""Results from other processes are those of this one, in order; and a process that dies says so."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from covarium.data import processes, read
from covarium.data.processes import ProcessStalled, ahead, apart
from covarium.errors import CovariumError


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_order_does_not_depend_on_the_workers(workers: int) -> None:
    def slow_at_first(k: int) -> int:
        time.sleep(0.02 if k == 0 else 0)
        return k * k

    assert list(ahead(slow_at_first, range(12), workers)) == [k * k for k in range(12)]
    assert list(ahead(slow_at_first, [], workers)) == []
    assert list(itertools.islice(ahead(slow_at_first, itertools.count(), workers), 7)) == [k * k for k in range(7)]
    assert not multiprocessing.active_children()


def test_large_items_and_results_do_not_block_each_other() -> None:
    items = [bytes(3_000_000) for _ in range(6)]
    assert [len(x) for x in ahead(lambda item: item * 2, items, 2)] == [6_000_000] * 6


def test_work_is_done_before_it_is_asked_for() -> None:
    done = multiprocessing.get_context("fork").Event()
    results = ahead(lambda k: done.set() if k == 1 else None, range(3), 2)
    next(results)
    assert done.wait(60)
    results.close()


def test_errors_arrive_as_they_are() -> None:
    def fails(k: int) -> int:
        if k == 2:
            raise CovariumError("frame 2 is bad")
        return 1 // k

    with pytest.raises(CovariumError, match="^frame 2 is bad$"):
        list(ahead(fails, [1, 2, 3], 2))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(ahead(fails, [1, 0, 3], 2))
    assert not multiprocessing.active_children()


def test_a_killed_process_is_reported() -> None:
    def dies(k: int) -> int:
        if k == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return k

    with pytest.raises(CovariumError, match=r"ended unexpectedly \(signal 9\).*data.workers=1"):
        list(ahead(dies, range(4), 2))
    assert not multiprocessing.active_children()


def test_processes_end_with_the_one_that_started_them() -> None:
    """Killed without a word, it leaves nobody behind."""
    ours, theirs = multiprocessing.Pipe()

    def parent() -> None:
        made = ahead(lambda k: os.getpid(), itertools.count(), 2)
        theirs.send([next(made), next(made)])
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    pids = ours.recv()
    process.join()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_apart() -> None:
    def some(count: int) -> Iterator[int]:
        yield from range(count)
        if count == 70:
            os.kill(os.getpid(), signal.SIGBUS)

    assert list(apart(some, 200)) == list(range(200))
    assert list(itertools.islice(apart(some, 10**9), 100)) == list(range(100))
    with pytest.raises(CovariumError, match="signal 7"):
        list(apart(some, 70))


def test_a_process_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def stalls(count: int) -> Iterator[int]:
        yield from range(count)
        time.sleep(1000)

    monkeypatch.setenv("COVARIUM_READ_TIMEOUT", "2")
    begun = time.monotonic()
    found = apart(stalls, 64)
    assert list(itertools.islice(found, 64)) == list(range(64))
    with pytest.raises(ProcessStalled, match=r"nothing was read for 2 s.*COVARIUM_READ_TIMEOUT"):
        next(found)
    assert time.monotonic() - begun < 100
    assert not multiprocessing.active_children()


def test_slow_is_not_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each item takes less than the limit, a part of 64 of them more."""

    def slow(count: int) -> Iterator[int]:
        for k in range(count):
            time.sleep(0.1)
            yield k

    monkeypatch.setattr(processes, "OFTEN", 0.3)
    monkeypatch.setenv("COVARIUM_READ_TIMEOUT", "3")
    assert list(apart(slow, 40)) == list(range(40))


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", ""])
def test_a_limit_that_is_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVARIUM_READ_TIMEOUT", value)
    with pytest.raises(CovariumError, match="COVARIUM_READ_TIMEOUT=.* positive number of seconds"):
        list(apart(range, 3))


@pytest.mark.parametrize("name", ["a.h5", "a.lmdb"])
def test_a_file_that_never_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody writes to stands for a disk that hangs: opening it takes for ever."""
    os.mkfifo(tmp_path / name)
    monkeypatch.setenv("COVARIUM_READ_TIMEOUT", "1")
    with pytest.raises(CovariumError, match=rf"{name} is damaged, or its disk does not answer.*Else copy it again"):
        read([tmp_path / name])
    assert not multiprocessing.active_children()

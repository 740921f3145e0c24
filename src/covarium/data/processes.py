"""Work in processes of its own: ahead of the one that needs it, or apart from it where it may take its process down."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from covarium.errors import CovariumError

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 64  # items that are sent together
OFTEN = 1.0  # s, after which fewer are sent
LONGEST = 60.0  # s, see ``patience``
PATIENCE = "COVARIUM_READ_TIMEOUT"
# a forked process shares the memory of its parent; where the system cannot fork, everything is sent to it
CONTEXT: Any = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)


def ahead(function: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R, None, None]:
    """``function(item)`` of each item, in order, made by ``workers`` processes before they are asked for.

    Each process holds one result ready, so that memory stays bounded and ``items`` may be endless. Results do not
    depend on the number of processes. They end with the iterator, or with this process, however it ends.

    Raises:
        CovariumError: of ``function``; or a process was ended from outside.
    """
    if workers == 0:
        yield from map(function, items)
        return
    team: list[tuple[Any, Connection]] = []
    try:
        for _ in range(workers):
            ours, theirs = CONTEXT.Pipe()
            others = [pipe for _, pipe in team] + [ours] if CONTEXT.get_start_method() == "fork" else []
            process = CONTEXT.Process(target=_serve, args=(function, theirs, others), daemon=True)
            process.start()
            theirs.close()
            team.append((process, ours))
        sent = received = 0
        for item in items:
            # a process is sent its next item when its last result was taken: neither side can wait for the other
            if sent - received == workers:
                result = _receive(*team[received % workers])
                received += 1
                _send(*team[sent % workers], item)
                sent += 1
                yield result
            else:
                _send(*team[sent % workers], item)
                sent += 1
        for k in range(received, sent):
            yield _receive(*team[k % workers])
    finally:
        for _, pipe in team:
            pipe.close()
        for process, _ in team:
            process.join(5)
            if process.is_alive():
                process.kill()


def apart(function: Callable[..., Iterable[T]], *args: object) -> Generator[T, None, None]:
    """What ``function(*args)`` yields, made in a process of its own: libraries that map foreign files end theirs by a
    signal when the file is truncated or damaged, or never come back.

    Raises:
        CovariumError: of ``function``; its process was ended by a signal (``ProcessLost``), or said nothing for so long
            as ``patience`` allows (``ProcessStalled``).
    """
    longest = patience()
    ours, theirs = CONTEXT.Pipe(duplex=False)
    others = [ours] if CONTEXT.get_start_method() == "fork" else []
    process = CONTEXT.Process(target=_tell, args=(function, args, theirs, others), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(longest):
                process.kill()
                raise ProcessStalled(
                    f"nothing was read for {longest:g} s; if the file is sound and its disk slow, allow more seconds "
                    f"by the environment variable {PATIENCE}"
                )
            part = _receive(process, ours)
            if part is None:
                return
            yield from part
    finally:
        ours.close()
        process.join(5)
        if process.is_alive():
            process.kill()


def patience() -> float:
    """Seconds without a message after which a process that reads a foreign file is given up.

    Raises:
        CovariumError: the environment variable is no positive number.
    """
    given = os.environ.get(PATIENCE)
    if given is None:
        return LONGEST
    try:
        longest = float(given)
    except ValueError:
        longest = 0.0
    if not longest > 0:
        raise CovariumError(f"{PATIENCE}={given!r} must be a positive number of seconds")
    return longest


def _serve(function: Callable[[Any], Any], pipe: Connection, others: Sequence[Connection]) -> None:
    _settle(others)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        if not _answer(pipe, partial(function, item)):
            return


def _tell(
    function: Callable[..., Iterable[Any]], args: tuple[Any, ...], pipe: Connection, others: Sequence[Connection]
) -> None:
    """Send what the function yields in parts, and None when there is no more, until nobody listens."""
    _settle(others)
    produced = iter(function(*args))
    failed: list[Exception] = []

    def part() -> list[Any] | None:
        if failed:
            raise failed[0]
        made: list[Any] = []
        begun = time.monotonic()
        try:
            for item in islice(produced, AT_ONCE):
                made.append(item)
                if time.monotonic() - begun > OFTEN:  # a slow disk is not taken for one that does not answer
                    break
        except Exception as error:  # what was made before it is sent first
            failed.append(error)
            if not made:
                raise
        return made or None

    while _answer(pipe, part):
        continue


def _settle(others: Sequence[Connection]) -> None:
    """Signals to the group of the parent are for the parent; its pipes must end with it."""
    os.setsid()
    faulthandler.disable()  # a fatal signal is told by the one that waits for the result
    for pipe in others:
        pipe.close()


def _answer(pipe: Connection, make: Callable[[], Any]) -> bool:
    """Send the result or the error; False where nobody listens any more."""
    try:
        try:
            message: tuple[Any, CovariumError | str | None] = (make(), None)
        except Exception as error:  # whatever it is, it is raised again where the result was waited for
            message = (None, error if isinstance(error, CovariumError) else f"{type(error).__name__}: {error}")
        pipe.send(message)
    except OSError:
        return False
    return True


def _send(process: Any, pipe: Connection, item: object) -> None:  # noqa: ANN401
    try:
        pipe.send(item)
    except OSError:
        _lost(process)


def _receive(process: Any, pipe: Connection) -> Any:  # noqa: ANN401
    try:
        result, error = pipe.recv()
    except (EOFError, OSError):
        _lost(process)
    if isinstance(error, str):
        raise RuntimeError(error)
    if error is not None:
        raise error
    return result


def _lost(process: Any) -> None:  # noqa: ANN401
    process.join(5)
    code = process.exitcode
    raise ProcessLost(
        f"a process that was reading data ended unexpectedly ({f'signal {-code}' if code and code < 0 else code}); if "
        "memory ran out, use fewer with --set data.workers=1"
    )


class ProcessLost(CovariumError):
    """A process was ended by a signal."""


class ProcessStalled(ProcessLost):
    """A process said nothing for too long."""

"""Ways in which a file can be damaged, on bytes and on what text holds."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

TOKENS = (
    b"nan", b"inf", b"-inf", b"-1", b"0", b"1e308", b"-1e-308", b"999999999", b"99999999999999999999", b"1e999", b"",
    b" ", b"\n", b"\x00", b"\xff", b"[", b"{", b"}", b"\"", b"'", b"=", b":", b"None", b"true", b"*a", b"&a",
    b"!!python/none", b"<", b"&", b"%", b"@1", b"H", b"Xx", b"T F T", b"0 0 0 0 0 0 0 0 0", b"_JSON []",
    b"_JSON {\"a\": NaN}",
)  # fmt: skip
NUMBER = re.compile(rb"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")
WORD = re.compile(rb"[A-Za-z_][A-Za-z_0-9:]*")


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four damages."""
    for _ in range(int(rng.integers(1, 5))):
        data = MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng)
    return data


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    if not data:
        return data
    out = bytearray(data)
    for place in rng.integers(len(data), size=int(rng.integers(1, 4))):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def delete(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def repeat(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * int(rng.integers(1, 4)) + data[end:]


def noise(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.bytes(end - start) + data[end:]


def move_line(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.splitlines(keepends=True)
    if len(lines) < 2:
        return data
    line = lines.pop(int(rng.integers(len(lines))))
    lines.insert(int(rng.integers(len(lines) + 1)), line)
    return b"".join(lines)


def token(data: bytes, rng: np.random.Generator) -> bytes:
    """A number or a word replaced by another one, or by something strange."""
    found = list((NUMBER if rng.random() < 0.7 else WORD).finditer(data[:200_000]))
    if not found:
        return data
    chosen = found[int(rng.integers(len(found)))]
    other = found[int(rng.integers(len(found)))].group()
    new = TOKENS[int(rng.integers(len(TOKENS)))] if rng.random() < 0.8 else other
    return data[: chosen.start()] + new + data[chosen.end() :]


MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    flip_bits, truncate, delete, repeat, noise, move_line, token, token, token,
)  # fmt: skip


def _span(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(data) + 1))
    return start, min(len(data), start + int(rng.integers(1, 40)))


class Hang(BaseException):
    """Not an Exception, so that nothing that catches those hides it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises ``Hang`` when the block takes longer."""

    def late(*_: object) -> None:
        raise Hang(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

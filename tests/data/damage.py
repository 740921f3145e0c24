"""Damaged files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from covarium.data import read
from covarium.errors import CovariumError


def assert_damage_is_named(content: bytes, path: Path, lengths: Iterable[int], places: int, seed: int) -> None:
    """Cut files are refused, files with inverted bytes read or refused; the process lives, and the file is named."""
    for length in lengths:
        path.write_bytes(content[:length])
        with pytest.raises(CovariumError, match=re.escape(path.name)):
            read([path])
    rng = np.random.default_rng(seed)
    for _ in range(20):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=places):
            damaged[place] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            read([path])
        except CovariumError as error:
            assert path.name in str(error)

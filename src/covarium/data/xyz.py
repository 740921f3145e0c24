"""Frames of an extended XYZ file one after another: each is read by ASE, none is lost without a word.

ASE's own reader goes through the whole file before the first frame, stops at an empty line, and counts as many lines as
a damaged file asks for. Here a frame is as many lines as there are, and what cannot be read is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TextIO

from ase import Atoms
from ase.io.extxyz import read_xyz

from covarium.errors import CovariumError

Damaged = Callable[[int, str], None]
SUFFIXES = (".xyz", ".extxyz")
PROPERTIES = re.compile(r'Properties="?([^\s"]+)')
COLUMNS = re.compile(r":[A-Z]:(\d+)")
LONGEST = 60  # characters of a foreign line in a message


def refuse(index: int, what: str) -> None:
    """Of a frame that cannot be read.

    Raises:
        CovariumError: always.
    """
    raise CovariumError(f"frame {index}: {what}")


def images(path: Path, damaged: Damaged = refuse, start: int = 0) -> Iterator[tuple[int, Atoms]]:
    """The frames of a file with their places in it.

    Args:
        path: the file, plain text.
        damaged: told the place of a frame that cannot be read, and why; the next frame follows where the lines still
            show where it begins.
        start: frames before this place are skipped.

    Raises:
        CovariumError: what ``damaged`` raises.
    """
    with path.open(encoding="utf-8") as file:
        index = 0
        try:
            header = next(file, "")
            while header:
                text, header, problem = _frame(file, header)
                if problem:
                    damaged(index, problem)
                    return
                atoms = _parsed(text, index, damaged) if text and index >= start else None
                if atoms is not None:
                    yield index, atoms
                index += 1
        except UnicodeDecodeError as error:
            damaged(index, f"it or a frame soon after it is not text in UTF-8 ({error.reason})")


def _frame(file: TextIO, header: str) -> tuple[str, str, str]:
    """The text of the frame that ``header`` opens, the next header, and what is wrong."""
    word = header.strip()
    if not word:
        rest = sum(1 for line in file if line.strip())
        return "", "", f"an empty line stands before it, and {rest} lines of text after that" if rest else ""
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        rest = sum(1 for _ in file)
        return "", "", f"it should begin with its number of atoms and begins {word[:LONGEST]!r}; {rest} lines follow"
    count = int(word)
    lines = list(islice(file, count + 1))
    if len(lines) <= count:
        found = max(len(lines) - 1, 0)
        return "", "", f"it is cut off: {count} atoms are announced, and the file ends after {found}"
    following = next(file, "")
    while following.lstrip().startswith("VEC"):  # lattice vectors as ADF writes them
        lines.append(following)
        following = next(file, "")
    return "".join([header, *lines]), following, ""


def _parsed(text: str, index: int, damaged: Damaged) -> Atoms | None:
    if problem := _missing_columns(text):
        damaged(index, problem)
        return None
    try:
        atoms: Atoms = next(read_xyz(StringIO(text), 0))
    except Exception as error:  # ASE raises every kind of exception on damaged lines
        damaged(index, f"its lines cannot be read: {str(error) or type(error).__name__}")
        return None
    return atoms


def _missing_columns(text: str) -> str:
    """Before a damaged number asks for as many columns as it likes: what is announced and not there."""
    _, comment, rows = text.split("\n", 2) if text.count("\n") > 1 else (text, "", "")
    announced = PROPERTIES.search(comment)
    if announced is None or not rows:
        return ""
    columns = sum(int(number[:9]) for number in COLUMNS.findall(announced.group(1)))
    there = len(rows.partition("\n")[0].split())
    return f"its Properties announce {columns} columns, its first atom has {there}" if columns > there else ""

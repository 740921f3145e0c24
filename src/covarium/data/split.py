"""Which frames are trained on, which choose the model, and which judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from covarium.data.columns import columns, composition, compositions_of, elements_of
from covarium.data.frame import Frame
from covarium.errors import CovariumError

VALID_FRACTION = 0.05
MOST_VALID = 1000  # more frames only make validation slow
MANY = 10  # from so many compositions on, whole compositions are drawn

Rule = Literal["group", "composition", "frame"]


@dataclass(frozen=True)
class Split:
    """Indices into the frames, ascending, disjoint; ``note`` says how they were drawn."""

    train: list[int]
    valid: list[int]
    test: list[int]
    note: str


def split(
    frames: Sequence[Frame],
    *,
    valid: float | int | None = None,
    test: float | int = 0,
    seed: int = 0,
    by: Rule | Literal["auto"] = "auto",
) -> Split:
    """Split frames at random, keeping together those that would leak.

    Frames that share a group (a molecule, a trajectory) go to the same part; without groups, frames of the same
    composition do where there are many compositions; otherwise single frames are drawn. Isolated atoms always go to
    training, and every element of the other parts occurs in training.

    Args:
        frames: as read.
        valid: frames for validation, a count (int) or a fraction (float); None for 5 %, at most 1000. Whole groups come
            as near to it as they can without exceeding it, and at least one is taken.
        test: the same for the test part.
        seed: of the draw.
        by: forces one rule; ``auto`` is the one above.

    Raises:
        CovariumError: the parts leave nothing to train on, or ``by`` does not fit the frames.
    """
    isolated = np.concatenate([part.isolated for part in columns(frames)])
    drawn = np.flatnonzero(~isolated)
    if len(drawn) < 2:
        raise CovariumError(f"{len(drawn)} frames besides isolated atoms cannot be split; at least 2 are needed")
    counts = (_count(valid, len(drawn)), _count(test, len(drawn)))
    if counts[0] < 1 or sum(counts) >= len(drawn):
        raise CovariumError(
            f"{counts[0]} frames for validation and {counts[1]} for test are asked of {len(drawn)}; "
            "at least 1 is needed for validation and 1 must remain for training"
        )
    rule, unit = _units(frames, drawn, by)
    present = _present(frames)
    parts = _draw(unit, present[drawn], present[isolated], counts, seed)
    how: str = rule
    if parts is None and by == "auto":
        how = f"frame (drawn by {rule}, training would lack an element); frames of one {rule} are in several parts"
        parts = _draw(np.arange(len(drawn)), present[drawn], present[isolated], counts, seed)
    if parts is None:
        raise CovariumError(f"no draw by {rule} leaves every element in training; give validation files, or more data")
    held_out = [drawn[part] for part in parts]
    train = np.setdiff1d(np.arange(len(frames)), np.concatenate(held_out), assume_unique=True)
    sizes = f"{len(train)} training, {len(held_out[0])} validation, {len(held_out[1])} test"
    note = f"split: {sizes}, drawn by {how}, seed {seed}"
    return Split(train.tolist(), held_out[0].tolist(), held_out[1].tolist(), note)


def division(
    count: int, *, valid: float | int | None = None, test: float | int = 0, seed: int = 0
) -> tuple[list[int], list[int], list[int]]:
    """Indices of training, validation and test samples that do not belong together, ascending, drawn one by one.

    Args:
        count: of samples.
        valid, test: as in ``split``; 0 for none.
        seed: of the draw.

    Raises:
        CovariumError: the parts leave nothing to train on.
    """
    parts = (_count(valid, count), _count(test, count))
    if sum(parts) >= count:
        raise CovariumError(
            f"{parts[0]} samples for validation and {parts[1]} for test are asked of {count}; at least 1 must remain "
            "for training"
        )
    order = np.random.default_rng(seed).permutation(count).tolist()
    ends = (parts[0], sum(parts))
    return sorted(order[ends[1] :]), sorted(order[: ends[0]]), sorted(order[ends[0] : ends[1]])


def _count(asked: float | int | None, frames: int) -> int:
    if asked is None:
        return max(1, min(MOST_VALID, int(VALID_FRACTION * frames)))
    if asked < 0 or (isinstance(asked, float) and asked >= 1):
        raise CovariumError(f"a part of the data is a fraction below 1.0 or a whole count of frames, got {asked}")
    return max(1, int(asked * frames)) if isinstance(asked, float) and asked > 0 else int(asked)


def _units(frames: Sequence[Frame], drawn: np.ndarray, by: Rule | Literal["auto"]) -> tuple[Rule, np.ndarray]:
    """The rule, and for each drawn frame the number of the unit that stays together, in order of first appearance.

    ``auto``: groups where named, else compositions where many share frames, else single frames.
    """
    if by not in ("auto", "group", "composition", "frame"):
        raise CovariumError(f"frames are split by auto, group, composition or frame, not by '{by}'")
    rules: tuple[tuple[Rule, int], ...] = (("group", 2), ("composition", MANY))
    for rule, least in rules:
        if by in ("auto", rule):
            unit = _groups(frames)[drawn] if rule == "group" else _compositions(frames)[drawn]
            unit = _numbered(unit)
            if by == rule or least <= unit.max() + 1 < len(drawn):
                return rule, unit
    return "frame", np.arange(len(drawn))


def _numbered(unit: np.ndarray) -> np.ndarray:
    """Units by order of first appearance."""
    _, first, inverse = np.unique(unit, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _groups(frames: Sequence[Frame]) -> np.ndarray:
    """[frames] a number for each group; a frame without one stands alone."""
    known: dict[str | int, int] = {}
    unit = []
    for part in columns(frames):
        for k, group in zip(part.index.tolist(), part.groups(), strict=True):
            unit.append(known.setdefault(group or k, len(known)))
    return np.array(unit)


def _compositions(frames: Sequence[Frame]) -> np.ndarray:
    """[frames] a number for each composition."""
    known: dict[bytes, int] = {}
    elements = elements_of(frames)
    unit = []
    for part in columns(frames):
        rows, inverse = np.unique(composition(part, elements), axis=0, return_inverse=True)
        numbers = np.array([known.setdefault(row.tobytes(), len(known)) for row in rows])
        unit.append(numbers[inverse.reshape(-1)])
    return np.concatenate(unit)


def _present(frames: Sequence[Frame]) -> np.ndarray:
    """[frames, K] bool, which elements a frame has."""
    return compositions_of(frames) > 0


def _draw(
    unit: np.ndarray, present: np.ndarray, isolated: np.ndarray, counts: tuple[int, int], seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Places of validation and test frames as whole units, None where training would lose an element or be empty.

    Args:
        unit: [n] of each frame, numbered from 0.
        present: [n, K] the elements of each frame.
        isolated: [m, K] the elements of frames that always stay in training.
        counts: of the two parts.
        seed: of the order in which units are looked at.
    """
    size = np.bincount(unit)
    elements = np.zeros((len(size), present.shape[1]), dtype=bool)
    np.logical_or.at(elements, unit, present)
    left = isolated.sum(axis=0) + elements.sum(axis=0)  # isolated atoms and units in training, by element
    order = np.random.default_rng(seed).permutation(len(size))
    part_of = np.zeros(len(size), dtype=np.int8)  # 0 for training
    free = len(size)

    def spare(u: int) -> bool:
        return part_of[u] == 0 and free > 1 and bool((left[elements[u]] > 1).all())

    for number, count in enumerate(counts, 1):
        taken = 0
        for u in order if count else ():
            if taken + size[u] <= count and spare(u):
                part_of[u] = number
                taken, free, left = taken + size[u], free - 1, left - elements[u]
            if taken == count:
                break
        if count and not taken:
            smallest = min(filter(spare, order), key=lambda u: size[u], default=None)
            if smallest is None:
                return None
            part_of[smallest] = number
            free, left = free - 1, left - elements[smallest]
    where = part_of[unit]
    return np.flatnonzero(where == 1), np.flatnonzero(where == 2)

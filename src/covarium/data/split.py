"""Which frames are trained on, which choose the model, and which judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

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
    drawn = [k for k, frame in enumerate(frames) if not frame.isolated]
    if len(drawn) < 2:
        raise CovariumError(f"{len(drawn)} frames besides isolated atoms cannot be split; at least 2 are needed")
    counts = (_count(valid, len(drawn)), _count(test, len(drawn)))
    if counts[0] < 1 or sum(counts) >= len(drawn):
        raise CovariumError(
            f"{counts[0]} frames for validation and {counts[1]} for test are asked of {len(drawn)}; "
            "at least 1 is needed for validation and 1 must remain for training"
        )
    rule = _rule(frames, drawn) if by == "auto" else by
    parts = _draw(frames, _members(frames, drawn, rule), counts, seed)
    how: str = rule
    if parts is None and by == "auto":
        how = f"frame (drawn by {rule}, training would lack an element); frames of one {rule} are in several parts"
        parts = _draw(frames, _members(frames, drawn, "frame"), counts, seed)
    if parts is None:
        raise CovariumError(f"no draw by {rule} leaves every element in training; give validation files, or more data")
    chosen = {*parts[0], *parts[1]}
    train = [k for k in range(len(frames)) if k not in chosen]
    sizes = f"{len(train)} training, {len(parts[0])} validation, {len(parts[1])} test"
    return Split(train, parts[0], parts[1], f"split: {sizes}, drawn by {how}, seed {seed}")


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


def _rule(frames: Sequence[Frame], drawn: list[int]) -> Rule:
    """Groups where named, else compositions where many share frames, else single frames."""
    rules: tuple[tuple[Rule, int], ...] = (("group", 2), ("composition", MANY))
    for rule, least in rules:
        if least <= len(_members(frames, drawn, rule)) < len(drawn):
            return rule
    return "frame"


def _members(frames: Sequence[Frame], drawn: list[int], rule: Rule) -> list[list[int]]:
    """The frames of each unit that stays together, in order of first appearance."""
    if rule not in ("group", "composition", "frame"):
        raise CovariumError(f"frames are split by auto, group, composition or frame, not by '{rule}'")
    units: dict[str | bytes | int, list[int]] = {}
    for k in drawn:
        frame = frames[k]
        if rule == "group" and frame.group:
            units.setdefault(frame.group, []).append(k)
        elif rule == "composition":
            units.setdefault(np.sort(frame.numbers).tobytes(), []).append(k)
        else:
            units[k] = [k]  # also a frame without a group: it stands alone
    return list(units.values())


def _draw(
    frames: Sequence[Frame], units: list[list[int]], counts: tuple[int, int], seed: int
) -> tuple[list[int], list[int]] | None:
    """Validation and test frames as whole units, None where training would lose an element or be empty."""
    elements = [np.unique(np.concatenate([frames[k].numbers for k in unit])) for unit in units]
    left = np.zeros(119, dtype=np.int64)  # units in training, by element
    for frame in frames:
        if frame.isolated:
            left[frame.numbers] += 1
    for present in elements:
        left[present] += 1
    order = np.random.default_rng(seed).permutation(len(units)).tolist()
    free = set(order)

    def spare(u: int) -> bool:
        return u in free and len(free) > 1 and bool((left[elements[u]] > 1).all())

    def take(count: int) -> list[int]:
        part: list[int] = []
        for u in order:
            if len(part) + len(units[u]) <= count and spare(u):
                move(u, part)
        if count and not part:
            smallest = min(filter(spare, order), key=lambda u: len(units[u]), default=None)
            if smallest is not None:
                move(smallest, part)
        return sorted(part)

    def move(u: int, part: list[int]) -> None:
        part.extend(units[u])
        free.discard(u)
        left[elements[u]] -= 1

    parts = take(counts[0]), take(counts[1])
    short = any(count and not part for count, part in zip(counts, parts, strict=True))
    return None if short else parts

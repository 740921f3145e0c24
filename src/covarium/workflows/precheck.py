"""The cheap part of ``covarium check data``, before every training run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from covarium.data import Frame
from covarium.data.findings import Finding, accepted
from covarium.data.survey import Survey
from covarium.data.verdicts import references, repeated, verdicts
from covarium.errors import CovariumError

SAMPLE = 2000  # frames, spread evenly
MOST_ATOMS = 50_000  # in them together; with both, a second or two
SIZED = 100  # frames whose mean size stands for all
TOLD_ELSEWHERE = ("references", "rare", "theory")  # by what is inferred from the training frames


def look_over(
    train: Sequence[Frame], others: Sequence[Sequence[Frame]], cutoff: float, accept: Sequence[str]
) -> list[str]:
    """What is doubtful in the frames of a run, one line each.

    Args:
        train: what is learnt from; a sample is measured.
        others: the frames held out, part by part; all are looked for among the training frames.
        cutoff: Å, how far the model looks.
        accept: kinds of errors that are told and do not stop the run.

    Raises:
        CovariumError: an error was found, with its place, its remedy, and how to go on all the same.
    """
    size = np.mean([len(train[k].numbers) for k in _spread(len(train), SIZED)])
    chosen = _spread(len(train), min(SAMPLE, max(1, int(MOST_ATOMS / size))))
    survey = Survey(cutoff)
    for k in chosen:
        survey.add(train[k])
    found = verdicts(survey, references(survey))
    for frames in others:
        found += repeated(frames, train)
    judged = [one for one in accepted(found, accept) if one.kind not in TOLD_ELSEWHERE]
    errors = [one for one in judged if one.level == "error"]
    part = f" (of {len(chosen)} frames looked at)" if len(chosen) < len(train) else ""
    if errors:
        kinds = ",".join(dict.fromkeys(one.kind for one in errors))
        lines = [f"{_told(one, part)}. Remedy: {one.remedy}" for one in errors]
        raise CovariumError(
            "\n".join(["the data have errors that would make the model wrong", *lines])
            + f"\n`covarium check data` lists all; if they are meant, --set data.accept=[{kinds}]"
        )
    return [f"{_told(one, part)}; {one.remedy}" for one in judged]


def _told(one: Finding, part: str) -> str:
    return f"{one.kind}: {one.text}{'' if one.kind == 'leak' else part}, first {one.places[0]}"


def _spread(count: int, most: int) -> list[int]:
    """Evenly spread places in a list of ``count``, at most so many."""
    return [int(k) for k in np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))]

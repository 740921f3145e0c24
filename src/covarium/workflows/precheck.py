"""The cheap part of ``covarium check data``, before every training run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from covarium.data import Frame
from covarium.data.findings import Finding, accepted
from covarium.data.plausibility import all_electron_totals
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


def refuse_other_energies(train: Sequence[Frame], energy: str | None) -> None:
    """
    Raises:
        CovariumError: energies are said to be differences (``adsorption``, ``formation``) and have the size of totals.
    """
    if energy in (None, "total") or not all_electron_totals([train[k] for k in _spread(len(train), SIZED)]):
        return
    raise CovariumError(
        f"the energies are stated to be of {energy} (task.energy, perhaps by a recipe) and have the size of "
        "all-electron total energies of these elements; give the right one, e.g. --set task.energy=total"
    )


def untold_tags(train: Sequence[Frame], num_tags: int) -> list[str]:
    """A note where a model tells kinds of atoms apart and the data do not."""
    if not num_tags or any(train[k].tags.any() for k in _spread(len(train), SAMPLE)):
        return []
    return [
        f"the model tells {num_tags} kinds of atoms apart (model.num_tags) and the data have no tags: all are kind 0"
    ]


def _told(one: Finding, part: str) -> str:
    return f"{one.kind}: {one.text}{'' if one.kind == 'leak' else part}, first {one.places[0]}"


def _spread(count: int, most: int) -> list[int]:
    """Evenly spread places in a list of ``count``, at most so many."""
    return [int(k) for k in np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))]

"""The kinds of data that training, evaluation and checks work on, and what is particular to each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covarium.analysis import token_errors
from covarium.analysis.check import Check
from covarium.analysis.errors import evaluate
from covarium.analysis.report import Section, error_sections
from covarium.analysis.suite import check_potential
from covarium.analysis.token_suite import check_tokens
from covarium.config import DataSection, RunConfig, build, check_name, merge, parse_assignment
from covarium.data import read_structures
from covarium.data.tokens import read_tokens, token_file
from covarium.workflows import evaluation, inference, loaded, token_runs
from covarium.workflows.inference import Plan


@dataclass(frozen=True)
class Kind:
    """What is particular to a kind of data.

    Attributes:
        task: the kind of task in ``TASKS``.
        recipe: where a run without one starts from.
        infer: configuration → plan.
        evaluate: (task, samples) → errors, with ``tables()`` and ``to_json()``.
        evaluate_files: (task, files, data settings, progress) → (what was read, errors).
        sections: errors → chapters of a report.
        checks: (task, files, how many samples of them) → checks one by one.
        describe: task → lines (what, value, remark).
        about: task → what a file of errors says beside them.
        next_commands: folder of a run → what to type next.
    """

    task: str
    recipe: str
    infer: Callable[..., Plan]
    evaluate: Callable[[Any, Sequence[Any]], Any]
    evaluate_files: Callable[..., tuple[list[str], Any]]
    sections: Callable[[Any], Sequence[Section]]
    checks: Callable[[Any, Sequence[Path], int], Iterator[Check]]
    describe: Callable[[Any], list[tuple[str, str, str]]]
    about: Callable[[Any], dict[str, str]]
    next_commands: Callable[[str], list[str]]


def _check_atoms(task: Any, files: Sequence[Path], count: int) -> Iterator[Check]:  # noqa: ANN401
    read = read_structures(files, limit=count)[:count] if files else []
    return check_potential(task, [loaded.as_frame(one.atoms, one.index, one.source) for one in read])


def _check_tokens(task: Any, files: Sequence[Path], count: int) -> Iterator[Check]:  # noqa: ANN401
    return check_tokens(task, read_tokens(files, count)[:count] if files else token_runs.example_samples(task, count))


KINDS = {
    "atoms": Kind(
        task="potential",
        recipe="molecules",
        infer=inference.infer,
        evaluate=evaluate,
        evaluate_files=evaluation.evaluate_files,
        sections=error_sections,
        checks=_check_atoms,
        describe=loaded.describe_potential,
        about=lambda task: {"energies": loaded.meaning(task)},
        next_commands=inference.next_commands,
    ),
    "tokens": Kind(
        task="tokens",
        recipe="tokens",
        infer=token_runs.infer,
        evaluate=token_errors.evaluate_tokens,
        evaluate_files=token_runs.evaluate_files,
        sections=lambda errors: errors.sections(),
        checks=_check_tokens,
        describe=token_runs.describe_task,
        about=lambda task: {},
        next_commands=token_runs.next_commands,
    ),
}


def kind_of(data: DataSection) -> str:
    """What the files hold: as stated, or by the keys of the first."""
    if data.kind is not None:
        return data.kind
    return "tokens" if data.train and token_file(data.train[0]) else "atoms"


def recipe_for(files: Sequence[Path], assignments: Sequence[str] = ()) -> str:
    """The recipe that a run on these files starts from, unless another is named."""
    stated = merge(*[parse_assignment(text) for text in assignments]).get("data")
    given = {**(stated if isinstance(stated, dict) else {}), **({"train": list(files)} if files else {})}
    return KINDS[kind_of(build(DataSection, given, "data"))].recipe


def kind_of_task(header: dict[str, Any]) -> Kind:
    """The kind that a trained task belongs to.

    Raises:
        CovariumError: none.
    """
    tasks = {kind.task: kind for kind in KINDS.values()}
    name = str(header["task"]["kind"])
    check_name(name, tasks, f"task '{name}'")
    return tasks[name]


def infer(config: RunConfig, *, told: str = "given") -> Plan:
    """The plan of a run on whatever its files hold; see the ``infer`` of the kind."""
    return KINDS[kind_of(config.data)].infer(config, told=told)

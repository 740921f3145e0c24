"""The kinds of questions and data that training, evaluation and checks work on, and what is particular to each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from covarium.analysis import property_errors, token_errors
from covarium.analysis.check import Check
from covarium.analysis.errors import evaluate
from covarium.analysis.report import Section, error_sections
from covarium.analysis.spin_suite import check_spins
from covarium.analysis.suite import check_potential, check_property
from covarium.analysis.token_suite import check_tokens
from covarium.config import RunConfig, build, merge, parse_assignment
from covarium.data import Frame, read_structures
from covarium.data.tokens import read_tokens, token_file
from covarium.errors import CovariumError
from covarium.systems.spin_field import SpinField
from covarium.workflows import evaluation, inference, loaded, loaded_property, memory, property_inference, token_runs
from covarium.workflows.compiling import compile_plan
from covarium.workflows.inference import Plan
from covarium.workflows.loaded import LoadedTask

Lines = list[tuple[str, str, str]]


def _no_use(model: LoadedTask, *_: object) -> NoReturn:
    raise CovariumError(loaded.refusal(model))


@dataclass(frozen=True)
class Kind:
    """What is particular to a kind of question.

    Attributes:
        tasks: names in ``TASKS``.
        recipe: where a run without one starts from.
        infer: configuration → plan.
        evaluate: (task, samples) → errors, with ``tables()`` and ``to_json()``.
        evaluate_files: (model, files, data settings, progress) → (what was read, errors).
        sections: errors → chapters of a report.
        describe: task → lines (what, value, remark).
        unit: task → unit of its errors.
        about: task → what a file of errors says beside them.
        next_commands: folder of a run → what to type next.
        checks: (model, files, how many samples of them) → checks one by one.
        predict: (model, files, file to write, data settings, progress) → number of structures written.
        predicted: task → what of them, in words.
    """

    tasks: tuple[str, ...]
    recipe: str
    infer: Callable[..., Plan]
    evaluate: Callable[[Any, Sequence[Any]], Any]
    evaluate_files: Callable[..., tuple[list[str], Any]]
    sections: Callable[[Any], Sequence[Section]]
    describe: Callable[[Any], Lines]
    unit: Callable[[Any], str]
    about: Callable[[Any], dict[str, str]]
    next_commands: Callable[[str], list[str]]
    checks: Callable[[LoadedTask, Sequence[Path], int], Iterator[Check]] = _no_use
    predict: Callable[..., int] = _no_use
    predicted: Callable[[Any], str] = str


def _check_potential(model: LoadedTask, files: Sequence[Path], count: int) -> Iterator[Check]:
    return check_potential(model.task, _first(files, count))


def _check_property(model: LoadedTask, files: Sequence[Path], count: int) -> Iterator[Check]:
    return check_property(model.task, _first(files, count))


def _first(files: Sequence[Path], count: int) -> list[Frame]:
    read = read_structures(files, limit=count)[:count] if files else []
    return [loaded.as_frame(one.atoms, one.index, one.source) for one in read]


def _check_tokens(model: LoadedTask, files: Sequence[Path], count: int) -> Iterator[Check]:
    samples = read_tokens(files, count)[:count] if files else token_runs.example_samples(model.task, count)
    return check_tokens(model.task, samples)


def _check_spins(model: LoadedTask, files: Sequence[Path], count: int) -> Iterator[Check]:
    if files:
        raise CovariumError(f"checks of an effective model of spins draw fields of their own; leave out '{files[0]}'")
    field = SpinField.random(max(count, 2), model.task.model.config.size, torch.Generator().manual_seed(0))
    return check_spins(model.task, field)


KINDS = {
    "potential": Kind(
        tasks=("potential", "denoise"),
        recipe="molecules",
        infer=inference.infer,
        evaluate=evaluate,
        evaluate_files=evaluation.evaluate_files,
        sections=error_sections,
        describe=loaded.describe_potential,
        unit=lambda task: "eV, Å",
        about=loaded.about_potential,
        next_commands=inference.next_commands,
        checks=_check_potential,
        predict=partial(evaluation.predict_file, evaluation.predict_energies),
        predicted=loaded.predicted_by_potential,
    ),
    "property": Kind(
        tasks=("property",),
        recipe="properties",
        infer=property_inference.infer_property,
        evaluate=property_errors.evaluate_property,
        evaluate_files=loaded_property.evaluate_files,
        sections=property_errors.property_sections,
        describe=loaded_property.describe_property,
        unit=lambda task: task.semantics.unit_or_not,
        about=loaded_property.about_property,
        next_commands=property_inference.next_commands,
        checks=_check_property,
        predict=partial(evaluation.predict_file, loaded_property.predict_values),
        predicted=lambda task: f"'{task.semantics.name}'",
    ),
    "tokens": Kind(
        tasks=("tokens",),
        recipe="tokens",
        infer=token_runs.infer,
        evaluate=token_errors.evaluate_tokens,
        evaluate_files=token_runs.evaluate_files,
        sections=lambda errors: errors.sections(),
        describe=token_runs.describe_task,
        unit=lambda task: "units of the data",
        about=lambda task: {},
        next_commands=token_runs.next_commands,
        checks=_check_tokens,
    ),
    # made by ``covarium slmc``: no run of ``covarium train``, no files of samples
    "spins": Kind(
        tasks=("effective_action",),
        recipe="",
        infer=_no_use,
        evaluate=_no_use,
        evaluate_files=_no_use,
        sections=_no_use,
        describe=loaded.describe_action,
        unit=lambda task: "of the logarithm of a weight",
        about=lambda task: {},
        next_commands=lambda folder: [],
        checks=_check_spins,
    ),
}


def kind_of(config: RunConfig) -> str:
    """The kind of a run: tokens as stated or by the keys of the first file, else as the task says.

    Raises:
        CovariumError: a task that does not fit the data.
    """
    data, task = config.data, config.task
    tokens = data.kind == "tokens" or (data.kind is None and bool(data.train) and token_file(data.train[0]))
    if tokens and (task.kind != "potential" or task.property is not None):
        raise CovariumError("task.kind and task.property ask for what structures have, and these data are tokens")
    return "tokens" if tokens else "potential" if task.property is None else "property"


def recipe_for(given: Mapping[str, Any], assignments: Sequence[str] = ()) -> str:
    """The recipe that a run so asked for starts from, unless another is named."""
    return KINDS[kind_of(build(RunConfig, merge(given, *map(parse_assignment, assignments))))].recipe


def kind_of_task(model: LoadedTask) -> Kind:
    """The kind that a trained task belongs to.

    Raises:
        CovariumError: none.
    """
    name = model.header["task"]["kind"]
    found = next((kind for kind in KINDS.values() if name in kind.tasks), None)
    return found or _no_use(model)


def infer(
    config: RunConfig,
    *,
    told: str = "given",
    progress: Callable[[int, int], object] | None = None,
    uncompiled: str = "set compile=false",
) -> Plan:
    """The plan of a run of whatever kind; see the ``infer`` of the kind, ``memory`` for what it may take, and
    ``compile_plan``, which names ``uncompiled`` where a run cannot be compiled."""
    plan = memory.of_training(KINDS[kind_of(config)].infer(config, told=told, progress=progress))
    return compile_plan(plan, uncompiled)

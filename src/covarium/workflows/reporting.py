"""The HTML report of a training run: what went in, how it learnt, how good it is, how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from covarium.analysis.errors import Table
from covarium.analysis.report import Section, training_section
from covarium.training import Result
from covarium.workflows.inference import Plan
from covarium.workflows.kinds import KINDS


def data_section(plan: Plan) -> Section:
    """What was inferred, as it was printed."""
    rows = tuple((finding.what, finding.value, finding.origin) for finding in plan.findings)
    return Section("Data and settings", text=plan.notes, tables=[Table("", ("what", "value", "origin"), rows)])


def run_sections(
    plan: Plan, result: Result, evaluations: Mapping[str, Any], log: Path, config: str, commands: Sequence[str]
) -> list[Section]:
    """All chapters of a training run.

    Args:
        plan: of the run.
        result: how it ended.
        evaluations: title → errors.
        log: ``log.csv``.
        config: text of ``config.resolved.yaml``.
        commands: what to type next.
    """
    return [
        data_section(plan),
        training_section(log, text=[f"{result.reason}; {result.verdict}"]),
        *judged(evaluations, plan.kind),
        Section("Next", text=["What to type next:"], commands=commands),
        Section("Configuration", code=config, folded=True),
    ]


def judged(evaluations: Mapping[str, Any], kind: str) -> Iterable[Section]:
    """Errors of each part, its name in the titles."""
    for part, evaluation in evaluations.items():
        for section in KINDS[kind].sections(evaluation):
            yield Section(f"{section.title}, {part}", tables=section.tables, figures=section.figures,
                          structures=section.structures)  # fmt: skip

"""Which tasks can be compiled, and what is said of those that cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from covarium.errors import CovariumError
from covarium.tasks import Compiled, Denoise, Potential
from covarium.workflows.inference import Finding, Plan


def compile_task(task: Any, remedy: str, tell: Callable[[str], object] | None = None) -> None:  # noqa: ANN401
    """Let a potential compute by compiled graphs from now on.

    Args:
        task: of any kind.
        remedy: the same without compilation, for messages.
        tell: called with a line about each graph.

    Raises:
        CovariumError: the task is no potential.
    """
    if not isinstance(task, Potential):
        raise CovariumError(f"only energies and forces are compiled, and this task predicts something else; {remedy}")
    task.compiled = Compiled(remedy, tell=tell)


def compile_plan(plan: Plan, remedy: str) -> Plan:
    """The plan with a compiled task where its configuration asks for that.

    Raises:
        CovariumError: a task that is not compiled, or a model in tiles.
    """
    if not plan.config.compile:
        return plan
    if isinstance(plan.task, Denoise):
        raise CovariumError(f"task.kind=denoise draws new structures at every step, which is not compiled; {remedy}")
    if plan.config.memory is not None and plan.config.tile != "all":
        raise CovariumError(f"tiles are not compiled, and --memory {plan.config.memory} needs them; {remedy}")
    compile_task(plan.task, remedy)
    line = Finding("compiled", "energy, forces and their gradients as one graph; the first step waits for it", "given")
    return replace(plan, findings=[*plan.findings, line])

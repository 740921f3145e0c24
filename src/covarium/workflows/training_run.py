"""A training run from its plan to its folder: configuration, model, log, errors, report."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from covarium import __version__, checkpoint
from covarium.analysis import report
from covarium.analysis.errors import Evaluation, evaluate
from covarium.config import RunConfig, build, merge, parse_assignment, read_yaml, to_yaml
from covarium.data import StoredFrames
from covarium.errors import CovariumError
from covarium.tasks import Potential
from covarium.training import Progress, Ranks, Result, announced, launched, resume_command, train
from covarium.training.log import FILE as LOG
from covarium.training.state import FILE as STATE
from covarium.workflows.inference import Plan
from covarium.workflows.loaded import BEST
from covarium.workflows.reporting import run_sections

CONFIG = "config.resolved.yaml"
SPLIT = "split.json"
REPORT = "report.html"


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        folder: of the run.
        result: how training ended.
        evaluations: errors of the best model on the validation and test frames; none after an interruption, and on
            other ranks than the first.
    """

    folder: Path
    result: Result
    evaluations: dict[str, Evaluation]

    @property
    def model(self) -> Path:
        return self.folder / BEST

    @property
    def report(self) -> Path:
        return self.folder / REPORT

    @property
    def next_commands(self) -> list[str]:
        """What a user types next."""
        folder = shlex.quote(str(self.folder))
        if self.result.interrupted:
            return [resume_command(self.folder, announced())]
        return [
            f"covarium evaluate {folder} FILE",
            f"covarium md {folder} STRUCTURE --temperature 300 --time 5ps",
            f"covarium relax {folder} STRUCTURE",
        ]


def resumed_config(folder: Path, given: Mapping[str, Any], assignments: Sequence[str] = ()) -> RunConfig:
    """The configuration that the run in ``folder`` was started with, changed by options and ``--set``.

    Raises:
        CovariumError: the folder holds no run, or ``given`` does not fit.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CovariumError(f"'{folder}' holds no run to resume: it has no {CONFIG}")
    return build(RunConfig, merge(read_yaml(path), given, *[parse_assignment(text) for text in assignments]))


def refuse_used(folder: Path) -> None:
    """
    Raises:
        CovariumError: the folder holds a run already.
    """
    there = [name for name in (STATE, BEST, CONFIG) if (folder / name).exists()]
    if there:
        raise CovariumError(
            f"'{folder}' already holds a run ({', '.join(there)}); continue it with "
            f"`{resume_command(folder, announced())}`, or choose another --out"
        )


def refuse_unwritable(folder: Path) -> None:
    """Find out by a nameless file, before anything is computed; nothing is left behind.

    Raises:
        CovariumError: nothing can be written in the folder, or the folder cannot be made.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise CovariumError(
            f"cannot write to '{folder}': {error.strerror} ('{place}'); choose another --out"
        ) from error


def run(plan: Plan, out: Path, *, progress: Progress | None = None, resume: bool = False) -> Outcome:
    """Train, then measure the best model.

    Args:
        plan: from ``infer``.
        out: folder of the run; gets ``best.safetensors``, ``config.resolved.yaml``, ``split.json``, ``log.csv``,
            ``state.safetensors`` and ``report.html``.
        progress: called after every step.
        resume: continue what ``out`` holds.

    Raises:
        CovariumError: ``out`` holds a run and ``resume`` is False, or another process is training there; and see
            ``covarium.training.train``.
    """
    device = plan.task.scale.device
    with launched(device) as ranks:
        if not ranks.first:
            result = _train(plan, out, None, resume, ranks)
            return Outcome(out, result, {})
        with _held(out, resume):
            checkpoint.replace_file(out / CONFIG, lambda path: path.write_text(_config_text(plan), encoding="utf-8"))
            checkpoint.replace_file(out / SPLIT, lambda path: path.write_text(_split_text(plan), encoding="utf-8"))
            result = _train(plan, out, progress, resume, ranks)
            outcome = Outcome(out, result, {} if result.interrupted else _evaluate(plan, out, device))
            if not result.interrupted:
                sections = run_sections(
                    plan, result, outcome.evaluations, out / LOG, _config_text(plan), outcome.next_commands
                )
                report.write(outcome.report, f"Training run {out.name}", sections, subtitle=f"covarium {__version__}")
            return outcome


def _train(plan: Plan, out: Path, progress: Progress | None, resume: bool, ranks: Ranks) -> Result:
    card = {"covarium": __version__, "torch": torch.__version__, "run": plan.config.model_dump(mode="json")}
    frames = {"training_frames": len(plan.train), "validation_frames": len(plan.valid)}

    def save_best(task: Potential, row: Mapping[str, Any]) -> None:
        # without the clock, so that the same run gives the same file
        measured = {name: value for name, value in row.items() if name != "time"}
        checkpoint.save(out / BEST, task, {**card, **frames, **measured})

    return train(
        plan.task, plan.train, plan.valid, plan.settings, out,
        save_best=save_best, progress=progress, resume=resume, ranks=ranks,
    )  # fmt: skip


def _evaluate(plan: Plan, out: Path, device: torch.device) -> dict[str, Evaluation]:
    """Errors of the saved model on the held-out frames."""
    best = checkpoint.load(out / BEST, device=device).task.requires_grad_(False)
    parts = {"validation": plan.valid.frames, "test": plan.test}
    return {name: evaluate(best, frames) for name, frames in parts.items() if len(frames)}


def _config_text(plan: Plan) -> str:
    header = [f"Written by covarium {__version__}. The same run again: covarium train --config {CONFIG} --out DIR"]
    return to_yaml(plan.config, header)


def _split_text(plan: Plan) -> str:
    parts = {"train": plan.train.frames, "valid": plan.valid.frames, "test": plan.test}
    text: dict[str, Any] = {}
    for name, frames in parts.items():
        if isinstance(frames, StoredFrames) and name == "train":  # millions: named by what they are not
            text[name] = {
                "frames": len(frames),
                "of": [str(store.path) for store in frames.stores],
                "not": "valid, test",
            }
        else:
            text[name] = [[frame.source, frame.index] for frame in frames]
    return json.dumps(text)


@contextmanager
def _held(out: Path, resume: bool) -> Iterator[None]:
    """The folder, made if missing, for this process alone.

    Raises:
        CovariumError: it holds a run already, or another process trains there.
    """
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            # released by the system when the process ends, however it ends
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CovariumError(f"another process is training in '{out}'; choose another --out") from error
        if not resume:
            refuse_used(out)
        yield
    finally:
        os.close(handle)

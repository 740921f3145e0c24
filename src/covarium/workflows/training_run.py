"""A training run from its plan to its folder: configuration, model, log, errors, report."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from covarium import __version__, checkpoint
from covarium.analysis import report
from covarium.config import RunConfig, build, merge, parse_assignment, read_yaml, to_yaml
from covarium.data import StoredFrames
from covarium.data.columns import pick
from covarium.errors import CovariumError
from covarium.files import held, replace_text
from covarium.training import Progress, Ranks, Result, announced, launched, resume_command, train
from covarium.training.log import FILE as LOG
from covarium.training.state import FILE as STATE
from covarium.workflows import memory
from covarium.workflows.arithmetic import arrange
from covarium.workflows.inference import Plan
from covarium.workflows.kinds import KINDS
from covarium.workflows.loaded import BEST, CONFIG
from covarium.workflows.reporting import run_sections

SPLIT = "split.json"
EVALUATION_SHARE = 0.5  # of a time budget, beyond which the evaluation at the end is of a part of the frames
# what a resumed run may change
FREE = ("training.", "data.workers", "device", "threads", "memory", "tile", "keep", "remember", "backend", "compile")
REPORT = "report.html"


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        folder: of the run.
        result: how training ended.
        evaluations: errors of the best model on the validation and test frames; none after an interruption, and on
            other ranks than the first.
        kind: of question and data, an entry of ``KINDS``.
    """

    folder: Path
    result: Result
    evaluations: dict[str, Any]
    kind: str

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
        return KINDS[self.kind].next_commands(folder)


def resumed_config(folder: Path, given: Mapping[str, Any], assignments: Sequence[str] = ()) -> RunConfig:
    """The configuration that the run in ``folder`` was started with, changed by options and ``--set``.

    Raises:
        CovariumError: the folder holds no run, or ``given`` does not fit.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CovariumError(f"'{folder}' holds no run to resume: it has no {CONFIG}")
    was = read_yaml(path)
    config = build(RunConfig, merge(was, given, *[parse_assignment(text) for text in assignments]))
    before, after = (_flat(build(RunConfig, was).model_dump(mode="json")), _flat(config.model_dump(mode="json")))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key) and not key.startswith(FREE):
            raise CovariumError(
                f"{key}={after.get(key)} contradicts the run in '{folder}', which has {before.get(key)}: model, task "
                f"and data stay what they are when it goes on ({', '.join(FREE)} may change); start a new run"
            )
    return config


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as ``section.key``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


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
    device = next(plan.task.parameters()).device
    with launched(device) as ranks:
        if not ranks.first:
            result = _train(plan, out, None, resume, ranks)
            return Outcome(out, result, {}, plan.kind)
        with held(out):
            if resume:
                _refuse_other_data(plan, out)
            else:
                refuse_used(out)
            result = _train(plan, out, progress, resume, ranks)
            evaluations = {} if result.interrupted else _evaluate(plan, result, out, device)
            outcome = Outcome(out, result, evaluations, plan.kind)
            if not result.interrupted:
                sections = run_sections(
                    plan, result, outcome.evaluations, out / LOG, _config_text(plan), outcome.next_commands
                )
                report.write(outcome.report, f"Training run {out.name}", sections, subtitle=f"covarium {__version__}")
            return outcome


def _train(plan: Plan, out: Path, progress: Progress | None, resume: bool, ranks: Ranks) -> Result:
    card = {"covarium": __version__, "torch": torch.__version__, "run": plan.config.model_dump(mode="json")}
    frames = {"training_frames": len(plan.train), "validation_frames": len(plan.valid)}

    def save_best(task: Any, row: Mapping[str, Any]) -> None:  # noqa: ANN401 - the kind's own class
        # without the clock, so that the same run gives the same file
        measured = {name: value for name, value in row.items() if name != "time"}
        checkpoint.save(out / BEST, task, {**card, **frames, **measured})

    def record() -> None:
        replace_text(out / CONFIG, _config_text(plan))
        replace_text(out / SPLIT, _split_text(plan))

    return train(
        plan.task, plan.train, plan.valid, plan.settings, out,
        save_best=save_best, progress=progress, resume=resume, accepted=record, ranks=ranks,
    )  # fmt: skip


def _evaluate(plan: Plan, result: Result, out: Path, device: torch.device) -> dict[str, Any]:
    """Errors of the saved model on the held-out frames; on a part of them where all would take too much of a budget."""
    best = checkpoint.load(out / BEST, device=device).task.requires_grad_(False)
    arrange(best.model, plan.config.dtype, plan.config.backend)
    memory.of_evaluation(plan, best)
    budget, every = plan.settings.time_s, 1
    if budget is not None:
        passes = 1 + len(plan.test) / len(plan.valid)
        every = max(math.ceil(result.validation * passes / (EVALUATION_SHARE * budget)), 1)
    evaluations = {}
    for name, frames in (("validation", plan.valid.frames), ("test", plan.test)):
        chosen = range(0, len(frames), every)
        if len(chosen) < len(frames):
            name = f"{name}: {len(chosen)} of {len(frames)} frames, as {budget:g} s allow"
            frames = pick(frames, chosen)
        if len(chosen):
            evaluations[name] = KINDS[plan.kind].evaluate(best, frames)
    return evaluations


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
    return json.dumps({**text, "content": _content(plan)})


def _content(plan: Plan) -> dict[str, str]:
    """SHA-256 over what is learnt from and what chooses the best model; of a stored set its place and checksums."""
    found = {}
    for name, frames in (("train", plan.train.frames), ("valid", plan.valid.frames)):
        digest = hashlib.sha256()
        if isinstance(frames, StoredFrames):
            sums = [[str(store.path), *(block["sha256"] for block in store.blocks)] for store in frames.stores]
            digest.update(json.dumps([len(frames), *sums]).encode())
        for sample in () if isinstance(frames, StoredFrames) else frames:
            for field in fields(sample):
                digest.update(_bytes(getattr(sample, field.name)))
        found[name] = digest.hexdigest()
    return found


def _bytes(value: Any) -> bytes:  # noqa: ANN401 - a field of a sample
    if isinstance(value, Mapping):
        return b"".join(str(key).encode() + _bytes(value[key]) for key in sorted(value))
    return np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode()


def _refuse_other_data(plan: Plan, out: Path) -> None:
    """
    Raises:
        CovariumError: the files of the run in ``out`` hold something else than when it was started.
    """
    path = out / SPLIT
    was = json.loads(path.read_text(encoding="utf-8")).get("content", {}) if path.is_file() else {}
    now = _content(plan)
    for name in was:
        if was[name] != now[name]:
            files = ", ".join(str(file) for file in plan.config.data.train)
            raise CovariumError(
                f"the {name} data of the run in '{out}' are not what they were when it was started ({files}); bring "
                "the files back, or start a new run"
            )

"""The models that the benchmarks on tokens compare, and one run of one of them; a run is made once and can go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from covarium.analysis.plots import BLUE, GREEN, GREY, INK, ORANGE, PINK, read_columns
from covarium.checkpoint import load
from covarium.files import replace_text
from covarium.tasks.tokens import TokenRegression
from covarium.training.state import FILE as STATE
from covarium.workflows.configuring import configure
from covarium.workflows.kinds import infer
from covarium.workflows.training_run import run

RESULT = "result.json"
SIZES: dict[str, dict[str, dict[str, int]]] = {
    "small": {"gatr": {}, "transformer": {}},  # what `covarium train` takes
    "published": {
        "gatr": {"hidden_mv_channels": 16, "hidden_s_channels": 128, "num_blocks": 10, "num_heads": 8},
        "transformer": {"hidden_channels": 384, "num_blocks": 10, "num_heads": 8},
    },
}


class Kind(NamedTuple):
    """A model, and whether its inputs are centred on each sample."""

    label: str
    model: dict[str, str]
    centre: bool
    colour: str


MODELS = {
    "iP": Kind("iP-GATr", {"name": "gatr", "variant": "iP"}, True, BLUE),
    "C": Kind("C-GATr", {"name": "gatr", "variant": "C"}, True, ORANGE),
    "E": Kind("E-GATr", {"name": "gatr", "variant": "E"}, True, GREEN),
    "P": Kind("P-GATr", {"name": "gatr", "variant": "P"}, True, PINK),
    "transformer": Kind("transformer", {"name": "transformer"}, False, INK),
    "centred": Kind("transformer, centred", {"name": "transformer"}, True, GREY),
}

Judge = Callable[[TokenRegression], dict[str, float]]


def train(
    model: str, size: str, train_file: Path, valid_file: Path, out: Path, training: dict[str, Any], judge: Judge
) -> dict[str, Any]:
    """The result in ``out``; made there first, by training to the end and judging the best model, if it is missing.

    Args:
        model: name in ``MODELS``.
        size: name in ``SIZES``.
        train_file, valid_file: samples.
        out: folder of the run.
        training: settings of ``covarium train``; the seed among them is that of everything.
        judge: columns of the record.
    """
    if (out / RESULT).exists():
        return json.loads((out / RESULT).read_text())
    kind = MODELS[model]
    given = {
        "data": {"train": [str(train_file)], "valid": [str(valid_file)], "kind": "tokens"},
        "model": {**kind.model, **SIZES[size][kind.model["name"]]},
        "task": {"centre": kind.centre},
        "training": training,
        "seed": training["seed"],
        "threads": 1,
    }
    start, resumed = time.process_time(), (out / STATE).exists()
    outcome = run(infer(configure(recipe="tokens", given=given)), out, resume=resumed)
    if outcome.result.interrupted:
        raise SystemExit(outcome.result.reason)
    seconds = time.process_time() - start
    task = load(outcome.model).task
    log = read_columns(out / "log.csv")
    (score,) = [name for name in log if name.startswith("valid_") and name.endswith("_mse")]
    judged = np.isfinite(log[score])
    result = {
        "model": kind.label, "size": size, "steps": outcome.result.steps,
        "parameters": sum(p.numel() for p in task.parameters()), **judge(task),
        "CPU s": None if resumed else round(seconds, 1),
        "curve": [log["step"][judged].tolist(), log[score][judged].tolist()],
    }  # fmt: skip
    replace_text(out / RESULT, json.dumps(result))
    return result

"""The evaluation at the end of a run is of all held-out frames, or of a part that its time budget allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ase.io
import pytest
import torch
from spring_waters import waters

from covarium import checkpoint
from covarium.config import RunConfig, build
from covarium.training import Result
from covarium.workflows.inference import infer
from covarium.workflows.loaded import BEST
from covarium.workflows.training_run import _evaluate


@pytest.mark.parametrize(
    ("seconds", "parts"),
    # 10 frames for validation and 20 for test; a pass over all takes three times what is given
    [(0.0, {"validation": 10, "test": 20}), (1.6, {"validation": 10, "test": 20}),
     (8.0, {"validation: 2 of 10 frames, as 10 s allow": 2, "test: 4 of 20 frames, as 10 s allow": 4}),
     (1e4, {"validation: 1 of 10 frames, as 10 s allow": 1, "test: 1 of 20 frames, as 10 s allow": 1})],
)  # fmt: skip
def test_as_many_frames_as_the_budget_allows(tmp_path: Path, seconds: float, parts: dict[str, int]) -> None:
    ase.io.write(tmp_path / "a.extxyz", waters(40))
    config = {
        "data": {"train": [str(tmp_path / "a.extxyz")], "valid_part": 10, "test_part": 20},
        "model": {"name": "torchmd_et", "num_layers": 1, "embedding_dimension": 16, "num_heads": 2},
        "training": {"time_s": 10.0}, "device": "cpu", "threads": 1,
    }  # fmt: skip
    plan = infer(build(RunConfig, config))
    checkpoint.save(tmp_path / BEST, plan.task, {})
    result = Result(0.0, 1, 1, 1, "", False, [], validation=seconds)
    found = _evaluate(plan, result, tmp_path, torch.device("cpu"))
    assert {name: evaluation.to_json()["frames"] for name, evaluation in found.items()} == parts
    again = _evaluate(plan, result, tmp_path, torch.device("cpu"))
    assert [one.to_json() for one in again.values()] == [one.to_json() for one in found.values()]
    unbounded = replace(plan, settings=replace(plan.settings, time_s=None, epochs=1))
    assert list(_evaluate(unbounded, result, tmp_path, torch.device("cpu"))) == ["validation", "test"]

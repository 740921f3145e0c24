"""A stopped and resumed run is the uninterrupted one, to the bit."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from toy_task import ToyData, toy_task

from covarium.errors import CovariumError
from covarium.training import Settings, train

SETTINGS = Settings(epochs=4, batch_size=4, accumulate=2, lr=5e-3, eval_every=3, log_every=2)


def run(folder, *, stop_at=(), with_signal=signal.SIGTERM, resume=False, settings=SETTINGS, **changes):
    def progress(event):
        if event.note and "notes" in changes:
            changes["notes"].append(event.note)
        if event.step in stop_at and not event.note:
            os.kill(os.getpid(), with_signal)

    task = changes.get("task") or toy_task(torch.float32, dropout=0.1)
    return train(
        task, changes.get("data") or ToyData(30), ToyData(9, seed=1), settings, folder,
        save_best=lambda task, card: None, progress=progress, resume=resume,
    )  # fmt: skip


def content(folder):
    """Tensors and position of a state, without the times."""
    with safe_open(folder / "state.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        position = json.loads(file.metadata()["covarium_state"])["position"]
    position.pop("elapsed")
    for row in position["history"]:
        row.pop("time")
    return tensors, position


def assert_same(one, other):
    (tensors, position), (others, other_position) = content(one), content(other)
    assert position == other_position and tensors.keys() == others.keys()
    assert {name.split(".")[0] for name in tensors} == {"task", "ema", "adamw", "rng"}
    for name, tensor in tensors.items():
        assert tensor.dtype == others[name].dtype and torch.equal(tensor, others[name]), name
    rows, other_rows = (
        [{k: v for k, v in row.items() if k != "time"} for row in csv.DictReader((folder / "log.csv").open())]
        for folder in (one, other)
    )
    assert rows == other_rows


@pytest.mark.parametrize("stops", [(1,), (2,), (5,), (3, 6, 8), (2, 4, 9, 13)])
def test_to_the_bit(tmp_path, stops):
    whole = run(tmp_path / "whole")
    assert whole.steps == 16 and not whole.interrupted
    result = run(tmp_path / "parts", stop_at=stops)
    for stop in stops:
        # the signal of a step takes effect after the next
        assert result.interrupted and result.steps == stop + 1 and "SIGTERM" in result.reason
        assert f"covarium train --resume {tmp_path / 'parts'}" in result.reason
        result = run(tmp_path / "parts", stop_at=[s for s in stops if s > stop + 1], resume=True)
    assert result.best_metric == whole.best_metric and result.reason == whole.reason
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_ctrl_c_is_caught_and_the_old_handler_restored(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    result = run(tmp_path, stop_at=(3,), with_signal=signal.SIGINT)
    assert "SIGINT" in result.reason and signal.getsignal(signal.SIGINT) is before


def test_killed_run_resumes_to_the_bit(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import test_resume\n"
        "test_resume.run(Path(sys.argv[1]), stop_at=(8,), with_signal=signal.SIGKILL)\n"
    )
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1] / "src")])
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "parts")], env={**os.environ, "PYTHONPATH": path}, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    assert content(tmp_path / "parts")[1]["step"] == 6  # the last evaluation before the kill
    run(tmp_path / "parts", resume=True)
    run(tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_without_a_saved_state_starts_again(tmp_path, begun):
    """Also where the kill came between the first row of the log and the first state."""
    whole, again, notes = tmp_path / "whole", tmp_path / "again", []
    run(whole)
    if begun:
        again.mkdir()
        (again / "log.csv").write_text("".join((whole / "log.csv").open().readlines()[:2]))
    run(again, resume=True, notes=notes)
    assert len(notes) == 1 and "starts again from step 0" in notes[0]
    assert_same(whole, again)


def test_a_finished_run_ends_at_once_and_can_be_made_longer(tmp_path):
    run(tmp_path)
    assert run(tmp_path, resume=True).steps == 16
    longer = run(tmp_path, resume=True, settings=Settings(epochs=6, batch_size=4, accumulate=2, lr=5e-3, eval_every=3))
    assert longer.steps == 24 and longer.epochs == 6


def test_time_already_used_counts(tmp_path):
    settings = Settings(time_s=6.0, batch_size=4)
    first = run(tmp_path, settings=settings, stop_at=(5,))  # well within the budget on any machine
    assert first.interrupted
    used = content_elapsed(tmp_path)
    second = run(tmp_path, settings=settings, resume=True)
    assert second.reason.startswith("used its 6 s") and second.steps > first.steps
    assert used < 6 and content_elapsed(tmp_path) == pytest.approx(6, abs=0.5)


def content_elapsed(folder):
    with safe_open(folder / "state.safetensors", "pt") as file:
        return json.loads(file.metadata()["covarium_state"])["position"]["elapsed"]


def test_a_state_that_does_not_fit_is_refused(tmp_path):
    run(tmp_path)
    (tmp_path / "state.safetensors").rename(tmp_path / "away")
    with pytest.raises(CovariumError, match=r"cannot be resumed: its state\.safetensors is gone"):
        run(tmp_path, resume=True)
    (tmp_path / "away").rename(tmp_path / "state.safetensors")
    with pytest.raises(CovariumError, match="other data: it had 30 training systems, now there are 29"):
        run(tmp_path, resume=True, data=ToyData(29))
    with pytest.raises(CovariumError, match="started with batch_size=4, now it is 5"):
        run(tmp_path, resume=True, settings=Settings(epochs=4, batch_size=5, accumulate=2))
    other = toy_task(torch.float32)
    other.idle = torch.nn.Linear(3, 2)
    with pytest.raises(CovariumError, match=r"'idle\.weight' is \[2, 2\] torch.float32 there and \[2, 3\]"):
        run(tmp_path, resume=True, task=other)
    file = tmp_path / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 16
    file.write_bytes(bytes(content))
    with pytest.raises(CovariumError, match="does not match its sha256"):
        run(tmp_path, resume=True)

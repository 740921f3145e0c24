"""Killed at any moment, again and again: every file that is there loads, and what was run ends as if never killed."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors import safe_open

from covarium.checkpoint import load, read_file
from covarium.simulation.record import load_state

TINY = (
    "--model equiformer_v2 "
    "--set model.num_layers=1 --set model.sphere_channels=8 --set model.lmax=1 --set model.mmax=1 "
    "--set model.num_heads=2 --set model.attn_hidden_channels=8 --set model.ffn_hidden_channels=8 "
    "--set model.edge_channels=8 --set training.batch_size=4 --threads 1"
).split()
KILLED = int(signal.SIGPROF)  # the kernel's timer over CPU seconds ended it
KILLS = 10


class Launcher:
    """Runs commands; ``used`` are the CPU seconds of the last."""

    used: float

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("launcher.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __call__(self, log: Path, *arguments: str | Path, kill_after: float | None = None) -> int:
        line = {"arguments": [str(a) for a in arguments], "log": str(log), "kill_after": kill_after}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        status, used = self.process.stdout.readline().split()
        self.used = float(used)
        return int(status)


@pytest.fixture(scope="module")
def launch():
    launcher = Launcher()
    yield launcher
    launcher.process.stdin.close()
    launcher.process.wait()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Disturbed copper tetrahedra with the energies and forces of effective-medium theory."""
    rng = np.random.default_rng(0)
    corners = 2.4 / np.sqrt(2) * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    frames = []
    for _ in range(24):
        atoms = Atoms("Cu4", corners + rng.normal(0, 0.1, (4, 3)), calculator=EMT())
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("data") / "copper.extxyz"
    ase.io.write(path, frames)
    return path


def digest(model: Path) -> str:
    with safe_open(model, "pt") as file:
        return file.metadata()["sha256"]


def rows(log: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "time"} for row in csv.DictReader(log.open())]


def kill_until_done(launch, run, begin, go_on, started, inspect, longest: float, seed: int) -> int:
    """Start or continue the run, killed after random CPU times, then let it end; the number of kills."""
    clock, log = random.Random(seed), run.with_suffix(".log")
    killed, status = 0, KILLED
    while status == KILLED:
        # the last attempts may take their time
        after = clock.uniform(0.0, longest * min(1.0, 0.2 + 0.1 * killed)) if killed < KILLS else None
        status = launch(log, *(go_on if started() else begin), kill_after=after)
        killed += status == KILLED
        inspect()
    assert status == 0, log.read_text()[-2000:]
    return killed


@pytest.mark.parametrize("seed", [0, 1])
def test_training(launch, data: Path, tmp_path: Path, seed: int) -> None:
    steps = [*TINY, "--set", "training.steps=60", "--set", "training.save_s=1e-9", "--set", "training.eval_every=7"]
    assert launch(tmp_path / "whole.log", "train", data, *steps, "--out", tmp_path / "whole") == 0
    longest = 0.6 * launch.used
    run = tmp_path / "run"

    def inspect() -> None:
        if (run / "best.safetensors").exists():
            load(run / "best.safetensors")
        if (run / "state.safetensors").exists():
            read_file(run / "state.safetensors", "covarium_state")

    killed = kill_until_done(
        launch, run,
        begin=["train", data, *steps, "--out", run], go_on=["train", "--resume", run],
        started=(run / "config.resolved.yaml").exists, inspect=inspect, longest=longest, seed=seed,
    )  # fmt: skip
    assert killed >= 3
    assert digest(run / "best.safetensors") == digest(tmp_path / "whole" / "best.safetensors")
    assert rows(run / "log.csv") == rows(tmp_path / "whole" / "log.csv")
    assert {p.name for p in run.iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}
    _continue_differently(launch, tmp_path)


def _continue_differently(launch, folder: Path) -> None:
    """A finished run resumed ends at once and stays what it was."""
    before = digest(folder / "run" / "best.safetensors")
    assert launch(folder / "again.log", "train", "--resume", folder / "run") == 0
    assert digest(folder / "run" / "best.safetensors") == before


@pytest.fixture(scope="module")
def model(launch, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert launch(folder / "log", "train", data, *TINY, "--set", "training.steps=3", "--out", folder / "run") == 0
    return folder / "run" / "best.safetensors"


@pytest.mark.parametrize("ensemble", ["nve", "langevin"])
def test_molecular_dynamics(launch, model: Path, data: Path, tmp_path: Path, ensemble: str) -> None:
    options = ["--ensemble", ensemble, "--temperature", "300", "--timestep", "0.02", "--steps", "300"]
    options += ["--interval", "3", "--threads", "1"]
    assert launch(tmp_path / "whole.log", "md", model, data, *options, "--out", tmp_path / "whole") == 0
    longest = 0.6 * launch.used
    run = tmp_path / "run"

    def inspect() -> None:
        if (run / "state.npz").exists():
            load_state(run / "state.npz")

    killed = kill_until_done(
        launch, run,
        begin=["md", model, data, *options, "--out", run], go_on=["md", model, "--resume", "--out", run],
        started=(run / "state.npz").exists, inspect=inspect, longest=longest, seed=3,
    )  # fmt: skip
    assert killed >= 2
    for name in ("trajectory.extxyz", "md.csv"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_evaluation_leaves_whole_files(launch, model: Path, data: Path, tmp_path: Path) -> None:
    clock = random.Random(0)
    for _ in range(6):
        out = tmp_path / "errors"
        launch(tmp_path / "log", "evaluate", model, data, "--out", out, kill_after=clock.uniform(0, 1.5))
        if (out / "errors.json").exists():
            json.loads((out / "errors.json").read_text())
        if (out / "report.html").exists():
            assert (out / "report.html").read_text().rstrip().endswith("</html>")
        launch(tmp_path / "log", "predict", model, data, "--out", tmp_path / "p.xyz", kill_after=clock.uniform(0, 0.8))
        if (tmp_path / "p.xyz").exists():
            assert len(ase.io.read(tmp_path / "p.xyz", ":")) == 24
            (tmp_path / "p.xyz").unlink()  # one that exists is not overwritten


@pytest.mark.parametrize("command", ["train", "md"])
def test_two_runs_into_one_folder_are_refused(launch, model: Path, data: Path, tmp_path: Path, command: str) -> None:
    run, log = tmp_path / "run", tmp_path / "second.log"
    begin, go_on, sign = {
        "train": (["train", data, *TINY, "--set", "training.steps=100000"], ["train", "--resume", run], "log.csv"),
        "md": (
            ["md", model, data, "--timestep", "0.001", "--steps", "1000000", "--threads", "1", "--out", run],
            ["md", model, "--resume", "--out", run], "md.csv",
        ),
    }[command]  # fmt: skip
    arguments = [str(a) for a in (*begin, "--out", run)]
    with subprocess.Popen([sys.executable, "-m", "covarium", *arguments], stdout=subprocess.DEVNULL) as first:
        try:
            while not (run / sign).exists():
                assert first.poll() is None
                time.sleep(0.05)
            assert launch(log, *go_on) >> 8 == 2
            assert "another process is writing" in log.read_text()
            assert launch(log, *begin, "--out", run) >> 8 == 2
        finally:
            first.kill()

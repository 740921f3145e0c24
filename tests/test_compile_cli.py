"""``--compile`` as a user types it: what is refused, and with which command instead."""

import re
from pathlib import Path

import pytest
from safetensors import safe_open
from test_cli import TINY, call, data, run  # noqa: F401 - the fixtures

from covarium.config import read_yaml


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert call(*arguments) == 2
    return capsys.readouterr().err


def test_refusals_name_the_command_without(run: Path, data: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    told = refusal(capsys, "train", data, "--property", "energy", "--compile", "--threads", "1")
    assert "only energies and forces are compiled" in told
    assert f"`covarium train {data} --property energy --threads 1`" in told
    told = refusal(capsys, "train", data, *TINY, "--compile", "--set", "tile=64", "--out", tmp_path / "a")
    assert "tiles" in told and "--compile" not in re.search("`(.*)`", told)[1]
    told = refusal(capsys, "train", "--resume", run, "--set", "compile=true", "--set", "tile=64")
    assert told.rstrip().endswith("--set compile=false`")
    told = refusal(capsys, "md", run, "--resume", "--compile", "--out", tmp_path / "none")
    assert "leave --compile out" in told
    assert not (tmp_path / "a" / "best.safetensors").exists()


@pytest.mark.slow
def test_a_compiled_run_from_training_to_dynamics(run: Path, data: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    out = tmp_path / "run"
    assert call("train", data, *TINY, "--set", "training.steps=12", "--out", out, "--compile") == 0
    assert "compiled in" in capsys.readouterr().out and read_yaml(out / "config.resolved.yaml")["compile"]
    names = [set(safe_open(folder / "best.safetensors", "pt").keys()) for folder in (run, out)]
    assert names[0] == names[1]
    for extra in (["--set", "training.steps=16"], ["--set", "training.steps=20", "--set", "compile=false"]):
        assert call("train", "--resume", out, *extra) == 0
    assert call("evaluate", out, data, "--compile") == 0
    dynamics = tmp_path / "dynamics"
    assert call("md", out, data, "--steps", "20", "--out", dynamics, "--compile") == 0
    assert call("md", out, "--resume", "--steps", "40", "--out", dynamics) == 0
    assert "compiled in" in capsys.readouterr().out

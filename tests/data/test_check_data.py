"""``covarium check data`` as it is typed, and the same checks before training."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from command import call
from sound import labelled, molecules, relabel, write

from covarium import checkpoint
from covarium.models import EquiformerV2
from covarium.tasks import Potential
from covarium.workflows.doctor import TINY


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "sound.extxyz", molecules())


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = molecules()
    frames[10].positions[1] = frames[10].positions[0] + [0.03, 0.0, 0.0]
    labelled(frames[10])
    relabel(frames[15], energy=np.nan)
    return write(tmp_path_factory.mktemp("data") / "faulty.extxyz", [*frames, frames[5]])


def test_a_sound_file_has_exit_code_0(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", "data", sound) == 0
    said = capsys.readouterr().out
    assert "43 frames, 0 errors, 0 warnings" in said and "left out: 3 frames without two atoms" in said


def test_faults_are_told_on_the_terminal_in_json_and_html(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call("check", "data", faulty, "--out", out, "--json", tmp_path / "a.json") == 1
    said = capsys.readouterr().out
    assert "ERROR  overlap: 1 frames" in said and f"{faulty}, frame 10: atoms 0" in said and "remedy: " in said
    assert "1 frames that are no valid structures" in said
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == json.loads((out / "findings.json").read_text())
    kinds = {one["kind"]: one for one in found["findings"]}
    assert kinds["invalid"]["places"] == [
        {"file": str(faulty), "frame": 15, "note": kinds["invalid"]["places"][0]["note"]}
    ]
    assert kinds["duplicates"]["count"] == 1 and kinds["duplicates"]["level"] == "warning"
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 5 and "canvas" in page
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page), "the page loads something"
    for text in ("Atoms on top of each other", "frame 10 of faulty.extxyz", "Histograms", "nearest atom"):
        assert text in page


def test_accepted_errors_leave_exit_code_0(faulty: Path) -> None:
    assert call("check", "data", faulty, "--accept", "overlap", "--accept", "invalid") == 0
    assert call("check", "data", faulty, "--set", "data.accept=[overlap,invalid]") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("absent.extxyz", "absent.extxyz is not there"),
        ("{data} --accept overlaps", "no finding is called 'overlaps'; did you mean 'overlap'?"),
        ("{data} --cutoff 0", "--cutoff must be positive"),
        ("{data} --cutof 5", "--cutoff"),
        ("{data} --model absent", "model 'absent' does not exist"),
        ("{data} --train absent.extxyz", "absent.extxyz is not there"),
        ("{data} --set data.keys.energy=enrgy", "'enrgy'"),
        ("{data} --set data.units.energy=hartre", "did you mean 'Hartree'?"),
        ("{data} --set model.lmax=2", "only settings of data"),
        ("{folder}", "is a folder"),
        ("{folder}/empty.extxyz", "holds no structures"),
    ],
)
def test_what_cannot_be_used_has_exit_code_2(
    arguments: str, message: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty.extxyz").touch()
    monkeypatch.chdir(tmp_path)
    out = ["--out", "out", "--json", "a.json"]
    assert call("check", "data", *arguments.format(data=sound, folder=tmp_path).split(), *out) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["empty.extxyz"], "something was half-written"


def test_one_unusable_file_beside_others_is_a_finding(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noise.extxyz").write_text("noise\n")
    assert call("check", "data", sound, tmp_path / "noise.extxyz") == 1
    assert "ERROR  unreadable" in capsys.readouterr().out


def test_leaks_and_new_elements_against_a_training_set_and_a_model(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = molecules(seed=3)[3:15]
    test[2] = molecules()[7]
    test.append(labelled(Atoms("N", info={"name": "N"})))
    path = write(tmp_path / "test.extxyz", test)
    assert call("check", "data", path, "--train", sound, "--json", tmp_path / "a.json") == 1
    kinds = {one["kind"]: one for one in json.loads((tmp_path / "a.json").read_text())["findings"]}
    assert [p["frame"] for p in kinds["leak"]["places"]] == [2] and "sound.extxyz, frame 7" in kinds["leak"]["places"][
        0
    ]["note"]
    assert [p["frame"] for p in kinds["species"]["places"]] == [12]
    torch.manual_seed(0)
    checkpoint.save(
        tmp_path / "model.safetensors", Potential(EquiformerV2(TINY), references={1: 0.0, 6: 0.0, 8: 0.0}), {}
    )
    capsys.readouterr()
    assert call("check", "data", path, "--model", tmp_path / "model.safetensors") == 1
    said = capsys.readouterr().out
    assert "ERROR  species: 1 frames contain N; training has H, C, O" in said


def test_training_refuses_errors_and_tells_warnings(
    faulty: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = molecules()
    frames[10].positions[1] = frames[10].positions[0] + [0.03, 0.0, 0.0]
    labelled(frames[10])
    path = write(tmp_path / "a.extxyz", [*frames, frames[5]])
    out = ["--out", tmp_path / "run", "--dry-run", "--threads", "1", "--epochs", "1"]
    assert call("train", path, *out) == 2
    said = capsys.readouterr().err
    assert "overlap: 1 frames" in said and f"{path}, frame 10" in said and "--set data.accept=[overlap]" in said
    assert call("train", path, *out, "--set", "data.accept=[overlap]", "--set", "data.split_by=frame") == 0
    said = capsys.readouterr().out
    assert "note: overlap" in said and "note: duplicates: 1 frames repeat others" in said
    assert call("train", sound, "--test", sound, *out) == 2
    assert "leak" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

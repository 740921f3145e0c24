"""``covarium doctor``: what it says is so, and a fault is found."""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

from covarium.analysis.check import Check
from covarium.cli import main
from covarium.layers.irreps import framed_edges
from covarium.workflows import doctor


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["covarium", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_every_check_of_the_self_test_passes_and_takes_seconds() -> None:
    checks = list(doctor.self_test())
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]
    names = " ".join(check.name for check in checks)
    assert all(part in names for part in ("SE(3)", "−dE/dr", "checkpoint", "training step"))


def test_a_wrong_rotation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants of the model damaged in memory, as a wrong build of a library would have them."""
    right = framed_edges.into_frames
    monkeypatch.setattr(framed_edges, "into_frames", lambda *a, **k: right(*a, **k) + 1e-3)
    assert any(not check.passed for check in doctor.self_test())


def test_the_command_prints_versions_and_fails_with_the_self_test(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(doctor, "self_test", lambda: iter([Check("good", 0.0, 0.0), Check("bad", 1.0, 0.5)]))
    assert call(monkeypatch, "doctor", "--threads", "1") == 1
    torch.set_num_threads(threads)
    said = capsys.readouterr().out
    for what in (torch.__version__, metadata.version("ase"), "OMP_NUM_THREADS" if "OMP_NUM_THREADS" in doctor.os.environ
                 else "torch threads", "CPU", "FAILED", "2 checks, 1 failed"):  # fmt: skip
        assert what in said, said


def test_missing_and_old_packages_get_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor.metadata,
        "requires",
        lambda _: ["numpy>=999", "absent-package>=2; extra == 'demo'", "pytest>=1; extra == 'test'"],
    )
    declared = doctor.packages()
    assert [package.name for package in declared] == ["numpy", "absent-package"]
    (line,) = [line for line in doctor.versions(declared) if line.what == "numpy"]
    assert line.remark == ">=999 is needed: pip install 'numpy>=999'"
    (line,) = doctor.optional(declared)
    assert line.value == "not installed" and line.remark == "covarium demo; pip install 'covarium[demo]'"


def test_every_extra_for_users_is_explained() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(tomllib.loads(text)["project"]["optional-dependencies"])
    assert extras - {"test"} == set(doctor.EXTRAS)


def test_cores_follow_the_affinity_of_the_process() -> None:
    import os

    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert doctor.usable_cores() <= 1
    finally:
        os.sched_setaffinity(0, allowed)

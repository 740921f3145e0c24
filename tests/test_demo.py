"""The demonstration, cut short: every stage runs and the last line is the report."""

import subprocess
import sys
from pathlib import Path

import ase.io
import pytest

pytest.importorskip("tblite")


@pytest.mark.slow
def test_demo_ends_with_its_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "covarium", "demo", "--frames", "60", "--time", "30s", "--threads", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == "demo/report.html"
    assert sum("covarium" in line and "YOUR" in line for line in lines) == 3
    report = (tmp_path / "demo" / "report.html").read_text()
    for title in ("Training", "Errors, test", "Relaxation", "Molecular dynamics", "Configuration"):
        assert title in report, title
    # names of XML are no addresses to load from
    assert 'src="http' not in report and "url(http" not in report
    assert len(ase.io.read(tmp_path / "demo" / "data" / "train.extxyz", ":")) == 48
    assert len(ase.io.read(tmp_path / "demo" / "md" / "trajectory.extxyz", ":")) > 1

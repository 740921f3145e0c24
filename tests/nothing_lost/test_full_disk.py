"""A full disk ends a run with one message, and what was complete stays complete."""

import lzma
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from covarium.checkpoint import load
from covarium.data.formats import stream
from covarium.errors import CovariumError
from covarium.simulation.record import load_state

SIZE = 8 * 1024**2


@pytest.fixture
def small_disk(tmp_path: Path):
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", place], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def covarium(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "covarium", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = Atoms("Cu3", [[0, 0, 0], [2.4, 0, 0], [0, 2.4, 0]] + rng.normal(0, 0.1, (3, 3)), calculator=EMT())
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("data") / "copper.extxyz"
    ase.io.write(path, frames)
    return path


def test_training_and_dynamics(data: Path, tmp_path: Path, small_disk: Path) -> None:
    tiny = (
        "--model equiformer_v2 --threads 1 "
        "--set model.num_layers=1 --set model.sphere_channels=8 --set model.lmax=1 --set model.mmax=1"
    )
    command = ["train", data, *tiny.split(), "--set", "training.save_s=1e-9", "--set", "training.eval_every=1"]
    run = small_disk / "run"
    assert covarium(*command, "--set", "training.steps=2", "--out", tmp_path / "fits").returncode == 0
    model = tmp_path / "fits" / "best.safetensors"
    # a state holds the weights four times; there is room for one state and two models, so the second state finds none
    leave(small_disk, int(6.5 * model.stat().st_size))
    ended = covarium(*command, "--set", "training.steps=500", "--out", run)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "No space left on device" in ended.stderr and str(run) in ended.stderr
    load(run / "best.safetensors")
    (small_disk / "ballast").unlink()
    assert covarium("train", "--resume", run, "--set", "training.steps=4").returncode == 0

    leave(small_disk, 60_000)
    ended = covarium("md", model, data, "--timestep", "0.001", "--steps", "100000", "--interval", "1",
                     "--threads", "1", "--out", small_disk / "md")  # fmt: skip
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "No space left" in ended.stderr or "the disk is full" in ended.stderr
    step = load_state(small_disk / "md" / "state.npz")[1]["step"]
    (small_disk / "ballast").unlink()
    go_on = ("md", model, "--resume", "--steps", str(step + 20), "--out", small_disk / "md")
    assert covarium(*go_on).returncode == 0


def test_no_place_to_decompress(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place that is full is named, and not the file."""
    path = tmp_path / "a.extxyz.xz"
    path.write_bytes(lzma.compress(b"1\n\nH 0 0 0\n" * 10**6))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(CovariumError, match=r"temporary folder .*disk: No space left on device; free .* TMPDIR"):
        next(stream(path, {}))
    assert not list(small_disk.iterdir())


def leave(disk: Path, free: int) -> None:
    """Fill the disk but for so many bytes."""
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - free))

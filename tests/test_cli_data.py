"""``covarium data convert`` as it is typed: what it prints, what it leaves, how it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

SOURCE = Path(__file__).parents[1] / "src"


def covarium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "covarium", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def write(path: Path) -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(40):
        positions = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        step = rng.normal(scale=0.05, size=(3, 3))
        atoms = Atoms("OHH", positions=positions + step)
        atoms.calc = SinglePointCalculator(atoms, energy=-14.2 + 1.5 * (step**2).sum(), forces=-3.0 * step)
        images.append(atoms)
    ase.io.write(path, images)


def test_convert_and_train(tmp_path: Path) -> None:
    write(tmp_path / "a.traj")
    done = covarium(tmp_path, "data", "convert", "a.traj", "a.frames")
    assert done.returncode == 0, done.stderr
    assert "labels: energy from 'energy', forces from 'forces'" in done.stdout
    assert "40 frames, 120 atoms, elements H O, not periodic" in done.stdout
    assert "covarium train a.frames" in done.stdout
    small = ["model.num_layers=1", "model.embedding_dimension=8", "model.num_rbf=8", "training.steps=2"]
    options = [part for setting in [*small, "data.workers=1"] for part in ("--set", setting)]
    for data, out in (("a.frames", "streamed"), ("a.traj", "memory")):
        run = covarium(tmp_path, "train", data, "--out", out, "--threads", "1", *options)
        assert run.returncode == 0, run.stderr
    logs = []
    for out in ("streamed", "memory"):
        rows = [row.split(",") for row in (tmp_path / out / "log.csv").read_text().splitlines()]
        time = rows[0].index("time")
        logs.append([[cell for k, cell in enumerate(row) if k != time] for row in rows])
    assert logs[0] == logs[1]


def test_refusals(tmp_path: Path) -> None:
    write(tmp_path / "a.traj")
    (tmp_path / "b.extxyz").write_text("mine")
    for arguments, message in (
        (["a.traj", "b.extxyz"], "'b.extxyz' exists already; choose another name, or remove it"),
        (["a.trj", "c.frames"], "data file a.trj is not there; did you mean 'a.traj'?"),
        (["a.traj", "c.pickle"], "'c.pickle' has no known format"),
        (["a.traj", "c.frames", "--set", "data.keys.energi=E"], "data.keys.energi is unknown; did you mean 'energy'?"),
    ):
        refused = covarium(tmp_path, "data", "convert", *arguments)
        assert refused.returncode == 2 and refused.stderr.startswith("error: ") and message in refused.stderr
        assert "Traceback" not in refused.stderr
    assert (tmp_path / "b.extxyz").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.traj", "b.extxyz"]


def test_sets_by_name(tmp_path: Path) -> None:
    shown = covarium(tmp_path, "data", "list")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) == 63 and any(line.startswith("qm9 ") and "CC0-1.0" in line for line in lines)
    one = covarium(tmp_path, "data", "list", "rmd17-aspirin").stdout
    assert "Christensen" in one and "https://ndownloader.figshare.com/files/23950376" in one
    refused = covarium(tmp_path, "data", "get", "spice", "--out", "sets")
    assert refused.returncode == 2 and "37.5 GB" in refused.stderr and "--yes" in refused.stderr
    unknown = covarium(tmp_path, "data", "get", "qm8")
    assert unknown.returncode == 2 and "did you mean 'qm9'" in unknown.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_set_from_local_files_is_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "sets").mkdir()
    atoms = [f"1\nProperties=species:S:1:pos:R:3 energy=-{z}\n{x} 0 0 0\n" for x, z in (("H", 1), ("O", 9))]
    (tmp_path / "sets" / "3bpa_iso_atoms.xyz").write_text("".join(atoms))
    for part in ("train_300K", "train_mixedT", "test_300K", "test_600K", "test_1200K"):
        (tmp_path / "sets" / f"3bpa_{part}.xyz").write_text("".join(_water(rng) for _ in range(60)))
    got = covarium(tmp_path, "data", "get", "3bpa", "--out", "sets")
    assert got.returncode == 0, got.stderr
    assert "licence" in got.stdout and "MIT" in got.stdout and "train_300K 62" in got.stdout
    command = next(line for line in got.stdout.splitlines() if line.startswith("  covarium train ")).split()[1:]
    run = covarium(tmp_path, *command, "--set", "data.valid_part=5", "--time", "2s", "--threads", "1")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "runs" / "3bpa" / "best.safetensors").is_file()


def _water(rng: np.random.Generator) -> str:
    step = rng.normal(scale=0.05, size=(3, 3))
    places = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]) + step
    rows = [" ".join(map(str, (x, *p, *(-3.0 * s)))) for x, p, s in zip("OHH", places, step, strict=True)]
    head = f"3\nProperties=species:S:1:pos:R:3:forces:R:3 energy={-14.2 + 1.5 * (step**2).sum()}"
    return "\n".join([head, *rows]) + "\n"

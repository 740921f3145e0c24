"""The built wheel, installed outside the tree, does the main job."""

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

ROOT = Path(__file__).parents[1]
TINY = (
    "--model equiformer_v2 "
    "--set model.num_layers=1 --set model.sphere_channels=8 --set model.lmax=1 --set model.mmax=1 "
    "--set training.steps=3 --threads 1"
).split()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but what the wheel brings; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode:
        pip = ["python3", "-m", "pip", "--python", sys.executable, "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("covarium-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def test_smoke(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(installed) in run("-c", "import covarium; print(covarium.__file__)")
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = Atoms("Cu3", [[0, 0, 0], [2.4, 0, 0], [0, 2.4, 0]] + rng.normal(0, 0.1, (3, 3)), calculator=EMT())
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    ase.io.write(tmp_path / "copper.extxyz", frames)
    assert "molecules" in run("-m", "covarium", "train", "--help")  # the recipes are there
    run("-m", "covarium", "train", "copper.extxyz", *TINY, "--out", "run")
    run("-m", "covarium", "evaluate", "run", "copper.extxyz", "--json", "errors.json")
    assert {"best.safetensors", "report.html"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert (tmp_path / "errors.json").is_file()

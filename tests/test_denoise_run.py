"""The denoise task from the command line, with direct forces and stress, to a model in use."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors.torch import load_file
from test_cli import call

import covarium
from covarium.tasks import Denoise

TINY = (
    "--task denoise --set model.num_layers=1 --set model.num_channels=8 --set model.num_heads=2 "
    "--set model.attn_hidden_channels=4 --set model.ffn_hidden_channels=8 --set model.edge_channels=8 "
    "--set model.force_head=gate --set model.stress_head=true --set task.forces=direct --set model.cutoff=3 "
    "--set training.batch_size=4 --set training.eval_every=2 --threads 1"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strained copper with the energies, forces and stresses of effective-medium theory."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.rattle(0.05, rng=rng)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("data") / "copper.extxyz"
    ase.io.write(path, frames)
    return path


def test_trains_resumes_and_is_used(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    v3 = ["train", data, "--model", "equiformer_v3", *TINY]
    assert call(*v3, "--set", "training.steps=6", "--out", tmp_path / "whole") == 0
    said = capsys.readouterr().out
    assert "50 % of the structures, 50 % of their atoms, by 0.025 Å" in said and "10 × stress mae" in said
    loaded = covarium.load(tmp_path / "whole")
    assert isinstance(loaded.potential, Denoise) and loaded.header["config"]["denoising"]
    atoms = ase.io.read(data)
    (prediction,) = loaded.predict(atoms)
    assert prediction.stress is not None and np.abs(prediction.stress).max() > 0
    atoms.calc = loaded.calculator()
    assert np.allclose(atoms.get_stress(voigt=False), prediction.stress, atol=1e-6)
    assert call("train", "--resume", tmp_path / "whole", "--set", "training.steps=8") == 0
    weights = load_file(tmp_path / "whole" / "state.safetensors")
    assert all(bool(torch.isfinite(t.double()).all()) for t in weights.values())
    assert "noise" in (tmp_path / "whole" / "log.csv").read_text().splitlines()[0]


def test_a_model_without_denoising_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", data, "--model", "equiformer_v2", "--task", "denoise", "--dry-run") == 2
    assert "equiformer_v2 cannot denoise; models that can: equiformer_v3" in " ".join(capsys.readouterr().err.split())
    assert call("train", data, "--task", "denoising", "--dry-run") == 2
    assert "task.kind" in capsys.readouterr().err

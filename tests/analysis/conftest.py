"""Predictions, a training log and a simulation to draw."""

from dataclasses import replace

import numpy as np
import pytest

from covarium.analysis.check import structure
from covarium.analysis.errors import Evaluation, FramePrediction


@pytest.fixture(scope="session")
def evaluation():
    """A function that makes an evaluation of random frames of H, C and O with small errors."""

    def make(frames: int, *, labels=("energy", "forces")) -> Evaluation:
        rng = np.random.default_rng(0)
        evaluation = Evaluation()
        for k in range(frames):
            frame = structure([1, 6, 8] * 2, rng.normal(size=(6, 3)) * 3)
            truth = {"energy": np.array(-900.0 + rng.normal()), "forces": rng.normal(size=(6, 3))}
            frame = replace(frame, labels={name: truth[name] for name in labels}, source="x.xyz", index=k)
            forces = truth["forces"] + 0.05 * rng.normal(size=(6, 3))
            evaluation.add(FramePrediction(frame, float(truth["energy"]) + 0.1, forces, None, -900.0))
        return evaluation

    return make


@pytest.fixture(scope="session")
def log():
    """Columns of a log.csv; validation metrics stand in few rows."""
    step = np.arange(10.0, 210.0, 10.0)
    sparse = np.where(step % 50 == 0, 0.3 * np.exp(-step / 100), np.nan)
    return {"step": step, "loss": np.exp(-step / 80), "loss_energy": np.exp(-step / 90), "valid_forces_mae": sparse}


@pytest.fixture(scope="session")
def nve():
    """Times in fs and total energies in eV of a run."""
    time = np.arange(0.0, 500.0, 0.5)
    return time, -100.0 + 1e-7 * time + 1e-4 * np.sin(time)

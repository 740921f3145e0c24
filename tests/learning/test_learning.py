"""A tiny EquiformerV2 learns a tiny exact problem, and cannot learn one that is not equivariant."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from covarium.analysis.check import structure
from covarium.data import Frame, collate
from covarium.models import EquiformerV2, EquiformerV2Config
from covarium.physics import Morse
from covarium.tasks import Potential, Term

CONFIG = EquiformerV2Config(
    num_layers=1, sphere_channels=16, attn_hidden_channels=16, num_heads=2, attn_alpha_channels=8,
    attn_value_channels=8, ffn_hidden_channels=16, edge_channels=16, num_distance_basis=16, lmax=2, mmax=2, cutoff=5.0,
    max_num_elements=10, avg_degree=3.0,
)  # fmt: skip
TRUTH = Potential(Morse(0.8, 1.6, 1.4, cutoff=5.0), references={6: 0.0})


def frames(count: int, seed: int) -> list[Frame]:
    """Distorted tetrahedra with Morse energies (eV) and forces (eV/Å)."""
    rng = np.random.default_rng(seed)
    corners = 0.55 * np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    made = []
    for _ in range(count):
        frame = structure([6] * 4, corners + rng.uniform(-0.2, 0.2, (4, 3)))
        exact = TRUTH.predict(collate([frame], TRUTH.model.spec, torch.float64).system)
        made.append(replace(frame, labels={"energy": exact.energy[0].numpy(), "forces": exact.forces.numpy()}))
    return made


def fit(
    labelled: list[Frame], steps: int, forces: str = "gradient", **fields: object
) -> tuple[float, float, Potential]:
    """Force and energy MAE (eV/Å, eV) on the frames fitted, and the fitted task."""
    torch.manual_seed(0)
    config = replace(CONFIG, force_head=forces == "direct", **fields)
    reference = float(np.mean([f.labels["energy"] for f in labelled])) / 4
    scale = float(np.concatenate([f.labels["forces"] for f in labelled]).std())
    terms = (Term("energy", "mse"), Term("forces", "mse"))
    task = Potential(EquiformerV2(config), references={6: reference}, forces=forces, scale=scale, terms=terms)
    optimiser = torch.optim.Adam(task.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    batch = collate(labelled, config.spec, torch.float32)
    for _ in range(steps):
        optimiser.zero_grad()
        sums = task(batch)
        sum(total / count for total, count in sums.values()).backward()
        optimiser.step()
        schedule.step()
    return *errors(task, labelled), task


def errors(task: Potential, labelled: list[Frame]) -> tuple[float, float]:
    measured = task.metrics(collate(labelled, task.model.spec, torch.float32))
    return tuple(measured[name][0] / measured[name][1] for name in ("forces_mae", "energy_mae"))


def test_learns_morse_clusters() -> None:
    labelled, unseen = frames(8, 0), frames(8, 1)
    spread = float(np.abs(np.concatenate([f.labels["forces"] for f in labelled])).mean())
    force, energy, task = fit(labelled, 250)
    assert force < 0.02 * spread and energy < 0.01, (force, spread, energy)
    # generalises because the truth is smooth and the model equivariant
    assert errors(task, unseen)[0] < 0.25 * spread


def test_learns_direct_forces() -> None:
    labelled = frames(8, 0)
    spread = float(np.abs(np.concatenate([f.labels["forces"] for f in labelled])).mean())
    assert fit(labelled, 250, forces="direct")[0] < 0.05 * spread


def test_forces_that_do_not_turn_with_the_molecule_cannot_be_learnt() -> None:
    labelled = frames(4, 0)
    half_turn = np.diag([-1.0, -1.0, 1.0])
    contradictory = [*labelled, *(replace(f, positions=f.positions @ half_turn) for f in labelled)]
    spread = float(np.abs(np.concatenate([f.labels["forces"] for f in labelled])).mean())
    # the best that an equivariant model can do is zero along x and y
    assert fit(contradictory, 100)[0] > 0.5 * spread


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["separable_s2", "s2"])
def test_learns_with_activations_on_the_grid(activation: str) -> None:
    labelled = frames(8, 0)
    spread = float(np.abs(np.concatenate([f.labels["forces"] for f in labelled])).mean())
    fields = {"attn_activation": activation, "ffn_activation": activation}
    assert fit(labelled, 250, **fields)[0] < 0.02 * spread

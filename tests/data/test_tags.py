"""Tags of slab atoms from a file to the graph that a model reads, in training, prediction and simulation."""

from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from covarium.analysis.errors import predict_frames
from covarium.data import FrameDataset, read
from covarium.models import Equiformer, EquiformerConfig
from covarium.simulation import Calculator
from covarium.tasks import Potential
from covarium.workflows.loaded import as_frame

TAGS = [0, 1, 2, 2]
CONFIG = EquiformerConfig(
    num_layers=1, irreps_node="4x0e+2x1e", irreps_sh="1x0e+1x1e", irreps_feature="4x0e", irreps_head="2x0e+1x1e",
    num_heads=2, irreps_mlp="4x0e+2x1e", num_basis=4, radial_channels=(4, 4), num_tags=3,
)  # fmt: skip


def slab(tags: list[int] | None) -> Atoms:
    atoms = Atoms("Cu2OH", np.array([[0, 0, 0], [2.2, 0, 0], [1.1, 1.2, 0.9], [1.1, 2.1, 1.3]]), tags=tags)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.full((4, 3), 0.1))
    return atoms


def test_tags_reach_the_model(tmp_path: Path) -> None:
    write(tmp_path / "slabs.extxyz", [slab(TAGS), slab(TAGS)])
    for name, atoms in (("slabs.traj", [slab(TAGS), slab(TAGS)]), ("plain.traj", [slab(None)])):
        write(tmp_path / name, atoms)
    for name, expected in (("slabs.extxyz", TAGS), ("slabs.traj", TAGS), ("plain.traj", [0] * 4)):
        frames = read([tmp_path / name]).frames
        assert frames[0].tags.tolist() == expected
        batch = FrameDataset(frames, CONFIG.spec, torch.float64).batch(range(len(frames)))
        assert batch.system.tags.tolist() == expected * len(frames) and batch.system.tags.dtype == torch.int64


def test_the_calculator_reads_them() -> None:
    torch.manual_seed(0)
    task = Potential(Equiformer(CONFIG).double(), references={1: 0.0, 8: 0.0, 29: 0.0}, scale=1.0).eval()
    energies = []
    for tags in (TAGS, None):
        atoms = slab(tags)
        atoms.calc = Calculator(task)
        energies.append(atoms.get_potential_energy())
        batch = FrameDataset([as_frame(atoms)], CONFIG.spec, torch.float64).batch([0])
        assert abs(float(task.predict(batch.system).energy[0]) - energies[-1]) < 1e-10
        (predicted,) = predict_frames(task, [as_frame(atoms)])
        assert abs(predicted.energy - energies[-1]) < 1e-10
    assert abs(energies[0] - energies[1]) > 1e-6
    atoms.set_tags(TAGS)
    assert atoms.get_potential_energy() == energies[0], "a change of tags is a change"

"""A raw file to learn from: ethanol along Langevin dynamics at 400 K, labelled with GFN2-xTB through tblite.

Usage: python label_ethanol.py raw.extxyz 60 [SEED]
"""

import sys

import ase.io
import ase.units
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from tblite.ase import TBLite

METHOD = "GFN2-xTB"


def sample(frames: int, seed: int, temperature: float = 400.0, spacing: int = 10) -> list[Atoms]:
    """Frames ``spacing`` fs apart, with energy in eV and forces in eV/Å."""
    atoms = molecule("CH3CH2OH")
    atoms.calc = TBLite(method=METHOD, verbosity=0)
    atoms.set_constraint(FixCom())
    fs, rng = ase.units.fs, np.random.default_rng(seed)
    dynamics = Langevin(atoms, fs, temperature_K=temperature, friction=0.02 / fs, rng=rng, fixcm=False)
    dynamics.run(100)  # forget the start
    labelled = []
    for _ in range(frames):
        dynamics.run(spacing)
        frame = Atoms(atoms.numbers, atoms.positions, info={"theory": METHOD})
        # raw forces: constraints of the sampling are no part of the label
        energy, forces = atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
        # a calculator holds the results, so that ASE writes them into the file
        frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
        labelled.append(frame)
    return labelled


if __name__ == "__main__":
    path, frames, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    ase.io.write(path, sample(frames, seed), format="extxyz")
    print(f"{frames} frames of ethanol, {METHOD}: {path}")

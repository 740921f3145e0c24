"""Potentials of known physics for the tests of this folder, and models that misbehave on purpose."""

import numpy as np
import torch
from ase.build import bulk
from torch import nn

from covarium.physics import Harmonic, LennardJones
from covarium.simulation import Calculator, start_velocities
from covarium.systems import AtomOutput, GraphSpec
from covarium.tasks import Potential

ARGON = LennardJones(0.0104, 3.4, cutoff=6.5, onset=4.5)
SPRING = Harmonic(30.0, 0.75, cutoff=1.5)
COLLAPSED = Harmonic(0.3, 0.01, cutoff=1.5)


def argon_calculator(**options):
    return Calculator(Potential(ARGON, references={18: 0.0}), **options)


def argon_crystal(temperature=40.0, repeats=2, seed=0):
    atoms = bulk("Ar", "fcc", a=5.26, cubic=True) * repeats
    start_velocities(atoms, temperature, np.random.default_rng(seed))
    return atoms


class Misbehaving(nn.Module):
    """A spring between close atoms that does something else from call ``after`` on."""

    group = "E(3)"
    outputs = frozenset({"energy", "forces"})
    reads = frozenset({"charge"})

    def __init__(self, after, deed):
        super().__init__()
        self.spec = GraphSpec(3.0)
        self.spring = SPRING
        self.after, self.deed, self.calls = after, deed, 0

    def forward(self, graph, rng=None):
        self.calls += 1
        energy = self.spring(graph).energy + 0.1 * graph.charge[graph.batch]
        forces = torch.zeros_like(graph.positions)
        if self.calls > self.after:
            if self.deed == "nan":
                energy = energy * float("nan")
            elif self.deed == "memory":
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 1 TB")
            elif self.deed == "bug":
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
            elif self.deed == "kick":
                energy = energy + 2000.0 * graph.positions[:, 0]
            elif self.deed == "collapse":
                energy = COLLAPSED(graph).energy
        return AtomOutput(energy, forces)

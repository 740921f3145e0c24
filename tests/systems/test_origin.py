"""Structures far from the origin in float32: the same edge vectors, the same forces."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from covarium.analysis.errors import predict_frames
from covarium.physics import Harmonic, LennardJones
from covarium.simulation import Calculator
from covarium.systems import GraphSpec, atom_graph, near_origin
from covarium.tasks import Potential
from covarium.workflows.loaded import as_frame

AWAY = np.array([1e4, -1e4, 1e4]) / np.sqrt(3)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.integers(0, 50))
def test_edge_vectors_stay(seed: int, periodic: tuple[bool, bool, bool], spread: int) -> None:
    """Any cell, any periodicity, atoms any number of cells away."""
    rng = np.random.default_rng(seed)
    pbc = np.array(periodic)
    cell = 4.0 * np.eye(3) + rng.uniform(-1, 1, (3, 3))
    scattered = rng.integers(-spread, spread + 1, (5, 3)) * pbc
    positions = (rng.uniform(0, 1, (5, 3)) + scattered) @ cell + rng.uniform(-1e4, 1e4, 3)
    given_cell = np.where(pbc[:, None], cell, np.nan)  # rows of the other directions are not read
    graph = atom_graph(np.ones(5), positions, GraphSpec(5.0), cell=np.where(pbc[:, None], cell, 0.0), pbc=pbc)
    edges, shifts = graph.edge_index.numpy(), graph.shifts.numpy()
    near, moved = near_origin(positions, given_cell, pbc, edges, shifts, torch.float32)
    j, i = edges
    before = positions[j] - positions[i] + shifts[:, pbc] @ cell[pbc]
    after = near[j] - near[i] + moved[:, pbc] @ cell[pbc]
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert (moved[:, ~pbc] == 0).all() and moved.dtype == shifts.dtype
    # each atom went by whole lattice vectors, all by one common shift; what is left lies within a cell of the origin
    fractions = np.linalg.solve(cell.T, (positions - near - (positions - near)[0]).T).T
    np.testing.assert_allclose(fractions, np.rint(fractions) * pbc, atol=1e-8)
    assert (np.abs(near @ np.linalg.pinv(cell[pbc])) <= 1 + 1e-9).all()
    assert np.abs(near).max() < 4 * np.abs(cell).sum()


def test_float64_is_left_alone() -> None:
    positions, shifts = np.full((2, 3), 1e4), np.zeros((0, 3), dtype=np.int64)
    edges = np.zeros((2, 0), dtype=np.int64)
    same = near_origin(positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), edges, shifts, torch.float64)
    assert same[0] is positions and same[1] is shifts


SLAB = bulk("Ar", "fcc", a=5.26, cubic=True) * (2, 2, 1)
SLAB.pbc = (True, True, False)
CASES = {
    "molecule": (molecule("CH3CH2OH"), Harmonic(30.0, 1.2, cutoff=2.0)),
    "crystal": (bulk("Ar", "fcc", a=5.26, cubic=True) * 2, LennardJones(0.0104, 3.4, cutoff=6.5)),
    "slab": (SLAB, LennardJones(0.0104, 3.4, cutoff=6.5)),
}


def single_precision_forces(potential: Potential, atoms: Atoms) -> list[np.ndarray]:
    """Of the calculator, and of prediction from files."""
    copy = atoms.copy()
    copy.calc = Calculator(potential, dtype=torch.float32)
    (predicted,) = predict_frames(potential, [as_frame(atoms)])
    return [copy.get_forces(), predicted.forces]


class Single(torch.nn.Module):
    """A model with a parameter, so that it is float32."""

    group, reads, outputs = "E(3)", frozenset(), frozenset({"energy"})

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.spec = model, model.spec
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, graph, rng=None):
        assert graph.positions.dtype == torch.float32
        output = self.model(graph)
        return output._replace(energy=self.one * output.energy)


@pytest.mark.parametrize("case", CASES)
def test_float32_forces_do_not_depend_on_the_origin(case: str) -> None:
    """Shifted by 10⁴ Å as a whole, and each atom by lattice vectors of its own."""
    atoms, model = CASES[case]
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=1)
    potential = Potential(Single(model), references=dict.fromkeys(set(atoms.numbers.tolist()), 0.0))
    away = atoms.copy()
    away.positions += AWAY
    scattered = atoms.copy()
    cells = np.random.default_rng(2).integers(-1000, 1001, (len(atoms), 3)) * atoms.pbc
    scattered.positions += cells @ atoms.cell.array
    for expected, *others in zip(
        *(single_precision_forces(potential, a) for a in (atoms, away, scattered)), strict=True
    ):
        assert np.abs(expected).max() > 0.01
        for forces in others:
            assert np.abs(forces - expected).max() < 1e-5

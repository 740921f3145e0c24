"""References are recovered exactly where they can be, and what cannot be known is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spring_waters import frame

from covarium.data import Frame, FrameDataset, element_references, remaining_energy, statistics
from covarium.errors import CovariumError
from covarium.systems import GraphSpec

TRUE = {1: -13.587, 6: -1029.489, 8: -2041.98}


def exact(symbols: str, **changes: object) -> Frame:
    numbers = frame(symbols).numbers
    return frame(symbols, sum(TRUE[int(z)] for z in numbers), **changes)


@given(st.lists(st.sampled_from(["CH4", "H2O", "CO2", "C2H6O", "H2"]), min_size=1, max_size=8))
def test_least_squares_explains_the_totals(formulas: list[str]) -> None:
    frames = [exact(formula) for formula in formulas]
    found = element_references(frames, "least_squares")
    for one in frames:
        assert remaining_energy(one, found.energies) == pytest.approx(0.0, abs=1e-8)
    elements = sorted({int(z) for one in frames for z in one.numbers})
    counts = {tuple(np.bincount(one.numbers, minlength=9)[elements]) for one in frames}
    full_rank = np.linalg.matrix_rank(np.array(list(counts))) == len(elements)
    assert bool(found.notes) != full_rank
    if full_rank:
        assert found.energies == pytest.approx({z: TRUE[z] for z in elements}, abs=1e-8)


def test_rank_deficiency_names_the_elements() -> None:
    found = element_references([exact("H2O"), exact("H4O2"), exact("C2"), exact("C3")])
    assert "2 independent compositions for 3 elements: the references of H, O cannot be told apart" in found.notes[0]
    assert found.energies[6] == pytest.approx(TRUE[6], abs=1e-8)


def test_isolated_atoms_are_taken() -> None:
    frames = [exact("C"), exact("H"), exact("O", config_type="IsolatedAtom"), frame("H2O", -2100.0)]
    found = element_references(frames)
    assert found.source == "isolated atoms" and found.energies == TRUE
    partial = element_references(frames[1:] + [frame("CH4", -1100.0)])
    assert partial.source == "least squares" and "isolated atoms of C are missing" in partial.notes[0]
    with pytest.raises(CovariumError, match="no isolated atom of C"):
        element_references(frames[1:] + [frame("CH4", -1100.0)], "isolated")
    with pytest.raises(CovariumError, match="isolated H has -13.587000 eV in frame 0 and -13.000000 eV in frame 7"):
        element_references([exact("H"), frame("H", -13.0, index=7)], "isolated")


def test_element_of_isolated_atoms_alone_keeps_its_energy() -> None:
    # the atoms of H and O must not enter the fit: here they are off by 1 eV from what the molecules tell
    frames = [exact("H2O"), exact("H2"), exact("C"), frame("H", TRUE[1] + 1.0), frame("O", TRUE[8] + 1.0)]
    found = element_references(frames, "least_squares")
    assert found.energies == pytest.approx(TRUE, abs=1e-8)
    assert found.notes == ["only isolated atoms hold C: their energies are the references of these"]


def test_atoms_of_a_crystal_are_not_isolated() -> None:
    def lattice(length: float) -> Frame:
        return frame("C", cell=np.eye(3) * length, pbc=np.ones(3, dtype=bool))

    assert not lattice(3.0).isolated and lattice(15.0).isolated
    # two long lattice vectors whose difference is short
    skewed = np.array([[20.0, 0, 0], [20.0, 3.0, 0], [0, 0, 20.0]])
    assert not frame("C", cell=skewed, pbc=np.ones(3, dtype=bool)).isolated


def test_given_references() -> None:
    frames = [exact("H2O")]
    assert element_references(frames, {"H": -1.0, "O": -2.0, "C": -3.0}).energies == {1: -1.0, 8: -2.0}
    with pytest.raises(CovariumError, match="given for H, but not for O"):
        element_references(frames, {"H": -1.0})
    with pytest.raises(CovariumError, match="'Hh: -1.0' is not a chemical symbol"):
        element_references(frames, {"Hh": -1.0})
    with pytest.raises(CovariumError, match="did you mean 'isolated'"):
        element_references(frames, "isolate")  # type: ignore[arg-type]


def test_statistics() -> None:
    water = frame("OHH", -10.0, fixed=np.array([True, False, False]))
    water.labels["forces"][:] = [[100.0, 0, 0], [3.0, 0, 0], [0, 4.0, 0]]
    other = frame("OHH", -13.0, positions=np.arange(3)[:, None] * np.array([1.5, 0, 0]))
    other.labels["forces"][:] = [[0, 0, 0], [0, 0, 5.0], [0, 0, 0]]
    alone = frame("H", -1.0)
    found = statistics(FrameDataset([water, other, alone], GraphSpec(1.6), torch.float32))
    # free components: 6 of water, 9 of the other; the isolated atom does not count
    assert found.force_rms == pytest.approx(np.sqrt((9 + 16 + 25) / 15))
    assert found.energy_std_per_atom == pytest.approx(0.5)
    assert found.average_degree == pytest.approx(8 / 6)
    assert (found.average_atoms, found.elements) == (3.0, (1, 8))


def test_statistics_without_forces() -> None:
    found = statistics(FrameDataset([frame("H2", labels={"energy": np.array(-1.0)})], GraphSpec(2.0), torch.float64))
    assert found.force_rms is None and found.energy_std_per_atom == pytest.approx(0.0, abs=1e-12)
    bare = statistics(FrameDataset([frame("H2", labels={})], GraphSpec(2.0), torch.float64))
    assert bare.energy_std_per_atom is None and bare.references.energies == {1: 0.0}

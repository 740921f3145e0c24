"""Lengths in another unit are told from hydrogen, and nothing that exists in Å is doubted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from spring_waters import waters

from covarium.data import Frame
from covarium.data.plausibility import findings
from covarium.units import BOHR


def rattled(atoms: Atoms, size: float = 1.0, count: int = 6) -> list[Frame]:
    """Frames without labels, thermally displaced in Å, then in units of ``size`` Å."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        positions = atoms.positions + rng.normal(scale=0.02, size=atoms.positions.shape)
        frames.append(
            Frame(
                atoms.numbers.astype(np.int64), positions / size, atoms.cell.array / size, atoms.pbc, {},
                np.zeros(len(atoms), dtype=bool),
            )
        )  # fmt: skip
    return frames


def hydroxide() -> Atoms:
    """O–H of 0.95 Å across the boundary of the cell."""
    atoms = Atoms("LiOH", positions=[[0, 0, 0], [1.5, 1.5, 0.4], [1.5, 1.5, 4.15]], cell=[3.0, 3.0, 4.7], pbc=True)
    return atoms * (2, 1, 1)


def covered_platinum() -> Atoms:
    """Hydrogen 1.6 to 1.7 Å from platinum, beside one CO."""
    slab = fcc111("Pt", (3, 3, 2), vacuum=8.0)
    for atom in range(9, 17):
        slab.append("H")
        slab.positions[-1] = slab.positions[atom] + [0, 0, 1.6]
    add_adsorbate(slab, molecule("CO"), 1.85, position=tuple(slab.positions[17, :2]), mol_index=1)
    return slab


def hydrogen_and_carbon_monoxide() -> Atoms:
    gas = molecule("CO")
    for k in range(3):
        pair = molecule("H2")
        pair.translate([3.0 * (k + 1), 0, 0])
        gas += pair
    return gas


@pytest.mark.parametrize(
    "atoms",
    [hydroxide(), covered_platinum(), hydrogen_and_carbon_monoxide(), bulk("LiH", "rocksalt", a=4.08) * 2,
     bulk("PdH", "rocksalt", a=4.09) * 2, molecule("SiH4"), molecule("CH4")],
    ids=Atoms.get_chemical_formula,
)  # fmt: skip
def test_structures_in_angstrom_are_not_doubted(atoms: Atoms) -> None:
    assert findings(rattled(atoms), 1.0) == []


@pytest.mark.parametrize(
    "atoms", [hydroxide(), molecule("CH3CH2OH"), molecule("CH3NO2")], ids=Atoms.get_chemical_formula
)
@pytest.mark.parametrize(("unit", "size"), [("Bohr", BOHR), ("nm", 10.0)])
def test_other_units_are_told(atoms: Atoms, unit: str, size: float) -> None:
    (found,) = findings(rattled(atoms, size), 1.0)
    assert found.wrong and found.text.endswith(f"positions look like {unit}")


def test_one_frame_that_disagrees_or_too_few_conclude_nothing() -> None:
    frames = rattled(waters(1)[0], BOHR)
    assert findings(frames, 1.0)[0].wrong
    assert findings(frames[:2], 1.0) == []
    frames[3] = replace(frames[3], positions=frames[3].positions * BOHR)
    assert findings(frames, 1.0) == []


@pytest.mark.parametrize(
    ("atoms", "size", "told"),
    [(molecule("CF4"), 0.01, "apart"), (molecule("CH3CH2OH"), 1e-6, "apart"), (bulk("Cu") * 3, 0.01, "apart"),
     (molecule("C2F4"), 10.0, "on top"), (bulk("NaCl", "rocksalt", a=5.64) * 2, 10.0, "on top")],
)  # fmt: skip
def test_lengths_without_hydrogen_are_told_too(atoms: Atoms, size: float, told: str) -> None:
    """pm, whole numbers of 1e-6 Å, and nm."""
    (found,) = findings(rattled(atoms, size), 1.0)
    assert found.wrong and told in found.text and f"data.units.length={size:g} Å" in found.remedy


@pytest.mark.parametrize(
    "atoms",
    [bulk("Ne", "fcc", a=4.46) * 2, Atoms("He2", [[0, 0, 0], [0, 0, 2.97]]), bulk("Cs") * 2, bulk("Cu"),
     Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]), bulk("C", "diamond", a=2.7) * 2, Atoms("Ar")],
    ids=Atoms.get_chemical_formula,
)  # fmt: skip
def test_gases_metals_and_pressed_solids_are_not_doubted(atoms: Atoms) -> None:
    assert findings(rattled(atoms), 1.0) == []


def test_wide_spaced_atoms_are_doubted_only_where_all_are() -> None:
    wide, bound = (rattled(Atoms("Ar2", [[0, 0, 0], [0, 0, distance]])) for distance in (12.0, 3.8))
    assert findings(wide, 1.0)[0].wrong
    assert findings([*wide, bound[0]], 1.0) == []

"""What a run was not told follows from what was asked: the model and its heads, and the rule for a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from spring_waters import waters

from covarium.config import RunConfig, build
from covarium.data import read
from covarium.data.property_statistics import property_statistics
from covarium.errors import CovariumError
from covarium.workflows.configuring import configure
from covarium.workflows.inference import Plan, infer
from covarium.workflows.property_inference import infer_property

V3 = {"num_layers": 1, "num_channels": 8, "num_heads": 2, "attn_hidden_channels": 4, "ffn_hidden_channels": 8}
V2 = {"num_layers": 1, "sphere_channels": 8, "num_heads": 2}


@pytest.fixture(scope="module")
def energies(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "waters.extxyz"
    ase.io.write(path, waters(12))
    return str(path)


@pytest.fixture(scope="module")
def properties(tmp_path_factory: pytest.TempPathFactory) -> str:
    """|μ| that grows with the number of atoms, so that composition alone would call it a mean or a sum by chance."""
    frames = []
    for k, name in enumerate(("CH4", "H2O", "CH3OH", "C2H6", "NH3", "HCN") * 4):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=k)
        vector = (atoms.numbers - atoms.numbers.mean()) @ atoms.positions
        atoms.info = {"mu": float(np.linalg.norm(vector)), "r2": float(k + 1), "dipole": vector}
        frames.append(atoms)
    path = tmp_path_factory.mktemp("data") / "molecules.extxyz"
    ase.io.write(path, frames, format="extxyz")
    return str(path)


def plan(file: str, task: dict[str, Any], model: dict[str, Any]) -> Plan:
    sections = {"data": {"train": [file]}, "task": task, "model": model, "training": {"steps": 2}, "device": "cpu"}
    return (infer_property if "property" in task else infer)(build(RunConfig, sections))


def test_direct_forces_choose_the_head(energies: str) -> None:
    third = plan(energies, {"forces": "direct"}, V3)
    assert third.config.model["name"] == "equiformer_v3"
    assert third.config.model["force_head"] == "gate" and third.config.model["stress_head"] is False
    second = plan(energies, {"forces": "direct"}, {"name": "equiformer_v2", **V2})
    assert second.config.model["force_head"] is True
    told = plan(energies, {"forces": "direct"}, {"name": "equiformer_v3", "force_head": "sep_s2", **V3})
    assert told.config.model["force_head"] == "sep_s2"


@pytest.mark.parametrize("name", ["equiformer", "torchmd_et"])
def test_models_without_heads_are_refused(energies: str, name: str) -> None:
    with pytest.raises(CovariumError, match=f"{name} has no head for forces; models that do: equiformer_v2, equif"):
        plan(energies, {"forces": "direct"}, {"name": name})
    with pytest.raises(CovariumError, match=f"{name} cannot denoise; models that can: equiformer_v3"):
        plan(energies, {"kind": "denoise"}, {"name": name})


def test_denoising_chooses_its_model(energies: str) -> None:
    config = configure(given={"data": {"train": [energies]}, "task": {"kind": "denoise"}, "model": V3})
    found = infer(config)
    assert found.config.model["name"] == "equiformer_v3" and found.config.model["denoising"] is True
    assert "noise" in found.task.weights


@pytest.mark.parametrize("readout", ["sum", "mean", "length"])
def test_vectors_have_no_sum(properties: str, readout: str) -> None:
    with pytest.raises(CovariumError, match=f"'dipole' is a vector, and readout '{readout}' gives scalars"):
        plan(properties, {"property": {"name": "dipole", "readout": readout}}, {})
    frames = read([Path(properties)], keys={"property": "dipole"}, need=["property"]).frames
    with pytest.raises(CovariumError, match=f"readout '{readout}' gives scalars, but these labels are vectors"):
        property_statistics(frames, readout, "none")


def test_a_dipole_of_a_periodic_structure_has_no_centre(tmp_path: Path) -> None:
    frames = [molecule("H2O", vacuum=3.0, pbc=True) for _ in range(12)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
        atoms.info["dipole"] = atoms.positions[0] - atoms.positions[1]
    ase.io.write(tmp_path / "p.extxyz", frames)
    found = plan(str(tmp_path / "p.extxyz"), {"property": {"name": "dipole"}}, {})
    assert found.config.model["output"] == "vector"


def test_totals_are_no_adsorption_energies(tmp_path: Path) -> None:
    frames = waters(12)
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=-2079.0 * len(atoms) / 3 + atoms.get_potential_energy())
    ase.io.write(tmp_path / "t.extxyz", frames)
    with pytest.raises(CovariumError, match="stated to be of adsorption .* size of all-electron total"):
        plan(str(tmp_path / "t.extxyz"), {"energy": "adsorption"}, V3 | {"name": "equiformer_v3"})


def test_what_tags_tell_is_missed(energies: str) -> None:
    notes = plan(energies, {}, {"name": "equiformer", "num_layers": 1, "num_tags": 3}).notes
    assert any("3 kinds of atoms apart (model.num_tags) and the data have no tags" in note for note in notes)


@pytest.mark.parametrize("name", ["mu", "r2"])
def test_rules_for_targets_hold_for_models_of_scalars_too(properties: str, name: str) -> None:
    found = plan(properties, {"property": {"name": name}}, V2 | {"name": "equiformer_v2"})
    assert found.task.readout == "sum" and not any(found.task.references.values()) and found.task.offset > 0
    (line,) = (one.origin for one in found.findings if one.what == "readout")
    assert line.startswith("rule for QM9's targets: the ") and line.endswith("for a model of scalars a sum over atoms")


def test_recipes_are_for_their_targets() -> None:
    def of(recipe: str, name: str) -> RunConfig:
        return configure(recipe=recipe, given={"task": {"property": {"name": name}}})

    with pytest.raises(CovariumError, match="treats 'energy_U0' wrongly; .* --recipe equiformer-qm9-u0 or torchmd"):
        of("equiformer-qm9", "energy_U0")
    assert of("equiformer-qm9-u0", "G").task.property is not None
    assert of("equiformer-qm9", "my_own").task.property is not None
    assert of("torchmd-et-qm9", "u0").task.references == "auto"

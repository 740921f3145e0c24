"""Scales, references and weights of official files: each as the trainer used it, and none that is damaged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stand_ins import MEAN, STD, case, lightning, ocp
from test_stated import V2, converted, energies

from covarium.errors import CovariumError
from covarium.models import Equiformer, EquiformerV3, TorchMDET
from covarium.pretrained import equiformer, equiformer_v3, torchmd_et
from covarium.tasks import Potential, Property

NAN = float("nan")
HEADS = ("energy", "forces")
# as published configurations state them
OC20 = {
    "normalizer": {"energy": {"mean": 0.0, "stdev": 24.901469505465872}, "forces": {"mean": 0.0, "stdev": 0.511153459}}
}
MPTRJ = {
    "normalizer": {name: {"mean": 0.0, "rmsd": 0.8124567446457275} for name in ("energy", "forces", "stress")},
    "element_references": {"energy": {"file": "configs/mptrj_energy_element_references.npz"}},
}


def direct(transforms: dict[str, Any] | None = None, **arguments: object) -> dict[str, Any]:
    """A file of EquiformerV3 with heads for forces and stress, without normalisers in its trainer's state."""
    description, _, _ = case("equiformer_v3", "grad_l3m2")
    description["constructor"] |= {"direct_prediction": True, "use_gate_force_head": True}
    config = equiformer_v3.config_from_official(description["constructor"])
    weights = EquiformerV3(config).state_dict()
    state = {equiformer_v3.official_name(name, config): value for name, value in weights.items()}
    archive = ocp({**description, "params": [(name, ()) for name in state]}, state, "equiformer_v3")
    archive["config"]["dataset"] = {"train": {"src": "x", "transforms": transforms or {}}}
    return {**archive, "normalizers": {}, **arguments}


def scaled(**spreads: float) -> dict[str, Any]:
    return {name: {"mean": torch.tensor(0.0), "rmsd": torch.tensor(spread)} for name, spread in spreads.items()}


def test_a_head_without_normaliser_has_the_scale_1(tmp_path: Path) -> None:
    found = converted(direct(normalizers=scaled(energy=24.5)), tmp_path)
    assert float(found.task.scale) == 24.5 and found.task.head_scales == {"forces": 1.0, "stress": 1.0}
    assert "no normaliser of forces and stress in the file: scale 1" in found.notes
    task = converted(direct(normalizers=scaled(energy=24.5, stress=0.5)), tmp_path).task
    assert task.head_scales == {"forces": 1.0, "stress": 0.5}
    description, state, _ = case("equiformer_v2", "a_slab_pbc")
    archive = ocp(description, state, "equiformer_v2")
    del archive["normalizers"]["grad_target"]
    assert converted(archive, tmp_path).task.head_scales == {"forces": 1.0}


def test_direct_forces_are_what_the_model_says(tmp_path: Path) -> None:
    from family_equiformer_v3 import _graph

    folder = case("equiformer_v3", "grad_l3m2")[2]
    graph = _graph({name: torch.from_numpy(value) for name, value in np.load(folder / "slab" / "inputs.npz").items()})
    graph = replace(graph, pbc=torch.ones_like(graph.pbc))
    task = converted(direct(normalizers=scaled(energy=24.5)), tmp_path).task.double()
    said = task.predict(graph, stress=True)
    with torch.no_grad():
        raw = task.model(graph)
    assert raw.forces.abs().max() > 0 and raw.stress.abs().max() > 0
    torch.testing.assert_close(said.forces, raw.forces, rtol=1e-12, atol=0)
    torch.testing.assert_close(said.stress, raw.stress, rtol=1e-12, atol=0)


@pytest.mark.parametrize("flat", [True, False])
def test_normalisers_of_the_configuration(flat: bool, tmp_path: Path) -> None:
    transforms = {"normalizer": {"energy": {"mean": 0.0, "stdev": 24.5}, "forces": {"mean": 0.0, "rmsd": 0.5}}}
    archive = direct(transforms)
    if flat:
        archive["config"]["dataset"] = archive["config"]["dataset"]["train"]
    found = converted(archive, tmp_path)
    assert float(found.task.scale) == 24.5 and found.task.head_scales == {"forces": 0.5, "stress": 1.0}
    assert not any("no normalisers" in note for note in found.notes)
    task = converted({**archive, "normalizers": scaled(energy=2.0)}, tmp_path).task
    assert float(task.scale) == 2.0 and task.head_scales["forces"] == 0.5, "the trainer's state comes first"
    archive = direct({"normalizer": {"fit": {"targets": ["energy"]}}})
    with pytest.raises(CovariumError, match=r"official.pt: transforms.normalizer has the normalisers fitted"):
        converted(archive, tmp_path)


@pytest.mark.parametrize(("transforms", "outside"), [(OC20, False), (MPTRJ, True)])
def test_published_configurations(transforms: dict[str, Any], outside: bool, tmp_path: Path) -> None:
    found = converted(direct(transforms), tmp_path)
    energy, forces = (next(v for k, v in transforms["normalizer"][q].items() if k != "mean") for q in HEADS)
    assert (float(found.task.scale), found.task.head_scales["forces"]) == (energy, forces)
    assert found.task.semantics.kind == ("formation" if outside else "unknown")
    assert any("references.npz, which the file does not hold" in note for note in found.notes) == outside
    assert ("which the file does not hold" in found.task.semantics.note) == outside


def test_energies_with_references_are_total(tmp_path: Path) -> None:
    transforms = {"element_references": {"energy": {"file": "a/b.npz"}}}
    references = {"energy": {"element_references": torch.arange(64.0)}}
    found = converted(direct(transforms, elementrefs=references), tmp_path)
    assert found.task.semantics.kind == "total" and found.task.references[8] == 8.0
    assert not any("does not hold" in note for note in found.notes)
    references["energy"]["element_references"][3] = NAN
    with pytest.raises(CovariumError, match=r"official.pt: elementrefs.energy.element_references\[3\] is nan"):
        converted(direct(transforms, elementrefs=references), tmp_path)


def test_the_older_data_section(tmp_path: Path) -> None:
    """Its trainers took the spread of the training energies for forces without one, those of fairchem 1."""
    description, state, _ = case("equiformer_v2", "a_slab_pbc")
    archive = {**ocp(description, state, "equiformer_v2"), "normalizers": {}}
    data: dict[str, Any] = {"normalize_labels": True, "target_mean": MEAN, "target_std": STD}
    archive["config"]["dataset"] = [data]
    with pytest.raises(CovariumError, match="Add grad_target_std to config.dataset"):
        converted(archive, tmp_path)
    data["grad_target_std"] = 0.5
    task = converted(archive, tmp_path).task
    assert (float(task.scale), task.offset, task.head_scales) == (STD, MEAN, {"forces": 0.5})
    data["target_std"] = 0
    with pytest.raises(CovariumError, match="config.dataset.target_std is 0; a positive number is expected"):
        converted(archive, tmp_path)


@pytest.mark.parametrize("head", ["EquivariantDipoleMoment", "DipoleMoment", "EquivariantVectorOutput"])
def test_a_mean_of_vectors_is_refused(head: str, tmp_path: Path) -> None:
    description, _, _ = case("torchmd_et", "dipole_equivariant")
    description["args"]["output_model"] = description["output_module"] = head
    weights = TorchMDET(torchmd_et.config_from_official(description["args"])).state_dict()
    archive = lightning(description, weights, "QM9" if "Dipole" in head else "Custom")
    archive["state_dict"]["model.mean"] = torch.tensor(0.0)
    assert isinstance(converted(archive, tmp_path).task, Property)
    archive["state_dict"]["model.mean"] = torch.tensor(2.5)
    with pytest.raises(CovariumError, match="official.pt: a mean of 2.5 on every component of a vector is not equivar"):
        converted(archive, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("std", NAN, "std is tensor(nan); a positive number is expected"),
        ("std", 0.0, "std is tensor(0.); a positive number is expected"),
        ("std", -2.0, "std is tensor(-2.); a positive number is expected"),
        ("mean", float("inf"), "mean is tensor(inf); a finite number is expected"),
    ],
)
def test_damaged_statistics_of_torchmd_net(name: str, value: float, said: str, tmp_path: Path) -> None:
    archive = energies()
    archive["state_dict"][f"model.{name}"] = torch.tensor(value)
    with pytest.raises(CovariumError) as error:
        converted(archive, tmp_path)
    assert str(error.value) == f"{tmp_path / 'official.pt'}: {said}"


@pytest.mark.parametrize(("spread", "mean"), [(0.0, 0.0), (NAN, 0.0), (-1.0, 0.0), (1.0, NAN)])
def test_damaged_normalisers(spread: float, mean: float, tmp_path: Path) -> None:
    numbers = {"energy": {"mean": torch.tensor([mean]), "rmsd": torch.tensor([spread])}}
    field = "mean" if spread == 1 else "rmsd"
    with pytest.raises(CovariumError, match=f"official.pt: normalizers.energy.{field} is tensor"):
        converted(direct(normalizers=numbers), tmp_path)
    transforms = {"normalizer": {"energy": {"mean": mean, "stdev": spread}}}
    field = "mean" if spread == 1 else "stdev"
    with pytest.raises(CovariumError, match=rf"official.pt: transforms.normalizer.energy.{field} is "):
        converted(direct(transforms), tmp_path)


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_damaged_weights(bad: float, tmp_path: Path) -> None:
    archive = energies()
    name = "representation_model.embedding.weight"
    archive["state_dict"][f"model.{name}"][3, 1] = bad
    with pytest.raises(CovariumError, match=f"official.pt: '{name}' is not finite everywhere"):
        converted(archive, tmp_path)
    archive, name = direct(), "blocks.1.ga.so2_linear_1.so2_m_linear.0.fc.weight"
    archive["ema"] = None
    archive["state_dict"][f"module.module.{name}"][1, 1] = bad
    with pytest.raises(CovariumError, match=f"official.pt: '{name}' is not finite everywhere"):
        converted(archive, tmp_path)
    description, state, _ = case("equiformer_v2", V2)
    archive = ocp(description, state, "equiformer_v2")
    archive["ema"]["shadow_params"][0].view(-1)[0] = bad
    with pytest.raises(CovariumError, match="official.pt: '.*' is not finite everywhere"):
        converted(archive, tmp_path)


def test_elements_of_qm9(tmp_path: Path) -> None:
    name = "graph_attention_transformer_l2"
    state = Equiformer(equiformer.config_of_named(name)).state_dict()
    found = converted({"state_dict": state}, tmp_path, name=name, target="homo")
    assert found.task.elements == (1, 6, 7, 8, 9)
    assert any(note.startswith("admits the 5 elements of its tables") for note in found.notes)
    table = {**state, "atomref": torch.arange(10.0).reshape(10, 1)}
    task = converted({"state_dict": table}, tmp_path, name=name, target="u0").task
    assert isinstance(task, Potential) and task.references == {z: float(z) for z in (1, 6, 7, 8, 9)}


def test_names_that_are_one(tmp_path: Path) -> None:
    description, state, _ = case("equiformer_v2", V2)
    archive = ocp(description, state, "equiformer_v2")
    extra = {key.removeprefix("module."): 0 * value for key, value in archive["state_dict"].items()}
    archive["state_dict"] |= {"module.norm.affine_weight": extra["module.norm.affine_weight"]}
    both = "'module.module.norm.affine_weight' and 'module.norm.affine_weight', both of which are 'norm.affine_weight'"
    with pytest.raises(CovariumError, match=f"official.pt: the file holds {both} of the model"):
        converted(archive, tmp_path)
    archive = energies()
    archive["state_dict"]["module.mean"] = torch.tensor(3.0)
    with pytest.raises(CovariumError, match="the file holds 'model.mean' and 'module.mean', both of which are 'mean'"):
        converted(archive, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_layers": "6"}, "num_layers is '6'; a whole number is expected"),
        ({"num_layers": True}, "num_layers is True; a whole number is expected"),
        ({"num_layers": 6.0}, "num_layers is 6.0; a whole number is expected"),
        ({"num_layers": None}, "num_layers is None; a whole number is expected"),
        ({"cutoff_upper": "5"}, "cutoff_upper is '5'; a number is expected"),
        ({"trainable_rbf": "no"}, "trainable_rbf is 'no'; True or False is expected"),
        ({"activation": 3}, "activation is 3; a text is expected"),
    ],
)
def test_arguments_of_another_type(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(CovariumError) as error:
        converted(energies(**arguments), tmp_path)
    assert str(error.value) == f"{tmp_path / 'official.pt'}: {said}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hyper_parameters": None}, "hyper_parameters is None; a dictionary is expected"),
        ({"normalizers": {"energy": None}}, "normalizers.energy is None; a dictionary is expected"),
        ({"normalizers": [1]}, "normalizers is [1]; a dictionary is expected"),
        ({"normalizers": {"energy": {"mean": "0", "std": 1.0}}}, "normalizers.energy.mean is '0'; a finite"),
        ({"elementrefs": {"energy": {}}}, "elementrefs.energy.element_references is None; a tensor is expected"),
        ({"config": [1]}, "config is [1]; a dictionary is expected"),
        ({"config": {"model": ["x"]}}, "config.model is ['x']; a name, or a dictionary with one, is expected"),
        ({"config": {"model": "equiformer_v3", "model_attributes": {"lmax": "6"}}}, "lmax is '6'; a whole number"),
        ({"config": {"model": "equiformer_v2", "model_attributes": {"lmax_list": 6}}}, "lmax_list is 6; a list"),
    ],
    ids=str,
)
def test_fields_of_another_type(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(CovariumError) as error:
        converted({**direct(), **change}, tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'official.pt'}: {said}")


def test_a_misspelt_name_of_a_published_size(tmp_path: Path) -> None:
    name = "graph_attention_transformer_nonlinear_bessel_l2"
    with pytest.raises(CovariumError, match=f"did you mean '{name}_drop00'"):
        converted({"state_dict": {"a": torch.zeros(3)}}, tmp_path, name=name)

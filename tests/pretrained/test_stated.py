"""What a file states of its model is followed, what it does not state is asked for, and nothing else passes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command import call
from stand_ins import case, fairchem, lightning, ocp

from covarium.errors import CovariumError
from covarium.models import Equiformer
from covarium.pretrained import equiformer
from covarium.pretrained.conversion import Converted, convert
from covarium.tasks import Potential, Property
from covarium.units import KCAL_PER_MOL

V2 = "b1_gate_mshare_energy"


def converted(content: dict[str, Any], folder: Path, **settings: str) -> Converted:
    torch.save(content, folder / "official.pt")
    return convert(folder / "official.pt", **settings)


def energies(**arguments: object) -> dict[str, Any]:
    """A file of TorchMD-NET with these arguments beside its own."""
    description, state, _ = case("torchmd_et", "atomref_meanstd")
    archive = lightning(description, state)
    archive["hyper_parameters"] |= arguments
    return archive


def test_arguments_that_no_release_has_are_left_out_and_said(tmp_path: Path) -> None:
    notes = converted(energies(our_own_tag=3), tmp_path).notes
    assert "left out: arguments that no release of TorchMD-NET has: our_own_tag" in notes
    with pytest.raises(CovariumError, match="output_mlp_num_layers = 2 is not supported"):
        converted(energies(output_mlp_num_layers=2), tmp_path)


@pytest.mark.parametrize("label", ["{}", {"label": "{}"}, '{{"label": "{}"}}', {"labels": ["{}"]}], ids=str)
def test_targets_of_qm9_in_every_form(label: Any, tmp_path: Path) -> None:
    def named(form: Any, name: str) -> Any:
        if isinstance(form, dict):
            return {key: named(value, name) for key, value in form.items()}
        return [named(form[0], name)] if isinstance(form, list) else form.format(name)

    task = converted(energies(dataset="QM9", dataset_arg=named(label, "energy_U0"), derivative=False), tmp_path).task
    assert isinstance(task, Potential) and task.semantics.kind == "total" and float(task.scale) == 2.5
    task = converted(energies(dataset="QM9", dataset_arg=named(label, "homo"), derivative=False), tmp_path).task
    assert isinstance(task, Property) and (task.semantics.name, task.semantics.unit) == ("homo", "eV")
    with pytest.raises(CovariumError, match="names no target of QM9"):
        converted(energies(dataset="QM9", dataset_arg=named(label, "uracil")), tmp_path)


def test_a_property_has_our_name(tmp_path: Path) -> None:
    description, state, _ = case("torchmd_et", "dipole_equivariant")
    semantics = converted(lightning(description, state, "QM9"), tmp_path).task.semantics
    assert (semantics.name, semantics.unit) == ("mu", "D")


@pytest.mark.parametrize("data", ["WaterBox", "HDF5", "Custom", "OurOwn"])
def test_forces_tell_an_energy(data: str, tmp_path: Path) -> None:
    found = converted(energies(dataset=data, dataset_arg=None, derivative=True), tmp_path)
    assert isinstance(found.task, Potential) and float(found.task.scale) == 2.5
    assert any("does not state the unit of its energies" in note for note in found.notes)


def test_what_nothing_states_is_asked_for(tmp_path: Path) -> None:
    archive = energies(dataset="OurOwn", dataset_arg=None, derivative=False)
    with pytest.raises(CovariumError, match="does not say what its model predicts.*--target, one of energy, mu"):
        converted(archive, tmp_path)
    assert isinstance(converted(archive, tmp_path, target="energy").task, Potential)
    assert converted(archive, tmp_path, target="heat_capacity").task.semantics.name == "cv"
    with pytest.raises(CovariumError, match="target 'hommo' is not known; did you mean 'homo'"):
        converted(archive, tmp_path, target="hommo")
    with pytest.raises(CovariumError, match="predicts 'energy', not 'mu'"):
        converted(energies(), tmp_path, target="mu")


def test_references_that_are_switched_off_stay_off(tmp_path: Path) -> None:
    on = converted(energies(), tmp_path).task
    assert any(on.references.values()) and on.semantics.kind == "total"
    switched = energies(prior_model=[{"Atomref": {"enable": False}}], prior_args=None, remove_ref_energy=True)
    found = converted(switched, tmp_path)
    assert not any(found.task.references.values()) and found.task.semantics.kind == "formation"
    assert any("which the file switches off" in note for note in found.notes)
    assert found.task.offset == on.offset == -3.25 * KCAL_PER_MOL


@pytest.mark.parametrize("prefix", ["", "module.model.", "model._orig_mod.", "model.module."])
def test_prefixes_of_wrappers(prefix: str, tmp_path: Path) -> None:
    archive = energies()
    archive["state_dict"] = {prefix + key.removeprefix("model."): v for key, v in archive["state_dict"].items()}
    assert isinstance(converted(archive, tmp_path).task, Potential)
    description, state, _ = case("equiformer_v2", V2)
    archive = ocp(description, state, "equiformer_v2")
    state = {key.removeprefix("module.module."): value for key, value in archive["state_dict"].items()}
    archive["state_dict"] = {prefix + key: value for key, value in state.items()}
    assert isinstance(converted(archive, tmp_path).task, Potential)


def test_weights_without_what_describes_them(tmp_path: Path) -> None:
    archive = energies()
    del archive["hyper_parameters"]
    with pytest.raises(CovariumError, match="TorchMD-NET without their hyper_parameters"):
        converted(archive, tmp_path)
    description, state, _ = case("equiformer_v2", V2)
    archive = ocp(description, state, "equiformer_v2")
    del archive["config"]
    with pytest.raises(CovariumError, match="has no configuration, and the name 'equiformer_v2' alone does not say"):
        converted(archive, tmp_path, name="equiformer_v2")


def test_nothing_of_equiformer_v2_is_left_over_or_missing(tmp_path: Path) -> None:
    description, state, _ = case("equiformer_v2", V2)
    last = max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))

    def archive() -> dict[str, Any]:
        return ocp(description, state, "equiformer_v2")

    extra = archive()
    extra["state_dict"]["module.module.blocks.9.extra.weight"] = torch.ones(3)
    with pytest.raises(CovariumError, match="hold 'blocks.9.extra.weight', which this model lacks"):
        converted(extra, tmp_path)
    fewer = archive()
    fewer["config"]["model_attributes"]["num_layers"] = last
    with pytest.raises(CovariumError, match=rf"hold 'blocks\.{last}\..*' and \d+ more, which this model lacks"):
        converted(fewer, tmp_path)
    missing = archive()
    del missing["state_dict"]["module.module.norm.affine_weight"]
    with pytest.raises(CovariumError, match="lack 'norm.affine_weight'"):
        converted(missing, tmp_path)
    small = archive()
    small["state_dict"]["module.module.norm.affine_weight"] = torch.ones(1, 2)
    with pytest.raises(CovariumError, match=r"'norm.affine_weight' has shape \(1, 2\), expected"):
        converted(small, tmp_path)


def test_a_head_that_this_model_has_not_is_left_out_and_said(tmp_path: Path) -> None:
    description, state, _ = case("equiformer_v2", V2)
    archive = fairchem(ocp(description, state, "equiformer_v2"))
    plain = converted(archive, tmp_path).task.model.state_dict()
    archive["state_dict"] = {"module.output_heads.stress.block.weight": torch.ones(2), **archive["state_dict"]}
    archive["ema"]["shadow_params"].insert(0, torch.ones(2))
    found = converted(archive, tmp_path)
    assert "left out: the head 'stress', which this model has not" in found.notes
    assert all(torch.equal(value, plain[name]) for name, value in found.task.model.state_dict().items())


def test_equiformer_of_qm9_needs_its_target(tmp_path: Path) -> None:
    name = "graph_attention_transformer_l2"
    state = Equiformer(equiformer.config_of_named(name)).state_dict()
    with pytest.raises(CovariumError, match="does not say of which; name it with --target, one of mu, alpha"):
        converted({"state_dict": state}, tmp_path, name=name)
    with pytest.raises(CovariumError, match="does not say of which"):
        converted({"state_dict": state}, tmp_path, name=name, target="energy")
    found = converted({"state_dict": state}, tmp_path, name=name, target="mu")
    assert isinstance(found.task, Property) and found.task.semantics.name == "mu"
    assert found.task.semantics.unit == "standard deviations from the mean"
    statistics = {"task_mean": torch.tensor(2.7), "task_std": torch.tensor(1.5)}
    task = converted({"state_dict": {**state, **statistics}}, tmp_path, name=name, target="mu").task
    assert (task.semantics.unit, float(task.scale)) == ("D", 1.5) and task.offset == pytest.approx(2.7)
    found = converted({"state_dict": state}, tmp_path, name=name, target="U0")
    assert isinstance(found.task, Potential) and found.task.semantics.kind == "formation"
    assert any("relative to the energies of the isolated atoms" in note for note in found.notes)


def test_whole_tables_are_said_shortly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    off = [{"Atomref": {"enable": False}}]
    archive = energies(dataset="OurOwn", derivative=False, prior_model=off, prior_args=None)
    torch.save(archive, tmp_path / "official.pt")
    out = tmp_path / "model.safetensors"
    assert call("convert", tmp_path / "official.pt", "--target", "energy", "--out", out) == 0
    assert call("info", out) == 0
    said = capsys.readouterr().out
    assert "all 99 from H to Es" in said and "references      none" in said and "0.0000" not in said

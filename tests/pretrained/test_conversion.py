"""Files of the official structure become ours, say what the published implementations say, and run nothing."""

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from command import call
from mutations import limited
from stand_ins import FORCES, IS2RE, MEAN, OLDER, PARITY, STD, case, fairchem, lightning, ocp, repeated_buffers
from torch import Tensor

from covarium import checkpoint
from covarium.errors import CovariumError
from covarium.models import Equiformer, EquiformerV2
from covarium.pretrained import equiformer, equiformer_v2
from covarium.pretrained.conversion import convert
from covarium.tasks import Potential, Property
from covarium.units import KCAL_PER_MOL


def written(content: object, folder: Path) -> Path:
    torch.save(content, folder / "official.pt")
    return folder / "official.pt"


def close(ours: Tensor, reference: np.ndarray) -> None:
    torch.testing.assert_close(ours, torch.from_numpy(reference).reshape(ours.shape), rtol=1e-7, atol=1e-8)


@pytest.fixture(autouse=True)
def float64() -> object:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("layout", ["ocp", "fairchem"])
def test_equiformer_v2(layout: str, tmp_path: Path) -> None:
    from family_equiformer_v2 import _v2_graph

    description, state, folder = case("equiformer_v2", "a_slab_pbc")
    archive = ocp(description, {k: v.double() for k, v in state.items()}, "equiformer_v2")
    converted = convert(written(fairchem(archive) if layout == "fairchem" else archive, tmp_path))
    task = converted.task
    inputs, outputs = dict(np.load(folder / "inputs.npz")), dict(np.load(folder / "outputs.npz"))
    prediction = task.predict(_v2_graph(inputs))
    close((prediction.energy - MEAN) / STD, outputs["energy"])
    close(prediction.forces / FORCES, outputs["forces"])
    assert task.semantics.kind == "adsorption" and task.semantics.functional == "RPBE"
    assert any("averaged" in note for note in converted.notes)


def test_the_last_step_and_averages_that_do_not_fit(tmp_path: Path) -> None:
    description, state, _ = case("equiformer_v2", "b1_gate_mshare_energy")
    archive = ocp(description, state, "equiformer_v2")
    path = written(archive, tmp_path)
    last = convert(path, weights="last").task.model.state_dict()
    averaged = convert(path).task.model.state_dict()
    assert all(torch.equal(last[name], averaged[name] + 1) for name in last)
    archive["ema"]["shadow_params"] = archive["ema"]["shadow_params"][:-1]
    with pytest.raises(CovariumError, match="averaged tensors do not fit.*--weights last"):
        convert(written(archive, tmp_path))


def test_equiformer_v3(tmp_path: Path) -> None:
    from family_equiformer_v3 import _graph

    description, state, folder = case("equiformer_v3", "grad_l3m2")
    task = convert(written(ocp(description, state, "equiformer_v3"), tmp_path)).task
    assert task.forces == "gradient"
    for system in (f for f in sorted(folder.iterdir()) if f.is_dir()):
        inputs = {k: torch.from_numpy(v) for k, v in np.load(system / "inputs.npz").items()}
        outputs = np.load(system / "outputs.npz")
        prediction = task.predict(_graph(inputs))
        close((prediction.energy - MEAN) / STD, outputs["energy"])
        close(prediction.forces / STD, outputs["forces"])


def test_equiformer_of_the_md17_script(tmp_path: Path) -> None:
    """Its file has no configuration: the name gives it. Energies are kcal/mol there."""
    name = "graph_attention_transformer_nonlinear_exp_l2_md17"
    model = Equiformer(equiformer.config_of_named(name))
    state = {**model.state_dict(), "task_mean": torch.tensor(-3.5), "task_std": torch.tensor(2.0)}
    path = written({"state_dict": state}, tmp_path)
    with pytest.raises(CovariumError, match="does not state its model; name it with --name"):
        convert(path)
    with pytest.raises(CovariumError, match="did you mean 'graph_attention_transformer_nonlinear_exp_l2_md17'"):
        convert(path, name=name.replace("md17", "md18").replace("graph", "grph"))
    task = convert(path, name=name).task
    assert task.offset == pytest.approx(-3.5 * KCAL_PER_MOL) and float(task.scale) == pytest.approx(2 * KCAL_PER_MOL)
    assert asdict(task.model.config) == asdict(model.config)
    assert all(torch.equal(a, b) for a, b in zip(task.model.parameters(), model.parameters(), strict=True))


def test_equiformer_of_oc20(tmp_path: Path) -> None:
    from family_equiformer import equiformer_graph

    """Trained on relaxed energies (IS2RE), which have a mean of their own; files hold it in single precision."""
    description, state, folder = case("equiformer", "oc20_l1_nonlinear")
    archive = ocp(description, state, "graph_attention_transformer")
    archive["normalizers"] = {"target": {"mean": torch.tensor(IS2RE[0]).float(), "std": torch.tensor(IS2RE[1]).float()}}
    task = convert(written(archive, tmp_path)).task
    assert (task.semantics.kind, task.semantics.functional) == ("adsorption", "RPBE")
    assert "IS2RE" in task.semantics.note
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    prediction = task.predict(equiformer_graph(inputs), forces=False)
    energy = (prediction.energy - task.offset) / task.scale
    close(energy, np.load(folder / "outputs.npz")["energy"])
    archive["normalizers"]["target"]["mean"] *= 1.01
    assert convert(written(archive, tmp_path)).task.semantics.kind == "unknown"


@pytest.mark.parametrize("release", ["3.x", "0.2.x"])
def test_torchmd_net_energies(release: str, tmp_path: Path) -> None:
    from family_torchmd_et import _graph

    description, state, folder = case("torchmd_et", "atomref_meanstd")
    if release == "0.2.x":
        renamed = (("update_net.layers.", "update_net."), ("prior_model.0.", "prior_model."))
        for new, old in renamed:
            assert any(new in name for name in state)
            state = {name.replace(new, old): value for name, value in state.items()}
    archive = lightning(description, state)
    if release == "0.2.x":
        older = {"prior_model": "Atomref", "prior_args": {"max_z": 100}, "dataset_arg": "uracil"}
        archive["hyper_parameters"] |= OLDER | older
    converted = convert(written(archive, tmp_path))
    assert not any("left out" in note for note in converted.notes)
    task = converted.task
    assert isinstance(task, Potential)
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    prediction, outputs = task.predict(_graph(inputs)[0]), np.load(folder / "outputs.npz")
    close(prediction.energy / KCAL_PER_MOL, outputs["y"])
    close(prediction.forces / KCAL_PER_MOL, outputs["neg_dy"])


def test_torchmd_net_properties(tmp_path: Path) -> None:
    from family_torchmd_et import _graph

    description, state, folder = case("torchmd_et", "dipole_equivariant")
    task = convert(written(lightning(description, state, "QM9"), tmp_path)).task
    assert isinstance(task, Property)
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    close(task.predict(_graph(inputs)[0]).value, np.load(folder / "outputs.npz")["y"])


def test_biases_from_before_their_removal_are_refused(tmp_path: Path) -> None:
    description, state, _ = case("torchmd_et", "atomref_meanstd")
    state["representation_model.attention_layers.0.vec_proj.bias"] = torch.zeros(48)
    with pytest.raises(CovariumError, match="before 2022-02-21"):
        convert(written(lightning(description, state), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["31M", "83M", "153M"])
def test_full_size(size: str, tmp_path: Path) -> None:
    """Official names in official order with the training extras; every buffer repeated as in the files."""
    torch.set_default_dtype(torch.float32)
    listed = json.loads((PARITY / "equiformer_v2" / f"official_{size}_params.json").read_text())
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in listed["parameters"].items()}
    buffers = repeated_buffers(listed["constructor"]["lmax_list"][0], listed["constructor"]["num_layers"])
    archive = ocp(listed, {**state, **buffers}, "equiformer_v2", list(state))
    assert call("convert", written(archive, tmp_path), "--out", tmp_path / "v2.safetensors") == 0
    task = checkpoint.load(tmp_path / "v2.safetensors").task
    own = dict(task.model.named_parameters())
    assert own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in state)


def test_the_command_writes_a_file_that_everything_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description, state, _ = case("equiformer_v2", "a_slab_pbc")
    path = written(ocp(description, state, "equiformer_v2"), tmp_path)
    out = tmp_path / "model.safetensors"
    assert call("convert", path, "--out", out) == 0
    assert f"covarium info {out}" in capsys.readouterr().out
    assert call("convert", path, "--out", out) == 2
    assert "exists already" in capsys.readouterr().err
    assert call("info", out) == 0
    said = capsys.readouterr().out
    assert "adsorption" in said and "RPBE" in said
    import ase.io

    slab = Atoms("Cu4", [[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [1.2, 1.2, 1.8]], cell=[5, 5, 15], pbc=True)
    ase.io.write(tmp_path / "slab.xyz", slab, format="extxyz")
    assert call("predict", out, tmp_path / "slab.xyz", "--out", tmp_path / "p.xyz") == 0
    assert np.isfinite(ase.io.read(tmp_path / "p.xyz").get_forces()).all()


class Payload:
    """Unpickled by Python, this makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> object:
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("how", ["torch", "pickle", "legacy"])
def test_a_payload_never_runs(how: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "ran", tmp_path / "evil.pt"
    content = {"state_dict": {"w": torch.zeros(2)}, "config": Payload(proof)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    pickle.loads(pickle.dumps(Payload(tmp_path / "control")))
    assert (tmp_path / "control").exists(), "the payload works"
    with pytest.raises(CovariumError, match="neither a tensor nor a plain value"):
        convert(path)
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_no_checkpoint_at_all(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CovariumError, match="x.pt"):
        convert(tmp_path / "x.pt")
    with pytest.raises(CovariumError, match="there is no file"):
        convert(tmp_path / "y.pt")
    with pytest.raises(CovariumError, match="holds no weights"):
        convert(written({"epoch": 3}, tmp_path))


V2 = {"model": "equiformer_v2", "model_attributes": {}}
TORCHMD = {"model": "equivariant-transformer", "num_heads": 8}


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {1: torch.zeros(3)}},
        {"state_dict": {"a": 1}, "config": V2},
        {"hyper_parameters": 3},
        {"hyper_parameters": {}},
        {"hyper_parameters": {**TORCHMD, "embedding_dimension": "x"}},
        {"hyper_parameters": {**TORCHMD, "embedding_dimension": 10**7, "num_layers": 10**6}},
        {"state_dict": {"a": torch.zeros(10**6)}, "hyper_parameters": {**TORCHMD, "num_layers": 10**6}},
        {"state_dict": {"a": torch.zeros(10**6)}, "hyper_parameters": {**TORCHMD, "embedding_dimension": 10**6}},
        {"config": [1]},
        {"config": {"model": ["x"]}},
        {"config": {**V2, "model_attributes": [1, 2]}},
        {"config": {**V2, "model_attributes": {"num_layers": "x"}}},
        {"config": {**V2, "model_attributes": {"lmax_list": 3}}},
        {"config": {**V2, "model_attributes": {"num_layers": 10**7, "sphere_channels": 10**9}}},
        {"config": V2, "ema": [1]},
        {"config": {**V2, "dataset": []}},
        {"config": V2, "normalizers": {"target": {}}},
    ],
    ids=str,
)
def test_a_foreign_file_is_refused_at_once_with_its_name(content: dict, tmp_path: Path) -> None:
    path = written({"state_dict": {"a": torch.zeros(3)}, **content}, tmp_path)
    with limited(5), pytest.raises(CovariumError, match="official.pt"):
        convert(path)


def test_a_file_without_sound_normalisers_is_refused(tmp_path: Path) -> None:
    description, state, _ = case("equiformer_v2", "b1_gate_mshare_energy")
    archive = ocp(description, state, "equiformer_v2")
    for damage, said in (
        ({"normalizers": {"target": {}}}, "normalizers.target.mean is None; a finite number is expected"),
        ({"ema": [1]}, r"ema is \[1\]; a dictionary is expected"),
        ({"ema": {"shadow_params": 3}}, "ema.shadow_params is no list of tensors"),
    ):
        with pytest.raises(CovariumError, match=f"official.pt: {said}"):
            convert(written({**archive, **damage}, tmp_path))


def test_arguments_of_fairchem() -> None:
    config = equiformer_v2.config_from_official(
        {"avg_num_nodes": 31.17, "avg_degree": 61.95, "enforce_max_neighbors_strictly": False, "max_num_elements": 96}
    )
    assert (config.avg_num_nodes, config.avg_degree, config.neighbours) == (31.17, 61.95, "nearest_with_ties")
    assert EquiformerV2(config).spec.rule == "nearest_with_ties"

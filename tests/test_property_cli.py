"""From a file of molecules with a property to a model of it and its use, as a user types it."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from command import call

import covarium

NAMES = ("CH4", "H2O", "CO2", "C2H6", "NH3", "CH3OH", "C6H6", "HCN", "C2H4", "H2CO", "C2H2", "N2H4")
TINY = (
    "--set model.num_layers=1 --set model.embedding_dimension=8 --set model.num_heads=2 --set model.num_rbf=8 "
    "--set training.batch_size=4 --set training.steps=6 --threads 1"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "mols.extxyz"
    frames = []
    for k in range(3 * len(NAMES)):
        atoms = molecule(NAMES[k % len(NAMES)])
        atoms.rattle(0.05, seed=k)
        charges = atoms.numbers - atoms.numbers.mean()
        dipole = charges @ atoms.positions
        u0 = float(-13.0 * atoms.numbers.sum() + np.sin(k))
        atoms.info = {
            "u0": u0,
            "mu": float(np.linalg.norm(dipole)),
            "moment": dipole,
            "my_score": 3.0 + 0.1 * np.cos(k),
        }
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return path


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("u0", "rule for QM9's targets: a total energy"),
        ("mu", "the length of the dipole moment"),
        ("moment", "a vector; head 'vector'"),
        ("my_score", "of the spread as a"),
    ],
)
def test_train_evaluate_predict_info(key: str, told: str, data: Path, tmp_path: Path, capsys: object) -> None:
    run = tmp_path / key
    unit = {"mu": "D", "u0": "eV"}.get(key, "")
    stated = ["--set", f"data.units.property={unit}"] if unit else []
    assert call("train", data, "--property", key, "--out", run, *stated, *TINY) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert told in said and f"covarium predict {run} FILE" in said
    assert not unit or f"in {unit}" in said
    assert ("unit not stated" in said) == (not unit)
    assert (run / "best.safetensors").is_file() and "Property, validation" in (run / "report.html").read_text()

    found = run / "errors.json"
    assert call("evaluate", run, data, "--json", found, "--out", tmp_path / "judged") == 0
    errors = json.loads(found.read_text())
    assert errors["property"]["name"] == key and errors["property"]["mae"] > 0 and errors["frames"] == 36
    assert errors["units"]["property"] == unit
    assert (tmp_path / "judged" / "report.html").is_file()

    out = tmp_path / "out.extxyz"
    assert call("predict", run, data, "--out", out) == 0
    frames = ase.io.read(out, ":")
    values = covarium.load(run).predict(ase.io.read(data, ":"))
    assert np.abs(np.array([atoms.info[key] for atoms in frames]) - values).max() < 1e-5
    labels = np.array([atoms.info[key] for atoms in ase.io.read(data, ":")])
    assert np.abs(values - labels).mean() == pytest.approx(errors["property"]["mae"], rel=1e-4)

    capsys.readouterr()
    assert call("check", "model", run, data, "--frames", "1", "--threads", "1") == 0
    checked = capsys.readouterr().out
    assert "float32 against float64" in checked and " checks, 0 failed" in checked
    assert call("info", run) == 0
    assert f"property {key}" in " ".join(capsys.readouterr().out.split())
    assert call("md", run, data) == 2 and f"predicts the property '{key}'" in capsys.readouterr().err


def test_the_written_configuration_gives_the_same_run(data: Path, tmp_path: Path) -> None:
    assert call("train", data, "--property", "u0", "--out", tmp_path / "a", *TINY) == 0
    config = tmp_path / "a" / "config.resolved.yaml"
    assert call("train", "--config", config, "--out", tmp_path / "b") == 0
    one, other = (covarium.load(tmp_path / name) for name in "ab")
    assert one.task.describe() == other.task.describe()
    for name, value in one.task.state_dict().items():
        assert (value == other.task.state_dict()[name]).all(), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--property my_scor", "no key 'my_scor' for property; did you mean 'my_score'"),
        ("--property moment --model equiformer_v2", "scalars only; models with vectors: torchmd_et"),
        ("--property mu --set task.terms.energy.weight=1", "key 'task.terms.energy' of a property is unknown"),
        ("--property mu --set task.property.readout=product", "task.property.readout"),
    ],
)
def test_refusals(arguments: str, message: str, data: Path, tmp_path: Path, capsys: object) -> None:
    assert call("train", data, *arguments.split(), "--out", tmp_path / "x", "--dry-run") == 2
    assert message in capsys.readouterr().err


def test_a_file_in_another_unit_is_refused(data: Path, tmp_path: Path, capsys: object) -> None:
    run = tmp_path / "run"
    assert call("train", data, "--property", "mu", "--set", "data.units.property=D", "--out", run, *TINY) == 0
    assert call("evaluate", run, data, "--set", "data.units.property=au") == 2
    assert "'mu' is in au" in capsys.readouterr().err

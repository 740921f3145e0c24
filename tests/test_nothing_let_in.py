"""Real payloads in every place where a file could carry code: none of them runs, and each file is refused.

The payload leaves a file behind when it runs. That it can run is shown once, with the unsafe reader.
"""

from __future__ import annotations

import io
import pickle
import socket
import sqlite3
import zipfile
from dataclasses import asdict
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.io.pickletrajectory import PickleTrajectory
from command import call
from sound import molecules, write

from covarium import checkpoint
from covarium.config import RunConfig, build, parse_assignment, read_yaml
from covarium.data import read, read_structures
from covarium.data.survey import Survey
from covarium.errors import CovariumError
from covarium.models import EquiformerV2
from covarium.tasks import Potential
from covarium.workflows.doctor import TINY
from covarium.workflows.loaded import load


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def refuse_everywhere(path: Path) -> None:
    for reader in (lambda: read([path]), lambda: read_structures([path]), lambda: Survey().read(path)):
        with pytest.raises(CovariumError, match=path.name):
            reader()


def test_the_payload_is_real(trap: Path) -> None:
    pickle.loads(pickle.dumps(Payload(trap)))
    assert trap.exists()


def test_pickles_in_npz(trap: Path, tmp_path: Path) -> None:
    objects = np.array([Payload(trap), None], dtype=object)
    water = molecules(4)[3]
    arrays = {"z": water.numbers, "R": water.positions[None], "E": np.zeros(1), "F": np.zeros((1, 3, 3))}
    for name in (*arrays, "extra"):
        np.savez(tmp_path / "a.npz", allow_pickle=True, **{**arrays, name: objects})
        refuse_everywhere(tmp_path / "a.npz")
    assert not trap.exists()
    np.load(tmp_path / "a.npz", allow_pickle=True)["extra"]
    assert trap.exists(), "the payload was not in the file"


def test_pickled_trajectories(trap: Path, tmp_path: Path) -> None:
    """ASE's oldest trajectories are pickles, under the name that its present ones have."""
    with PickleTrajectory(str(tmp_path / "a.traj"), "w", _warn=False) as old:
        old.write(Atoms("H2", [[0, 0, 0], [0, 0, 0.8]]))
    start = (tmp_path / "a.traj").read_bytes()[: len(b"PickleTrajectory")]
    assert start == b"PickleTrajectory"
    (tmp_path / "a.traj").write_bytes(start + pickle.dumps({"positions": Payload(trap)}))
    refuse_everywhere(tmp_path / "a.traj")
    for name in ("a.pickle", "a.pkl", "b.traj", "a.extxyz", "a.db", "OUTCAR"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(trap)))
        refuse_everywhere(tmp_path / name)
    assert not trap.exists()


def test_pickles_in_the_parts_of_files_that_ase_decodes(trap: Path, tmp_path: Path) -> None:
    """Object arrays by their dtype in a trajectory, constraints by name in a trajectory and a data base."""
    atoms = molecules(4)[3]
    payload = pickle.dumps(Payload(trap))
    ase.io.write(tmp_path / "a.traj", [atoms])
    data = (tmp_path / "a.traj").read_bytes()
    (tmp_path / "a.traj").write_bytes(data.replace(b'"float64"', b'"|O"     ', 1))
    refuse_everywhere(tmp_path / "a.traj")
    ase.io.write(tmp_path / "a.db", [atoms])
    for column in ("constraints", "data"):
        with sqlite3.connect(tmp_path / "a.db") as base:
            base.execute(f"update systems set {column} = ?", (payload,))
        refuse_everywhere(tmp_path / "a.db")
        with sqlite3.connect(tmp_path / "a.db") as base:
            base.execute(
                f"update systems set {column} = ?", ('[{"name": "os.system", "kwargs": {"command": "true"}}]',)
            )
        if column == "constraints":
            refuse_everywhere(tmp_path / "a.db")
    assert not trap.exists()


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "best.safetensors", "model.ckpt"])
@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle"])
def test_pickled_models(name: str, kind: str, trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Payload(trap)}))
    else:
        torch.save({"state_dict": Payload(trap)}, path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(CovariumError, match="pickle"):
        load(path)
    for command in ("info", "predict"):
        assert call(command, path, *([tmp_path / "a.xyz"] if command == "predict" else [])) == 2
    assert "could run code when opened" in capsys.readouterr().err
    assert not trap.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False) if kind != "pickle" else pickle.loads(
        path.read_bytes()
    )
    assert trap.exists(), "the payload was not in the file"


PYTHON = ("!!python/object/apply:pathlib.Path.touch [{arg}]", "!!python/object/new:os.system [touch {path}]",
          "!!python/object/apply:os.system ['touch {path}']")  # fmt: skip


@pytest.mark.parametrize("tag", PYTHON)
def test_yaml_makes_plain_values_only(tag: str, trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tag.format(path=trap, arg=f"!!python/object/apply:pathlib.Path ['{trap}']")
    (tmp_path / "run.yaml").write_text(f"model: {text}\n")
    with pytest.raises(CovariumError, match=r"run\.yaml is not valid YAML"):
        build(RunConfig, read_yaml(tmp_path / "run.yaml"))
    with pytest.raises(CovariumError, match="--set model"):
        parse_assignment(f"model={text}")
    assert call("train", "--config", tmp_path / "run.yaml") == 2
    assert call("train", "a.xyz", "--set", f"model.lmax={text}") == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not trap.exists()


def test_the_yaml_payload_is_real(trap: Path) -> None:
    yaml.unsafe_load(PYTHON[2].format(path=trap))
    assert trap.exists()


def test_yaml_that_grows_when_it_is_read(tmp_path: Path) -> None:
    lines = ["task:", "  references: &a0 {x: [1, 1, 1, 1, 1, 1, 1, 1, 1]}", "data:"]
    lines += [f"  k{k}: &a{k} [" + ", ".join([f"*a{k - 1}"] * 9) + "]" for k in range(1, 12)]
    for text in ("\n".join(lines), "data: {train: *a}", "data: &a {keys: *a}", "model: " + "[" * 10_000,
                 "seed: 2001-99-99", "seed: !!int x", "seed: " + "9" * 5000,
                 "data: {train: [~nobody-here/a.xyz]}"):  # fmt: skip
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(CovariumError) as told:
            build(RunConfig, read_yaml(tmp_path / "run.yaml"))
        assert len(str(told.value)) < 20_000


@pytest.mark.parametrize("member", ["../outside.npy", "/tmp/covarium-outside.npy", "R.npy/../../outside.npy"])
def test_paths_inside_archives_write_nothing(member: str, tmp_path: Path) -> None:
    place = tmp_path / "inside"
    place.mkdir()
    water = molecules(4)[3]
    np.savez(place / "a.npz", z=water.numbers, R=water.positions[None], E=np.zeros(1), F=np.ones((1, 3, 3)))
    with zipfile.ZipFile(place / "a.npz", "a") as archive:
        archive.writestr(member, archive.read("E.npy"))
    read([place / "a.npz"], units={"energy": "eV"})
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "a.npz"]
    assert not Path("/tmp/covarium-outside.npy").exists()


def test_archives_that_grow_beyond_measure_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    from covarium.data import formats, npz_files

    for module in (formats, npz_files):
        monkeypatch.setattr(module, "GROWTH", (2**16, 100))
    np.savez_compressed(tmp_path / "a.npz", R=np.zeros((1000, 100, 3)), z=np.ones(100, dtype=int), E=np.zeros(1000))
    (tmp_path / "a.extxyz.gz").write_bytes(gzip.compress(b"\n" * 2**24))
    for name in ("a.npz", "a.extxyz.gz"):
        with pytest.raises(CovariumError, match=f"{name} grows to"):
            read([tmp_path / name])


def forged(path: Path, change: dict) -> Path:
    """A checkpoint with a right hash over a wrong description."""
    tensors, header = checkpoint.read_file(path, "covarium")
    for place, value in change.items():
        *outer, last = place.split(".")
        target = header
        for key in outer:
            target = target[key]
        target[last] = value
    checkpoint.write_file(path.with_name("forged.safetensors"), tensors, "covarium", header)
    return path.with_name("forged.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"config": [1]}, {"config.lmax": "2"}, {"config.lmax": -1}, {"config.sphere_channels": 10**9},
        {"config.num_layers": 10**7}, {"config.norm_type": "os.system"}, {"config.cutoff": None},
        {"config.activation": 1}, {"model": ["x"]}, {"model": "os.system"}, {"task": 3},
        {"task.kind": "subprocess.Popen"}, {"task.kind": []}, {"task.references": [[1, 2]]},
        {"task.terms": {"a": 1}}, {"task.scale": "x"}, {"format": 99}, {"format": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_forged_descriptions_of_models_are_refused(change: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "m.safetensors", Potential(EquiformerV2(TINY), references={1: 0.0}), {})
    path = forged(tmp_path / "m.safetensors", change)
    with pytest.raises(CovariumError, match=r"forged\.safetensors|model\."):
        load(path)


def test_nothing_asks_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check, a training run, a prediction and a self-test, with every way out closed."""

    def closed(*_: object, **__: object) -> None:
        raise AssertionError("something asked the network")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, closed)
    monkeypatch.setattr(socket, "getaddrinfo", closed)
    path = write(tmp_path / "a.extxyz", molecules(20))
    run = tmp_path / "run"
    tiny = [f"model.{name}={value}" for name, value in asdict(TINY).items() if isinstance(value, int)]
    options = [
        part for setting in ["model.name=equiformer_v2", *tiny, "training.steps=2"] for part in ("--set", setting)
    ]
    assert call("check", "data", path, "--out", tmp_path / "checked") == 0
    assert call("train", path, *options, "--out", run, "--threads", "1") == 0
    assert call("predict", run, path, "--out", tmp_path / "x.extxyz") == 0
    assert call("info", run) == 0

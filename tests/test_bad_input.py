"""Whatever is typed: one message, exit code 0, 1 or 2, no traceback, nothing half-written."""

from __future__ import annotations

import string
import warnings
from pathlib import Path

import ase.io
import command
import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import limited
from sound import labelled, molecules, relabel, write

from covarium import checkpoint
from covarium.models import EquiformerV2
from covarium.tasks import Potential
from covarium.workflows.doctor import TINY

ANYTHING = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SECONDS = 60  # of one command, on a machine that is busy


def call(*arguments: str | Path) -> int:
    """The exit code of a command that ends in time, run in this process."""
    with limited(SECONDS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return command.call(*arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, labelled structures, and files that are wrong in one way each."""
    place = tmp_path_factory.mktemp("input")
    torch.manual_seed(0)
    model = Potential(EquiformerV2(TINY), references={1: -3.0, 6: -9.0, 8: -4.0})
    checkpoint.save(place / "model.safetensors", model, {"run": {}})
    frames = molecules(12)
    write(place / "good.extxyz", frames)
    (place / "empty.extxyz").touch()
    (place / "empty.safetensors").touch()
    (place / "noise.extxyz").write_bytes(np.random.default_rng(0).bytes(3000))
    (place / "noise.safetensors").write_bytes(np.random.default_rng(1).bytes(3000))
    (place / "cut.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:-100])
    (place / "page.safetensors").write_text("<!DOCTYPE html><html>404</html>")
    (place / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    write(place / "gold.extxyz", [Atoms("Au2", [[0, 0, 0], [0, 0, 2.6]])])
    for atoms in frames:
        relabel(atoms, forces=None)
    write(place / "energies.extxyz", frames)
    bohr = [labelled(atoms) for atoms in molecules(12)]
    for atoms in bohr:
        results = dict(atoms.calc.results)
        atoms.positions /= 0.529177
        relabel(atoms, **results)
    write(place / "bohr.extxyz", bohr)
    ase.io.write(place / "ok.xyz", molecules(4)[3])
    return place


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("train {d}/god.extxyz", "god.extxyz is not there; did you mean 'good.extxyz'?"),
        ("predict {d}/modell.safetensors {d}/ok.xyz", "does not exist; did you mean 'model.safetensors'?"),
        ("train {d}/empty.extxyz", "empty.extxyz holds no structures"),
        ("train {d}/noise.extxyz", "noise.extxyz"),
        ("predict {d}/empty.safetensors {d}/ok.xyz", "empty.safetensors is truncated"),
        ("predict {d}/noise.safetensors {d}/ok.xyz", "noise.safetensors is truncated"),
        ("predict {d}/cut.safetensors {d}/ok.xyz", "cut.safetensors is truncated, damaged"),
        ("predict {d}/page.safetensors {d}/ok.xyz", "a web page"),
        ("predict {d}/pointer.safetensors {d}/ok.xyz", "git lfs pull"),
        ("info {d}/good.extxyz", "good.extxyz"),
        ("predict {d}/model.safetensors {d}/gold.extxyz", "gold.extxyz"),
        ("evaluate {d}/model.safetensors {d}/gold.extxyz", "gold.extxyz"),
        ("md {d}/model.safetensors {d}/gold.extxyz --steps 1 --out md", "79"),
        ("relax {d}/model.safetensors {d}/gold.extxyz --steps 1 --out relax", "79"),
        ("check model {d}/model.safetensors {d}/gold.extxyz", "79"),
        ("train {d}/energies.extxyz --set task.terms.forces.weight=1", "energies.extxyz has no forces"),
        ("train {d}/good.extxyz --valid {d}/energies.extxyz", "energies.extxyz"),
        ("train {d}/bohr.extxyz", "positions look like Bohr"),
        ("train {d}/good.extxyz --set data.units.energy=kcal", "unit of energy 'kcal' is unknown"),
        ("train {d}/good.extxyz --set data.accept=[leek]", "did you mean 'leak'?"),
        ("check dat {d}/good.extxyz", "Did you mean 'data'?"),
        ("docter", "Did you mean 'doctor'?"),
        ("doctor --threads 0", "--threads"),
        ("train {d}/good.extxyz --set data.train=[~nobody-here/a.xyz]", "a user who is not known"),
        ("train {d}/good.extxyz --set seed=2001-99-99", "--set seed is not valid YAML"),
    ],
)  # fmt: skip
def test_every_mistake_has_one_message_with_its_remedy(
    arguments: str, told: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in folder.iterdir())
    assert call(*arguments.format(d=folder).split()) == 2
    said = capsys.readouterr().err
    assert told in said and said.startswith("error: ")
    assert "Traceback" not in said and "should not happen" not in said
    assert not list(tmp_path.iterdir()) and sorted(path.name for path in folder.iterdir()) == before


KEYS = (
    "data.keys.energy data.limit data.valid_part data.split_by data.units.length data.accept data.train data "
    "model.lmax model.name model.cutoff task.terms.energy.loss task.references task.scale training.lr "
    "training.batch_size seed dtype threads a . data..x"
).split()
OPTIONS = (
    "--out --model --recipe --config --set --time --epochs --device --dtype --seed --json --train --cutoff --accept "
    "--index --steps --resume --threads --frames --ensemble --temperature --timestep --pressure --fmax --valid --test"
).split()
VALUES = "0 1 -1 3 1fs 0.5 nan inf 1e99 cpu float64 nve langevin overlap".split()
SETTINGS = ("0", "-1", "1", "nan", "inf", "1e400", "null", "[]", "{}", "true", "[1, 2]", "x", "", "{a: 1}", "'")


def words(folder: Path) -> st.SearchStrategy[str]:
    files = [str(path) for path in sorted(folder.iterdir())]
    values = st.one_of(st.sampled_from(SETTINGS), st.text(string.printable, max_size=6))
    return st.one_of(
        st.sampled_from([*files, str(folder), "nowhere", "", "-", "--", "-h1", "\u2603"]),
        st.sampled_from(OPTIONS),
        st.sampled_from(VALUES),
        st.builds(lambda key, value: f"--set={key}={value}", st.sampled_from(KEYS), values),
    )


# The length of what is computed is bounded from behind: the last option wins.
COMMANDS = {
    "train": ["--dry-run", "--threads=1"], "evaluate": ["--threads=1"], "predict": ["--threads=1"],
    "md": ["--steps=1", "--threads=1"], "relax": ["--steps=1", "--threads=1"], "info": [], "check data": [],
    "trian": [], "check": [], "": [],
}  # fmt: skip


def type_something(data: st.DataObject, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = data.draw(st.sampled_from(sorted(COMMANDS)))
    typed = [*command.split(), *data.draw(st.lists(words(folder), max_size=5)), *COMMANDS[command]]
    threads = torch.get_num_threads()
    code = call(*typed)
    torch.set_num_threads(threads)
    said = capsys.readouterr()
    assert code in (0, 1, 2), typed
    assert "Traceback" not in said.err and "should not happen" not in said.err, (typed, said.err)
    assert code != 2 or said.err or said.out, typed


@settings(ANYTHING, max_examples=150, derandomize=True)
@given(data=st.data())
def test_anything_typed_gives_a_message_and_an_exit_code(
    data: st.DataObject, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    type_something(data, folder, capsys)


@pytest.mark.slow
@settings(ANYTHING, max_examples=3000)
@given(data=st.data())
def test_very_much_typed_gives_a_message_and_an_exit_code(
    data: st.DataObject, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    type_something(data, folder, capsys)

"""The file of a trained task: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from covarium import checkpoint
from covarium.errors import CovariumError
from covarium.systems import atom_graph


@dataclass(frozen=True)
class LineConfig:
    width: int
    ends: tuple[tuple[float, float], ...] = ((0.0, 1.0),)


class Line(nn.Module):
    def __init__(self, config: LineConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.width, config.width)
        self.tied = self.linear  # shares its memory, which safetensors alone refuses
        self.register_buffer("table", torch.linspace(0, 1, 3) / 3, persistent=False)


class Ask(nn.Module):
    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def describe(self):
        return {"kind": "ask", "scale": self.scale}

    @classmethod
    def from_description(cls, model, description):
        return cls(model, description["scale"])


MODELS = {"line": (Line, LineConfig)}
TASKS = {"ask": Ask}
CARD = {"metrics": {"forces_mae": 0.1 + 0.2}, "data": ["a.xyz"]}


def load(path, **options):
    return checkpoint.load(path, models=MODELS, tasks=TASKS, **options)


@pytest.fixture
def task():
    torch.manual_seed(1)
    return Ask(Line(LineConfig(4, ((1.0, 2.0), (3.0, 4.0)))), scale=1 / 3)


@pytest.fixture
def path(tmp_path, task):
    checkpoint.save(tmp_path / "best.safetensors", task, CARD, models=MODELS)
    return tmp_path / "best.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip_is_exact(tmp_path, task, dtype):
    default, random = torch.get_default_dtype(), torch.get_rng_state()
    torch.set_default_dtype(dtype)
    task = Ask(Line(LineConfig(4, ((1.0, 2.0), (3.0, 4.0)))), scale=1 / 3)
    torch.set_default_dtype(default)
    torch.set_rng_state(random)
    checkpoint.save(tmp_path / "x.safetensors", task, CARD, models=MODELS)
    loaded = load(tmp_path / "x.safetensors")
    assert loaded.task.scale == task.scale and loaded.task.model.config == task.model.config
    assert loaded.header["card"] == CARD and loaded.header["format"] == checkpoint.FORMAT == 2
    assert not loaded.task.training
    pairs = [*loaded.task.state_dict().items(), ("model.table", loaded.task.model.table)]
    own = {**task.state_dict(), "model.table": task.model.table}
    assert all(value.dtype == dtype and torch.equal(value, own[name]) for name, value in pairs)
    assert torch.get_default_dtype() == default and torch.equal(torch.get_rng_state(), random)


def test_dtype_can_be_chosen(path, task):
    loaded = load(path, dtype=torch.float64).task
    assert torch.equal(loaded.model.linear.weight, task.model.linear.weight.double())


def test_only_our_name_is_left_in_the_folder(path):
    assert os.listdir(path.parent) == ["best.safetensors"]
    (path.parent / "plain").touch()
    assert path.stat().st_mode == (path.parent / "plain").stat().st_mode


def test_a_failed_write_keeps_the_old_file(path, task):
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # as a disk with 100 bytes left
    try:
        with pytest.raises(CovariumError, match="File too large; the file that was there is unchanged"):
            checkpoint.save(path, task, {}, models=MODELS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_no_folder_is_said(tmp_path, task):
    (tmp_path / "file").write_text("")
    with pytest.raises(CovariumError, match="cannot write .*file"):
        checkpoint.save(tmp_path / "file" / "x.safetensors", task, {}, models=MODELS)


def test_folders_are_made(tmp_path, task):
    checkpoint.save(tmp_path / "new" / "folder" / "x.safetensors", task, {}, models=MODELS)
    assert os.listdir(tmp_path / "new" / "folder") == ["x.safetensors"]


def test_a_model_outside_the_table_is_not_saved(tmp_path, task):
    with pytest.raises(CovariumError, match=r"cannot save a Line: the table of models has \['other'\]"):
        checkpoint.save(tmp_path / "x.safetensors", task, {}, models={"other": (nn.Linear, LineConfig)})


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil_was_here",)


def test_foreign_files_are_told_apart_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "x.safetensors"
    torch.save({"payload": Evil()}, file)
    cases = [(file.read_bytes(), "PyTorch or zip archive"), (pickle.dumps(Evil()), "pickle")]
    torch.save({"payload": Evil()}, file, _use_new_zipfile_serialization=False)
    cases += [(file.read_bytes(), "pickle"), (b"<!DOCTYPE html><html>404</html>", "web page")]
    cases += [(b"\n <html>", "web page"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull")]
    cases += [(b"", "truncated"), (b"{}", "truncated"), (b"energy,forces\n" * 10, "no safetensors file")]
    for content, words in cases:
        file.write_bytes(content)
        with pytest.raises(CovariumError, match=words):
            load(file)
    assert not (tmp_path / "evil_was_here").exists()
    save_file({"x": torch.ones(2)}, file)
    with pytest.raises(CovariumError, match="not written as 'covarium' by Covarium: its header holds nothing"):
        load(file)
    with pytest.raises(CovariumError, match=r"cannot read .*y\.safetensors: No such file"):
        load(tmp_path / "y.safetensors")
    with pytest.raises(CovariumError, match=r"is a folder; give a file, such as .*x\.safetensors"):
        load(tmp_path)


@settings(max_examples=150, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_every_flipped_bit_and_every_cut_is_found(tmp_path_factory, where, bit, cut):
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    checkpoint.save(file, Ask(Line(LineConfig(4)), scale=1.0), CARD, models=MODELS)
    content = bytearray(file.read_bytes())
    place = int(where * len(content))
    if cut:
        del content[place:]
    else:
        content[place] ^= 1 << bit
    file.write_bytes(bytes(content))
    with pytest.raises(CovariumError, match=r"x\.safetensors"):
        load(file)


def rewritten(path, change):
    """The file with a changed header, its hash made right again."""
    tensors, header = checkpoint.read_file(path, "covarium")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(header, tensors)
    checkpoint.write_file(path, tensors, "covarium", header)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(format=3), "has format 3, this version of Covarium reads up to 2; upgrade"),
        (lambda h, t: h.update(format="one"), "format is 'one'"),
        (
            lambda h, t: h.update(model="lime"),
            r"holds the model 'lime', which is unknown; known: \['line'\]; did you mean",
        ),
        (lambda h, t: h["task"].update(kind="asks"), "the task 'asks', which is unknown.*did you mean 'ask'"),
        (lambda h, t: h["config"].update(widht=3), "unknown configuration key 'widht'; did you mean 'width'"),
        (lambda h, t: h["config"].pop("width"), "configuration key 'width' is missing"),
        (lambda h, t: h["config"].update(width=5), r"have shape \[4\], the model's have \[5\]"),
        (lambda h, t: t.pop("model.linear.bias"), r"weights 'model\.linear\.bias' are missing"),
        (lambda h, t: t.update({"model.extra": torch.ones(1)}), r"'model\.extra' belong to no part of the model"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(path, change, message):
    rewritten(path, change)
    with pytest.raises(CovariumError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_migrations_lead_from_any_format_to_the_newest(tmp_path):
    def v1_to_v2(header, tensors):
        return {**header, "seen": [*header.get("seen", []), 1]}, {f"new.{k}": v for k, v in tensors.items()}

    def v2_to_v3(header, tensors):
        return {**header, "seen": [*header.get("seen", []), 2]}, tensors

    steps = (v1_to_v2, v2_to_v3)
    old, weights = {"format": 1}, {"w": torch.ones(1)}
    header, tensors = checkpoint.migrate(tmp_path, old, weights, steps)
    assert header == {"format": 3, "seen": [1, 2]} and list(tensors) == ["new.w"]
    assert old == {"format": 1} and list(weights) == ["w"]
    assert checkpoint.migrate(tmp_path, {"format": 2}, weights, steps)[0] == {"format": 3, "seen": [2]}
    assert checkpoint.migrate(tmp_path, {"format": 3}, weights, steps)[0] == {"format": 3}
    with pytest.raises(CovariumError, match="format 4, this version of Covarium reads up to 3"):
        checkpoint.migrate(tmp_path, {"format": 4}, weights, steps)


def test_the_header_is_plain_json(path):
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(length))["__metadata__"]
    header = json.loads(metadata["covarium"])
    assert header["model"] == "line" and header["config"] == {"width": 4, "ends": [[1.0, 2.0], [3.0, 4.0]]}
    assert header["task"] == {"kind": "ask", "scale": 1 / 3}


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "checkpoints").glob("v*.safetensors")), ids=lambda p: p.stem
)
def test_files_of_every_format_say_what_they_said(path):
    """One frozen file per version: a water molecule has the energy and the forces it had when the file was written."""
    loaded = checkpoint.load(path)
    water = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    said = loaded.task.predict(atom_graph(np.array([8, 1, 1]), water, loaded.task.model.spec))
    assert float(said.energy[0]) == pytest.approx(loaded.header["card"]["water_energy"], abs=1e-9)
    np.testing.assert_allclose(said.forces, loaded.header["card"]["water_forces"], atol=1e-9)

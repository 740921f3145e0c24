"""Memory: what a pass takes is foreseen from little, and commands stay within what they are given."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from command import call
from hypothesis import given
from hypothesis import strategies as st

from covarium.config import read_yaml
from covarium.errors import CovariumError
from covarium.models import MODELS
from covarium.simulation import saved_settings
from covarium.systems import AtomGraph, AtomModel, atom_graph
from covarium.tasks import Potential
from covarium.workflows import memory
from covarium.workflows.memory import fit, in_bytes

PLENTY = "100TB"
SIZES = {
    "equiformer": {"num_layers": 2, "irreps_node": "16x0e+8x1e+4x2e", "irreps_feature": "16x0e"},
    "equiformer_v2": {"num_layers": 2, "sphere_channels": 16},
    "equiformer_v3": {"num_layers": 2, "num_channels": 16},
    "torchmd_et": {"num_layers": 2},
}


def cluster(model: AtomModel, atoms: int = 60) -> AtomGraph:
    rng = np.random.default_rng(0)
    return atom_graph(rng.choice([1, 8], atoms), rng.normal(0, 2.2, (atoms, 3)), model.spec).to(dtype=torch.float32)


def build(name: str) -> AtomModel:
    torch.manual_seed(0)
    kind, config = MODELS[name]
    return kind(replace(config(), **SIZES[name]))


@given(st.floats(0.01, 1e4), st.sampled_from(sorted(memory.UNITS)), st.sampled_from(["", " "]))
def test_sizes_are_read(number: float, unit: str, space: str) -> None:
    prefix = 1024 if "i" in unit else 1000
    expected = float(f"{number:f}") * prefix ** ("KMGT".index(unit[0]) + 1)
    assert in_bytes(f"{number:f}{space}{unit}") == int(expected)


def test_sizes_are_read_in_small_letters() -> None:
    assert in_bytes("8gb") == in_bytes("8 GB") and in_bytes("1.5gib") == 3 * 2**29


@pytest.mark.parametrize("text", ["8", "GB", "-1GB", "0MB", "8GBs", "1e3MB", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(CovariumError, match="is not a size of memory; write a number and one of KB, MB, GB"):
        in_bytes(text)


@pytest.mark.parametrize(
    ("name", "products"), [*((name, 0) for name in SIZES), ("equiformer_v2", 3), ("equiformer_v3", 3)]
)
@pytest.mark.parametrize("training", [True, False])
def test_what_a_pass_takes_is_foreseen(
    name: str, products: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, value in (("SLACK", 1.0), ("ATOMS", 1.0), ("FIXED", 0), ("SMALLEST", 256), ("LARGEST", 256)):
        monkeypatch.setattr(memory, number, value)
    monkeypatch.setattr(memory, "_held", lambda *_: 0)
    model = build(name)
    assert model.products == 0, "of small products"
    model.products = products
    graph = cluster(model)
    how = {"forces": True, "training": training}
    at_once = fit(model, graph, PLENTY, **how)
    tiled = fit(model, graph, f"{at_once.needed * 0.6 / 1000:.0f}KB", **how)
    assert (at_once.tile, tiled.tile) == (None, 256)
    assert tiled.keep < tiled.edges == graph.edge_index.shape[1]
    assert 0 < (tiled.remember if model.products else tiled.keep) <= max(model.products, 1) * tiled.edges
    for found in (at_once, tiled):
        real = memory._peak(model, graph, (found.tile, found.keep, found.remember), True, training)
        assert 0.85 * real < found.needed < 1.3 * real, (found, real)
    assert model.tile is None and model.training and all(p.requires_grad for p in model.parameters())


def test_too_little_is_refused_with_the_least_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("equiformer_v2")
    graph = cluster(model)
    # what the process holds counts, and grows by some MB while this runs
    monkeypatch.setattr(memory, "_held", lambda *_: 4 * 10**8)
    message = r"1MB of memory is too little; \S+GB is the least that works, or else"
    with pytest.raises(CovariumError, match=message) as no:
        fit(model, graph, "1MB", forces=True, training=True, remedy=", or else")
    least = re.search(r"; (\S+GB)", str(no.value))[1]
    found = fit(model, graph, least, forces=True, training=True)
    # it is rounded up to 10 MB, in which the next sizes may fit already
    assert found.tile is not None and found.needed <= in_bytes(least)
    with pytest.raises(CovariumError, match=re.escape(f"; {least} is the least")):
        fit(model, graph, f"{in_bytes(least) / 1e6 - 11:.0f}MB", forces=True, training=True)
    more = fit(model, graph, f"{in_bytes(least) / 1e6 + 30:.0f}MB", forces=True, training=True)
    assert more.tile is None or (more.tile, more.remember, more.keep) > (found.tile, found.remember, found.keep)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Disturbed clusters of copper, forty atoms each, by effective-medium theory."""
    rng = np.random.default_rng(0)
    frames = []
    grid = 2.6 * np.array([[x, y, z] for x in range(4) for y in range(5) for z in range(2)])
    for _ in range(20):
        atoms = Atoms("Cu40", grid + rng.normal(0, 0.1, (40, 3)), calculator=EMT())
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("memory") / "copper.extxyz"
    ase.io.write(path, frames)
    return path


TINY = (
    "--model equiformer_v2 "
    "--set model.num_layers=2 --set model.sphere_channels=16 --set model.lmax=1 --set model.mmax=1 "
    "--set training.batch_size=16 --set training.steps=2 --set model.cutoff=6.0 --threads 1"
).split()


def least(capsys: pytest.CaptureFixture[str]) -> str:
    return re.search(r"too little; (\S+GB) is the least that works", " ".join(capsys.readouterr().err.split()))[1]


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    folder = data.parent / "run"
    assert call("train", data, *TINY, "--out", folder, "--memory", PLENTY) == 0
    return folder


def test_training_within_a_memory_is_stored_and_repeated(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_yaml(run / "config.resolved.yaml")["tile"] == "all"
    assert call("train", data, *TINY, "--out", tmp_path / "little", "--memory", "1MB") == 2
    size = least(capsys)
    assert call("train", data, *TINY, "--out", tmp_path / "little", "--memory", size) == 0
    assert re.search(r"memory\s+tiles of \d+ edges", capsys.readouterr().out)
    resolved = read_yaml(tmp_path / "little" / "config.resolved.yaml")
    assert resolved["memory"] == size and isinstance(resolved["tile"], int)
    assert call("train", "--resume", tmp_path / "little", "--set", "training.steps=3") == 0
    assert re.search(rf"tile\s+{resolved['tile']} edges at a time", capsys.readouterr().out)


def test_commands_that_use_a_model_stay_within_a_memory(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ("evaluate", run, data),
        ("predict", run, data, "--out", tmp_path / "p.extxyz"),
        ("relax", run, data, "--steps", "1", "--out", tmp_path / "relax"),
        ("md", run, data, "--steps", "2", "--out", tmp_path / "md"),
    ):
        assert call(*arguments, "--memory", PLENTY) in (0, 1)
        assert "memory: all edges at once" in " ".join(capsys.readouterr().out.split())
        assert call(*arguments, "--memory", "1MB") == 2
        least(capsys)
    assert saved_settings(tmp_path / "md").tile is None


@pytest.fixture(scope="module")
def carbon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense cluster, then one of one more atom that are far apart; and a model of them."""
    folder = tmp_path_factory.mktemp("carbon")
    rng, places = np.random.default_rng(0), np.stack(np.meshgrid(*[np.arange(12.0)] * 3), -1).reshape(-1, 3)
    dense = Atoms("C1400", 1.7 * places[:1400] + rng.normal(0, 0.1, (1400, 3)))
    sparse = Atoms("C1401", 9.0 * places[:1401])
    ase.io.write(folder / "both.xyz", [dense, sparse])
    small = [Atoms("C4", 1.5 * places[[0, 1, 12, 144]] + rng.normal(0, 0.1, (4, 3))) for _ in range(20)]
    for atoms in small:
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=rng.normal(0, 1, (4, 3)))
    ase.io.write(folder / "small.xyz", small)
    how = ["--set", "training.steps=2", "--threads", "1", "--model", "torchmd_et", "--out", folder / "run"]
    assert call("train", folder / "small.xyz", *how) == 0
    return folder


def predicted(carbon: Path, memory: str | None) -> tuple[int, str, int]:
    """The status of a process that predicts within a memory, what it says of errors, and the most bytes that it held,
    as the system counts them."""
    out = carbon / f"predicted-{memory}.xyz"
    command = ["covarium", "predict", carbon / "run", carbon / "both.xyz", "--threads", "1", "--out", out]
    command += ["--memory", memory] if memory else []
    code = (
        f"import atexit, re, sys; sys.argv = {[str(a) for a in command]}\n"
        "atexit.register(lambda: print(re.search(r'VmHWM:.*', open('/proc/self/status').read())[0]))\n"
        "from covarium.cli import main; main()"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode != 0 or len(ase.io.read(out, ":")) == 2
    return done.returncode, done.stderr, 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1])


def test_atoms_without_neighbours_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no edges, but features; also beside what has more edges and fewer atoms."""
    monkeypatch.setattr(memory, "_held", lambda *_: 0)
    task = Potential(build("equiformer_v2").eval(), references={1: 0.0, 8: 0.0})
    dense = Atoms("OH" * 30, np.random.default_rng(0).normal(0, 2.2, (60, 3)))
    far = Atoms("OH" * 2500, 20.0 * np.arange(15000).reshape(-1, 3))
    graph = atom_graph(far.numbers, far.positions, task.model.spec).to(dtype=torch.float32)
    assert graph.edge_index.shape[1] == 0
    counted = memory._peak(task.model, graph, (None, 0, 0), True, False)
    for structures in ([far], [dense, far]):
        text = memory.of_structures(task, structures, PLENTY)
        assert float(re.search(r"about (\S+) of", text)[1]) * 1e9 > memory.FIXED + 1.5 * counted
        with pytest.raises(CovariumError, match="is too little") as no:
            memory.of_structures(task, structures, "1MB")
        assert no.value.least > memory.FIXED + 1.5 * counted


@pytest.mark.skipif(sys.platform != "linux", reason="bytes held are read as Linux counts them")
def test_a_process_stays_within_its_memory(carbon: Path) -> None:
    """What is counted is what the system says of the process, not what is planned; without a memory it is far more.
    How much that is depends on the libraries that it loads: the least is asked for first."""
    status, message, empty = predicted(carbon, "1MB")
    assert status == 2
    least = in_bytes(re.search(r"(\S+GB) is the least", message)[1])
    given = least + 5 * 10**7  # its libraries may take some more or less the next time
    status, message, taken = predicted(carbon, f"{given // 10**6}MB")
    assert status == 0, message
    assert taken < given < empty + 5 * 10**8
    status, message, unbounded = predicted(carbon, None)
    assert status == 0, message
    assert unbounded > given + 3 * 10**8


def test_dynamics_is_planned_for_its_structure_alone(carbon: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not for a batch of many: what fits is not refused."""
    arguments = ["md", carbon / "run", carbon / "small.xyz", "--steps", "1", "--out", carbon / "md", "--memory"]
    assert call(*arguments, "1MB") == 2
    smallest = float(re.search(r"(\S+)GB is the least", capsys.readouterr().err)[1])
    held = memory.most_memory() / 1e9
    assert smallest < held + 0.2
    assert call(*arguments, f"{held + 0.25:.2f}GB") == 0
    assert "all edges at once" in capsys.readouterr().out

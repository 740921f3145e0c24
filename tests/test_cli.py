"""The command line from a file of labelled structures to a model and its use, and what it says when it cannot."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixBondLengths
from command import call
from safetensors import safe_open

import covarium
from covarium.cli import _explain
from covarium.errors import CovariumError

V2 = "train {data} --model equiformer_v2"
TINY = (
    "--model equiformer_v2 "
    "--set model.num_layers=1 --set model.sphere_channels=8 --set model.lmax=1 --set model.mmax=1 "
    "--set model.num_heads=2 --set model.attn_hidden_channels=8 --set model.ffn_hidden_channels=8 "
    "--set model.edge_channels=8 --set training.batch_size=4 --threads 1"
).split()


def labelled(count: int, seed: int) -> list[Atoms]:
    """Disturbed copper tetrahedra with the energies and forces of effective-medium theory."""
    rng = np.random.default_rng(seed)
    corners = 2.4 / np.sqrt(2) * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    frames = []
    for _ in range(count):
        atoms = Atoms("Cu4", corners + rng.normal(0, 0.1, (4, 3)), calculator=EMT())
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def fingerprint(model: Path) -> str:
    """Of header and tensors; the file itself may hold its metadata in any order."""
    with safe_open(model, "pt") as file:
        return file.metadata()["sha256"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "copper.extxyz"
    ase.io.write(path, labelled(24, 0))
    ase.io.write(path.with_name("test.extxyz"), labelled(6, 1))
    return path


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    folder = data.parent / "run"
    test = data.with_name("test.extxyz")
    assert call("train", data, *TINY, "--set", "training.steps=12", "--test", test, "--out", folder) == 0
    return folder


def test_help_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['covarium', '--help']\n"
        "from covarium.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "import covarium\n"
        "assert not {'torch', 'numpy', 'ase', 'pydantic_core'} & set(sys.modules), 'a heavy library was imported'"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in ("train", "evaluate", "predict", "md", "relax", "info", "demo"))
    # CPU seconds, half of one as a rule; the tests share their machine
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


def test_run_folder_holds_what_was_promised(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    expected = {"best.safetensors", "config.resolved.yaml", "split.json", "log.csv", "state.safetensors", "report.html"}
    assert names - {"tensorboard"} == expected
    split = json.loads((run / "split.json").read_text())
    assert [len(split[part]) for part in ("train", "valid", "test")] == [23, 1, 6]


def test_what_was_inferred_is_printed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", data, *TINY, "--dry-run", "--out", tmp_path / "no") == 0
    said = capsys.readouterr().out
    for what in ("24 frames of 4 atoms", "energy", "units", "23 training, 1 validation", "Cu", "5 Å", "3.00 neighbours",
                 "4 frames", "float32 on cpu", "estimate"):  # fmt: skip
        assert what in said, said
    assert not (tmp_path / "no").exists()


def test_findings_are_honest_about_where_values_come_from(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", data, *TINY, "--set", "model.avg_degree=7", "--dry-run") == 0
    assert "7.00 neighbours per atom  (given; measured: 3.00)" in capsys.readouterr().out
    for source in (["--config", run / "config.resolved.yaml"], ["--resume", run]):
        assert call("train", *source, "--dry-run") == 0
        said = capsys.readouterr().out
        assert "total  (from the configuration)" in said and "(given" not in said


def test_help_names_every_recipe() -> None:
    from covarium.cli.training import RECIPES
    from covarium.workflows.configuring import recipe_names

    assert sorted(RECIPES.split(", ")) == recipe_names()


def test_the_best_step_is_told(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["--set", "training.steps=2", "--set", "training.lr=10", "--set", "training.ema_decay=0"]
    assert call("train", data, *TINY, *steps, "--out", tmp_path / "wild") == 0
    warning = "training did not improve on its first evaluation, the best model is that of step 0"
    assert warning in capsys.readouterr().out
    assert warning in (tmp_path / "wild" / "report.html").read_text()
    assert "best model: step" in (run / "report.html").read_text()


def test_a_run_killed_before_it_was_saved_can_be_resumed(run: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "config.resolved.yaml").write_bytes((run / "config.resolved.yaml").read_bytes())
    assert call("train", "--resume", killed) == 0
    assert fingerprint(killed / "best.safetensors") == fingerprint(run / "best.safetensors")


def test_an_unwritable_folder_is_found_before_anything_is_computed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert call("train", data, *TINY, "--out", tmp_path / "file" / "run") == 2
    said = capsys.readouterr()
    assert "cannot write to" in said.err and "choose another --out" in said.err and "estimate" not in said.out


@pytest.mark.slow
def test_two_processes_train_through_the_command_line(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "covarium"]
    steps = ["--set", "training.steps=3", "--device", "cpu", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    done = subprocess.run(
        [*command, "train", str(data), *TINY, *steps], env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("What is going to be done") == done.stdout.count("Finished 3 steps") == 1
    assert covarium.load(tmp_path / "run").predict(labelled(1, 5))[0].forces.shape == (4, 3)


@pytest.mark.slow
def test_an_interrupted_demo_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    command = [sys.executable, "-m", "covarium", "demo", "--frames", "20", "--time", "5m"]
    started = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while started.poll() is None and not (tmp_path / "demo" / "run" / "log.csv").exists():
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    said, _ = started.communicate(timeout=120)
    assert started.returncode == 1
    assert "covarium train --resume demo/run" in said and "Relaxation" not in said
    assert not (tmp_path / "demo" / "md").exists() and not (tmp_path / "demo" / "report.html").exists()


def test_resolved_configuration_gives_the_same_run(run: Path, tmp_path: Path) -> None:
    assert call("train", "--config", run / "config.resolved.yaml", "--out", tmp_path / "again") == 0
    assert fingerprint(tmp_path / "again" / "best.safetensors") == fingerprint(run / "best.safetensors")
    for name in ("config.resolved.yaml", "split.json"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes(), name


def test_interrupted_and_resumed_run_is_the_uninterrupted_one(run: Path, data: Path, tmp_path: Path) -> None:
    test = data.with_name("test.extxyz")
    command = [
        sys.executable,
        "-m",
        "covarium",
        "train",
        str(data),
        *TINY,
        "--set",
        "training.steps=12",
        "--test",
        str(test),
    ]
    started = subprocess.Popen(
        [*command, "--out", "part"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    log = tmp_path / "part" / "log.csv"
    while started.poll() is None and not log.exists():
        time.sleep(0.01)
    started.terminate()
    said, _ = started.communicate(timeout=60)
    assert started.returncode == 1
    # a quick machine may have finished before the signal came
    assert "covarium train --resume part" in said or "finished 12 steps" in said.lower()
    assert call("train", "--resume", tmp_path / "part") == 0
    assert fingerprint(tmp_path / "part" / "best.safetensors") == fingerprint(run / "best.safetensors")


def test_other_data_under_the_same_name_are_not_resumed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = tmp_path / "copper.extxyz", tmp_path / "run"
    ase.io.write(mine, labelled(20, 3))
    assert call("train", mine, *TINY, "--set", "training.steps=2", "--out", out) == 0
    ase.io.write(mine, labelled(20, 4))
    assert call("train", "--resume", out, "--set", "training.steps=3") == 2
    assert "data of the run" in capsys.readouterr().err
    ase.io.write(mine, labelled(20, 3))
    assert call("train", "--resume", out, "--set", "training.steps=3") == 0


def test_changed_sets_are_neither_used_nor_resumed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that changed by themselves are found by their checksums, other labels by those of the run."""
    own, out = tmp_path / "copper.frames", tmp_path / "run"

    def made(seed: int, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        ase.io.write(tmp_path / "copper.extxyz", labelled(20, seed))
        assert call("data", "convert", tmp_path / "copper.extxyz", path) == 0

    made(3, own)
    assert call("train", own, *TINY, "--set", "training.steps=2", "--out", out) == 0
    made(4, own)
    capsys.readouterr()
    assert call("train", "--resume", out, "--set", "training.steps=3") == 2
    assert "data of the run" in capsys.readouterr().err
    made(3, own)
    assert call("train", "--resume", out, "--set", "training.steps=3") == 0
    made(5, tmp_path / "held.frames")
    energies = tmp_path / "held.frames" / "energy.bin"
    content = bytearray(energies.read_bytes())
    content[5] ^= 4
    energies.write_bytes(content)
    capsys.readouterr()
    held = tmp_path / "held.frames"
    new = ("train", own, *TINY, "--out", tmp_path / "new")
    for command in (("evaluate", out, held), (*new, "--valid", held), (*new, "--test", held)):
        assert call(*command) == 2
        assert "held.frames, frames 0 to 19: they do not match their sha256" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_forces_that_cannot_be_used_are_no_reason_to_learn_energies_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half.extxyz"
    frames = labelled(20, 3)
    for atoms in frames[10:]:
        del atoms.calc.results["forces"]
    ase.io.write(half, frames)
    assert call("train", half, *TINY, "--dry-run") == 2
    assert "without forces" in capsys.readouterr().err
    assert call("train", half, *TINY, "--set", "task.terms.forces.weight=0", "--dry-run") == 0


def test_a_setting_of_one_loss_term_leaves_the_others(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for setting, loss in (
        ("task.terms.forces.weight=10", "1 × energy mae + 10 × forces l2"),
        ("task.terms.energy.loss=mse", "1 × energy mse + 1 × forces l2"),
        ("task.terms.energy.weight=0", "0 × energy mae + 1 × forces l2"),
    ):
        assert call("train", data, *TINY, "--set", setting, "--dry-run", "--out", tmp_path / "no") == 0
        assert loss in capsys.readouterr().out
    nothing = ["--set", "task.terms.energy.weight=0", "--set", "task.terms.forces.weight=0"]
    assert call("train", data, *TINY, *nothing, "--dry-run", "--out", tmp_path / "no") == 2
    assert "nothing to learn" in capsys.readouterr().err


def test_a_resumed_run_keeps_model_task_and_data(run: Path, data: Path, tmp_path: Path) -> None:
    """What is refused leaves the run as it was."""
    out = tmp_path / "run"
    assert call("train", data, *TINY, "--set", "training.steps=2", "--out", out) == 0
    before = (out / "config.resolved.yaml").read_bytes()
    changes = "seed=3 model.envelope=none task.scale=2 dtype=float64 training.batch_size=7 data.limit=3"
    for change in changes.split():
        assert call("train", "--resume", out, "--set", change, "--set", "training.steps=3") == 2, change
        assert (out / "config.resolved.yaml").read_bytes() == before, change
    assert call("train", "--resume", out, "--set", "training.steps=3") == 0


def test_a_folder_with_a_run_is_refused(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert call("train", data, *TINY, "--epochs", "1", "--out", run) == 2
    assert f"covarium train --resume {run}" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_evaluate_writes_errors_in_ev(run: Path, data: Path, tmp_path: Path) -> None:
    test = data.with_name("test.extxyz")
    target = tmp_path / "errors.json"
    assert call("evaluate", run, test, "--json", target, "--out", tmp_path / "out") == 0
    errors = json.loads(target.read_text())
    frames = ase.io.read(test, ":")
    predicted = covarium.load(run).predict([Atoms(f.numbers, f.positions) for f in frames])
    forces = np.concatenate([p.forces - f.get_forces() for p, f in zip(predicted, frames, strict=True)])
    energies = np.array([p.energy - f.get_potential_energy() for p, f in zip(predicted, frames, strict=True)])
    assert errors["forces"]["mae"] == pytest.approx(np.abs(forces).mean(), rel=1e-5)
    assert errors["forces"]["rmse"] == pytest.approx(np.sqrt((forces**2).mean()), rel=1e-5)
    assert errors["energy"]["mae"] == pytest.approx(np.abs(energies).mean(), rel=1e-5)
    assert errors["energy_per_atom"]["rmse"] == pytest.approx(np.sqrt((energies**2).mean()) / 4, rel=1e-5)
    assert errors["units"]["forces"] == "eV/Å"
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


def test_predict_calculator_and_relax_agree(run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.extxyz"
    assert call("predict", run, data, "--out", out, "--set", "data.limit=3") == 0
    atoms = ase.io.read(out, "0")
    fresh = Atoms(atoms.numbers, atoms.positions, calculator=covarium.load(run).calculator())
    assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-5)
    assert call("relax", run, out, "--steps", "3", "--out", tmp_path / "relax") == 1  # not converged
    assert len(ase.io.read(tmp_path / "relax" / "trajectory.extxyz", ":")) > 1
    page = (tmp_path / "relax" / "report.html").read_text()
    assert "steps_exhausted" in page and page.count('"symbols":') == 2


def test_check_model_passes_a_sound_model_and_fails_another(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("check", "model", run, data.with_name("test.extxyz"), "--frames", 1) == 0
    assert ", 0 failed" in capsys.readouterr().out
    rough = tmp_path / "rough"
    options = ["--set", "training.steps=2", "--set", "model.envelope=none"]
    assert call("train", data, *TINY, *options, "--out", rough) == 0
    capsys.readouterr()
    assert call("check", "model", rough) == 1
    assert "jump at cutoff" in next(line for line in capsys.readouterr().out.splitlines() if "FAILED" in line)


def test_md_goes_on_where_it_stopped(run: Path, data: Path, tmp_path: Path) -> None:
    md = ["md", run, data, "--ensemble", "nve", "--temperature", "50", "--timestep", "1", "--interval", "1"]
    assert call(*md, "--steps", "6", "--out", tmp_path / "whole") == 0
    assert call(*md, "--time", "4fs", "--out", tmp_path / "part") == 0
    assert call(*md, "--steps", "6", "--out", tmp_path / "part", "--resume") == 0
    assert (tmp_path / "part" / "md.csv").read_text() == (tmp_path / "whole" / "md.csv").read_text()
    page = (tmp_path / "part" / "report.html").read_text()
    assert "6 of 6, 1 fs each" in page and "energy drift" in page and "--resume" in page


def test_resumed_md_keeps_its_settings(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "md"
    options = ["--ensemble", "nve", "--timestep", "1", "--temperature", "50", "--interval", "1"]
    assert call("md", run, data, *options, "--steps", "4", "--out", out) == 0
    assert call("md", run, "--resume", "--temperature", "900", "--out", out) == 2
    said = capsys.readouterr().err
    assert "--temperature 900" in said and "has 50" in said
    assert call("md", run, "--resume", "--time", "6fs", "--timestep", "1", "--out", out) == 0
    assert "6 steps of 1 fs, nve, 50 K" in capsys.readouterr().out
    assert (out / "md.csv").read_text().splitlines()[-1].startswith("6,6.0,")


def test_nve_keeps_the_momenta_of_the_structure(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = labelled(1, 2)[0]
    momenta = np.random.default_rng(3).normal(0, 0.3, (4, 3))
    atoms.set_momenta(momenta)
    ase.io.write(tmp_path / "moving.extxyz", atoms)
    md = ["md", run, tmp_path / "moving.extxyz", "--ensemble", "nve", "--steps", "1"]
    assert call(*md, "--out", tmp_path / "kept") == 0
    assert "momenta of the structure kept" in capsys.readouterr().out
    first = ase.io.read(tmp_path / "kept" / "trajectory.extxyz", "0")
    np.testing.assert_allclose(first.get_momenta(), momenta, atol=1e-7)
    assert call(*md, "--temperature", "10", "--out", tmp_path / "drawn") == 0
    drawn = ase.io.read(tmp_path / "drawn" / "trajectory.extxyz", "0")
    assert not np.allclose(drawn.get_momenta(), momenta, atol=1e-2)


def test_md_refuses_a_constraint_it_would_not_keep(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atoms = labelled(1, 2)[0]
    atoms.set_constraint(FixBondLengths([[0, 1]]))
    ase.io.write(tmp_path / "bound.traj", atoms)
    assert call("md", run, tmp_path / "bound.traj", "--steps", "1", "--out", tmp_path / "md") == 2
    assert "FixBondLengths" in capsys.readouterr().err
    assert not (tmp_path / "md").exists()


def test_labels_in_other_units_stop_no_prediction(run: Path, tmp_path: Path) -> None:
    """Energies and forces in kcal/mol, and what the file says besides them comes out again."""
    frames = labelled(3, 4)
    for k, atoms in enumerate(frames):
        factor = 23.06
        atoms.calc = SinglePointCalculator(atoms, energy=factor * (1e3 + 5.0 * k), forces=factor * atoms.get_forces())
        atoms.info["name"] = f"cluster-{k}"
        atoms.set_tags([1, 2, 3, 4])
    ase.io.write(tmp_path / "kcal.extxyz", frames)
    assert call("predict", run, tmp_path / "kcal.extxyz", "--out", tmp_path / "x.extxyz") == 0
    predicted = ase.io.read(tmp_path / "x.extxyz", ":")
    assert [atoms.info["name"] for atoms in predicted] == ["cluster-0", "cluster-1", "cluster-2"]
    assert predicted[0].get_tags().tolist() == [1, 2, 3, 4]
    expected = covarium.load(run).predict(frames)
    for atoms, p in zip(predicted, expected, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(p.energy, abs=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), p.forces, atol=1e-5)


def test_what_stops_early_has_exit_code_1(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("relax", run, data, "--steps", "1", "--fmax", "1e-6", "--out", tmp_path / "relax") == 1
    assert "not converged after 1 steps" in capsys.readouterr().out
    assert (tmp_path / "relax" / "relaxed.extxyz").exists()
    ase.io.write(tmp_path / "clash.xyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 0.5]]))
    assert call("md", run, tmp_path / "clash.xyz", "--steps", "3", "--out", tmp_path / "md") == 1
    assert "0.500 Å apart" in capsys.readouterr().out
    assert (tmp_path / "md" / "stopped.extxyz").exists()


@pytest.mark.parametrize(
    ("command", "advice"), [("train", "training.batch_size"), ("predict", "--memory 8GB"), ("check", "fewer atoms")]
)
def test_out_of_memory_advises_what_the_command_has(command: str, advice: str) -> None:
    said = _explain(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), command)
    assert advice in said
    assert _explain(MemoryError(), command) == said
    assert ("training" in said) == (command == "train")


def test_info_tells_what_the_model_means(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("info", run) == 0
    said = capsys.readouterr().out
    for what in ("equiformer_v2", "SE(3)", "Cu", "total", "gradient of the energy", "copper.extxyz"):
        assert what in said, said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "Did you mean 'train'?"),
        ("train {data} --epoch 3", "--epochs"),
        ("train {data} --time 30", "'30' is not a duration"),
        (V2 + " --set model.lmx=2", "'model.lmx' is unknown; did you mean 'lmax'?"),
        ("train {data} --set modle.lmax=2", "'modle' is unknown; did you mean 'model'?"),
        (V2 + " --set model.lmax=two", "model.lmax: input should be a valid integer"),
        (
            "train {data} --model equiformer_v2 --set model.avg_degree=0",
            "model.avg_degree must be positive and finite, got 0",
        ),
        (
            "train {data} --model equiformer_v2 --set model.alpha_drop=1.0",
            "model.alpha_drop must lie from 0 to below 1, got 1",
        ),
        ("train {data} --set model.num_heads=0", "model.num_heads must be at least 1, got 0"),
        (
            "train {data} --model equiformer_v2 --set model.sphere_channels=-4",
            "model.sphere_channels must be at least 1, got -4",
        ),
        ("train {data} --set training.lr=-1", "lr must be positive"),
        ("train {data} --set task.terms.force.weight=1", "did you mean 'forces'?"),
        ("train {data} --model torchmd_et --set task.forces=direct", "torchmd_et has no head for forces"),
        ("train {data} --set task.terms.stress.weight=1", "stress"),
        ("train {data} --set data.keys.energy=E", "'E'"),
        ("train {data} --model equiformer_v9", "did you mean 'equiformer_v"),
        ("train {data} --recipe oc20-31", "did you mean 'oc20-31m'?"),
        ("train {data} --config absent.yaml", "absent.yaml"),
        ("train {data} --device gpu", "cpu, cuda"),
        ("train copper.extxy", "copper.extxy"),
        ("train", "name a file"),
        ("train --resume {folder}", "config.resolved.yaml"),
        ("train {data} --resume {run}", "--resume"),
        ("evaluate {run} {folder}/nowhere.extxyz", "nowhere.extxyz"),
        ("evaluate {folder} {data}", "best.safetensors"),
        ("evaluate {run}/log.csv {data}", "log.csv"),
        ("evaluate {run} {data} --dtype float16", "'float16' is not one of 'float32', 'float64'"),
        ("predict {run} {data} --set model.lmax=2", "only settings of data"),
        ("predict {run} {data} --out {data}", "copper.extxyz' is one of the files that are read"),
        ("predict {run} {data} --out {data}/../copper.extxyz", "copper.extxyz' is one of the files that are read"),
        ("predict {run} {data} --out {run}/log.csv", "log.csv' exists already; choose another --out"),
        ("evaluate {run} {data} --json {data}", "--json '{data}' is one of the files that are read"),
        ("evaluate {run} {data} --out {run}", "choose another --out, e.g. {run}/errors"),
        ("md {run} {data} --time 1ps --steps 3", "not both"),
        ("md {run} {data} --ensemble nvt", "'nve', 'langevin', 'npt'"),
        ("md {run}", "name a structure"),
        ("md {run} --resume", "no run to resume"),
        ("md {run} {data} --timestep 0", "timestep must be a positive time in fs, got 0"),
        ("md {run} {data} --timestep -1", "timestep must be a positive time in fs, got -1"),
        ("md {run} {data} --timestep nan --time 5fs", "timestep must be"),
        ("relax {run} {data} --cell", "three periodic directions"),
        ("relax {run} {data} --index 99", "there is no 99"),
    ],
)
def test_bad_input_gives_one_message(
    arguments: str, message: str, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in (data, run / "report.html", run / "log.csv")}
    assert call(*arguments.format(run=run, data=data, folder=tmp_path).split()) == 2
    said = capsys.readouterr().err
    assert message.replace("{run}", str(run)).replace("{data}", str(data)) in said
    assert all(path.read_bytes() == content for path, content in before.items())
    assert said.startswith("error: ") and "Traceback" not in said
    assert not list(tmp_path.iterdir()), "something was half-written"


def test_unknown_element_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]])
    ase.io.write(tmp_path / "gold.xyz", gold)
    assert call("predict", run, tmp_path / "gold.xyz", "--out", tmp_path / "x.extxyz") == 2
    said = capsys.readouterr().err
    assert "gold.xyz" in said and "79" in said
    assert not (tmp_path / "x.extxyz").exists()


@pytest.fixture(scope="module")
def direct(data: Path) -> Path:
    """A potential with a force head and no stress head."""
    folder = data.parent / "direct"
    options = ["--set", "training.steps=2", "--set", "task.forces=direct", "--set", "model.force_head=true"]
    assert call("train", data, *TINY, *options, "--out", folder) == 0
    return folder


def test_a_potential_without_stress_claims_none(
    direct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crystal = labelled(1, 3)[0]
    crystal.set_cell([8, 8, 8])
    crystal.pbc = True
    ase.io.write(tmp_path / "crystal.extxyz", crystal)
    assert call("predict", direct, tmp_path / "crystal.extxyz", "--out", tmp_path / "x.extxyz") == 0
    assert "1 structures with energy (eV) and forces (eV/Å): " in capsys.readouterr().out
    assert "stress" not in ase.io.read(tmp_path / "x.extxyz").calc.results
    for command in ("relax --cell", "md --ensemble npt"):
        name, *options = command.split()
        assert call(name, direct, tmp_path / "crystal.extxyz", *options, "--steps", "1", "--out", tmp_path / "no") == 2
        assert "needs a stress, and this potential with direct forces has none" in capsys.readouterr().err
        assert not (tmp_path / "no").exists()


def test_a_warning_is_one_line(direct: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("relax", direct, data, "--steps", "1", "--fmax", "1e-9", "--out", tmp_path / "relax") == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("warning: this potential has direct forces: ")


def test_a_charge_is_refused_under_one_number(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = labelled(2, 4)
    frames[1].info["charge"] = 1
    ase.io.write(tmp_path / "ions.extxyz", frames)
    assert call("predict", run, tmp_path / "ions.extxyz", "--out", tmp_path / "x.extxyz") == 2
    assert "ions.extxyz, frame 1: the structure has charge 1.0, but" in capsys.readouterr().err


def test_python_refuses_what_it_cannot_use(run: Path, data: Path) -> None:
    potential = covarium.load(run)
    for wrong in ("file.extxyz", data, [labelled(1, 0)[0], "file.extxyz"], None, 3):
        with pytest.raises(CovariumError, match="ase.Atoms or a list of them"):
            potential.predict(wrong)
    for dtype in (torch.int64, torch.float16, torch.bfloat16, np.float32, "float16"):
        with pytest.raises(CovariumError, match="float32, float64"):
            covarium.load(run, dtype=dtype)
    structures = labelled(2, 0)
    double = covarium.load(run, dtype=torch.float64).predict(iter(structures))
    assert double[1].energy == covarium.load(run, dtype="float64").predict(tuple(structures))[1].energy


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "absent.extxyz", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err

"""Tokens through the same commands as atoms, on real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from command import call
from safetensors import safe_open

TINY = ["--set", "model.num_blocks=1", "--set", "training.steps=6", "--device", "cpu", "--threads", "1"]


def fingerprint(model: Path) -> str:
    """Of header and tensors; the file itself may hold its metadata in any order."""
    with safe_open(model, "pt") as file:
        return file.metadata()["sha256"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nbody") / "nbody.npz"
    assert call("make", "nbody", path, "--samples", 40, "--planets", 2) == 0
    assert call("make", "nbody", path.with_name("test.npz"), "--samples", 10, "--planets", 2, "--seed", 1) == 0
    return path


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    folder = data.parent / "run"
    test = data.with_name("test.npz")
    assert call("train", data, *TINY, "--test", test, "--out", folder) == 0
    return folder


def test_a_run_leaves_what_every_run_leaves(run: Path, data: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"best.safetensors", "config.resolved.yaml", "log.csv", "report.html", "split.json"} <= names
    resolved = yaml.safe_load((run / "config.resolved.yaml").read_text())
    assert resolved["data"]["kind"] == "tokens" and resolved["model"]["name"] == "gatr"
    assert resolved["model"]["in_mv_channels"] == 2 and resolved["task"]["terms"]["positions"]["loss"] == "mse"
    assert "valid_positions_mse" in (run / "log.csv").read_text().splitlines()[0]
    assert "<svg" in (run / "report.html").read_text()
    split = json.loads((run / "split.json").read_text())
    assert len(split["train"]) == 38 and len(split["valid"]) == 2 and len(split["test"]) == 10


def test_the_same_run_again_and_resumed(run: Path, data: Path, tmp_path: Path) -> None:
    assert call("train", "--config", run / "config.resolved.yaml", "--out", tmp_path / "again") == 0
    assert fingerprint(tmp_path / "again" / "best.safetensors") == fingerprint(run / "best.safetensors")
    assert call("train", "--resume", tmp_path / "again", "--set", "training.steps=8") == 0
    assert (tmp_path / "again" / "log.csv").read_text().splitlines()[-1].startswith("8,")


def test_evaluate_equals_the_metrics_by_hand(run: Path, data: Path, tmp_path: Path) -> None:
    from covarium.data.tokens import TokenDataset, read_tokens
    from covarium.workflows.loaded import load_task

    target = tmp_path / "errors.json"
    test = data.with_name("test.npz")
    assert call("evaluate", run, test, "--json", target, "--out", tmp_path / "out") == 0
    found = json.loads(target.read_text())
    loaded = load_task(run, device="cpu", dtype="float64")
    samples = TokenDataset(read_tokens([test]))
    answers = loaded.task.predict(samples.batch(range(10)).system).positions.numpy()
    with np.load(test) as archive:
        error = answers.reshape(10, 3, 3) - archive["x_final"]
        change = archive["x_final"] - archive["x_initial"]
    assert found["positions"]["mse"] == pytest.approx((error**2).mean(), rel=1e-4)
    relative = np.linalg.norm(error, axis=(1, 2)) / np.linalg.norm(change, axis=(1, 2))
    assert found["positions"]["relative"] == pytest.approx(relative.mean(), rel=1e-4)
    assert found["samples"] == 10
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


def test_check_and_info(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", "model", run, data.with_name("test.npz")) == 0
    assert call("check", "model", run) == 0
    assert capsys.readouterr().out.count("6 checks, 0 failed") == 2
    assert call("info", run) == 0
    said = capsys.readouterr().out
    for what in ("gatr", "SE(3)", "vectors of each token: 1, scalars: 1", "positions", "nbody.npz"):
        assert what in said, said


def test_surfaces_and_other_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tubes = tmp_path / "tubes.npz"
    assert call("make", "tubes", tubes, "--samples", 6, "--rings", 4, "--around", 5) == 0
    for model in (["--model", "transformer"], ["--set", "model.variant=C"]):
        out = tmp_path / model[-1]
        assert call("train", tubes, *TINY, *model, "--out", out) == 0
        assert call("evaluate", out, tubes) == 0
    assert "targets: vectors" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["gatr", "transformer"])
@pytest.mark.parametrize("asked", [("scalars",), ("vectors",), ("positions", "scalars")])
def test_any_targets_alone_or_together(tmp_path: Path, model: str, asked: tuple[str, ...]) -> None:
    g = np.random.default_rng(0)
    shapes = {"positions": (10, 4, 3), "vectors": (10, 4, 2, 3), "scalars": (10, 4, 1)}
    arrays = {"positions": g.normal(size=(10, 4, 3))} | {
        f"target_{name}": g.normal(size=shapes[name]) for name in asked
    }
    np.savez(tmp_path / "x.npz", **arrays)
    assert call("train", tmp_path / "x.npz", *TINY, "--model", model, "--out", tmp_path / "run") == 0
    assert call("evaluate", tmp_path / "run", tmp_path / "x.npz", "--json", tmp_path / "e.json") == 0
    found = json.loads((tmp_path / "e.json").read_text())
    assert set(asked) == {name for name in found if name in shapes}
    assert all(0 < found[name]["relative"] < 5 for name in asked)


def test_numbers_that_only_rounding_moves_divide_nothing(tmp_path: Path) -> None:
    from covarium.workflows.configuring import configure
    from covarium.workflows.kinds import infer

    g = np.random.default_rng(0)
    constants = np.array([0.1, 1 / 3, 7e5 + 0.1])
    positions = 1e6 + np.round(g.normal(size=(40, 7, 3)), 3)
    still = np.nextafter(positions, np.inf)  # moved by rounding only
    np.savez(
        tmp_path / "x.npz", positions=positions, scalars=np.broadcast_to(constants, (40, 7, 3)),
        target_positions=still, target_scalars=np.broadcast_to(constants, (40, 7, 3)),
    )  # fmt: skip
    given = {"data": {"train": [tmp_path / "x.npz"]}, "model": {"num_blocks": 1}}
    task = infer(configure(recipe="tokens", given=given)).task
    scaling = task.scaling
    assert scaling.scalars == scaling.out_scalars == (1.0, 1.0, 1.0) and scaling.positions == 1.0
    assert scaling.scalar_means == scaling.out_scalar_means == tuple(constants)
    assert 0.5 < scaling.length < 2


def test_scalars_far_from_zero_keep_their_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Times in seconds since 1970, say, in the float32 of every run."""
    g = np.random.default_rng(0)
    scalars = 1.7e9 + 30 * g.normal(size=(12, 5, 1))
    target = 1.7e9 + 30 * g.normal(size=(12, 5, 1))
    np.savez(tmp_path / "x.npz", positions=g.normal(size=(12, 5, 3)), scalars=scalars, target_scalars=target)
    assert call("train", tmp_path / "x.npz", *TINY, "--out", tmp_path / "run") == 0
    assert call("check", "model", tmp_path / "run", tmp_path / "x.npz") == 0
    assert "6 checks, 0 failed" in capsys.readouterr().out
    assert call("evaluate", tmp_path / "run", tmp_path / "x.npz", "--json", tmp_path / "e.json") == 0
    found = json.loads((tmp_path / "e.json").read_text())["scalars"]

    from covarium.data.tokens import TokenDataset, read_tokens
    from covarium.workflows.loaded import load_task

    task = load_task(tmp_path / "run", device="cpu", dtype="float64").task
    answers = task.predict(TokenDataset(read_tokens([tmp_path / "x.npz"])).batch(range(12)).system).scalars.numpy()
    assert found["mae"] == pytest.approx(np.abs(answers.reshape(target.shape) - target).mean(), rel=1e-5)


def test_the_batch_is_smaller_for_large_samples(tmp_path: Path) -> None:
    from covarium.workflows.configuring import configure
    from covarium.workflows.kinds import infer
    from covarium.workflows.making import write_tubes

    for rings, expected in ((4, 64), (25, 10)):
        path = tmp_path / f"{rings}.npz"
        write_tubes(path, 3, rings, 12, 0)
        given = {"data": {"train": [path], "valid_part": 1}, "model": {"num_blocks": 1}}
        assert infer(configure(recipe="tokens", given=given)).settings.batch_size == expected


def test_dry_run_writes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", data, *TINY, "--dry-run", "--out", tmp_path / "x") == 0
    assert "estimate" in capsys.readouterr().out and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train {data} --model equiformer_v2", "does not read tokens; those that do: gatr, transformer"),
        ("train {data} --model gart", "did you mean 'gatr'?"),
        ("train {data} --set model.variant=Q", "model.variant"),
        ("train {data} --set model.in_s_channels=4", "the model reads 1 and 4"),
        ("train {data} --set task.terms.position.weight=1", "did you mean 'positions'?"),
        ("train {data} --set task.terms.positions.loss=huber", "loss 'huber' is unknown for tokens"),
        ("train {data} --set task.terms.positions.weight=0", "there is nothing to learn"),
        ("train {data} --set data.keys.energy=E", "token files have fixed keys"),
        ("train {data} --set data.kind=atoms --model gatr", "model 'gatr' does not read atoms"),
        ("train {data} --set data.kind=spin", "data.kind"),
        ("train {data} --set data.valid_part=40", "must remain for training"),
        ("evaluate {run} {folder}/absent.npz", "absent.npz"),
        ("predict {run} {data}", "not energies and forces"),
        ("md {run} {data}", "answers questions of the kind 'tokens', not energies and forces"),
        ("make nbody {folder}/n.npz --samples 0", "--samples"),
        ("make nbody {folder}/n.txt", "n.txt: samples of tokens are written as npz; name it n.npz"),
        ("make tubes {folder}/n", "name it n.npz"),
    ],
)
def test_bad_input_gives_one_message(
    arguments: str, message: str, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert call(*arguments.format(run=run, data=data, folder=tmp_path).split()) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ") and "Traceback" not in said
    assert not list(tmp_path.iterdir()), "something was half-written"

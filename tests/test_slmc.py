"""``covarium slmc`` from nothing to a report; stopped and killed runs go on to the bit."""

import html
import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import call
from safetensors import safe_open

from covarium import checkpoint
from covarium.analysis.autocorrelation import Estimate, estimate
from covarium.errors import CovariumError
from covarium.workflows.slmc import resumed_config, slmc
from covarium.workflows.slmc_config import configure
from covarium.workflows.slmc_report import few_chains, next_command, too_short, worst
from covarium.workflows.slmc_results import OBSERVABLES, SlmcOutcome

TINY = [
    "lattice.size=2", "lattice.inverse_temperature=6", "plain.chains=8", "plain.warmup=20", "plain.sweeps=50",
    "samples.train=400", "samples.valid=100", "samples.test=200", "samples.every=2", "model.layers=2",
    "training.steps=16", "proposal.chains=32", "proposal.warmup=3", "proposal.steps=12", "proposal.sweeps=1",
    "proposal.corrections=2",
]  # fmt: skip


def run(out: Path, *, stop: tuple[str, int] | None = None, resume: bool = False) -> SlmcOutcome:
    """A run that gets SIGTERM when ``stop``, a stage and a count, is reached."""

    def progress(stage: str, done: int, total: int, values: dict[str, float]) -> None:
        assert 0 <= done <= total
        if stop == (stage, done):
            os.kill(os.getpid(), signal.SIGTERM)

    config = resumed_config(out) if resume else configure(None, {}, TINY)
    return slmc(config, out, progress=progress, resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SlmcOutcome:
    return run(tmp_path_factory.mktemp("slmc") / "whole")


def content(folder: Path) -> dict[str, object]:
    """Everything a run leaves, without the clocks."""
    found: dict[str, object] = {}
    for file in sorted(folder.rglob("*.safetensors")):
        if file.name == "state.safetensors":  # of training; its own tests look at it
            continue
        with safe_open(file, "pt") as opened:
            for name in opened.keys():
                found[f"{file.relative_to(folder)}:{name}"] = opened.get_tensor(name)
    results = json.loads((folder / "results.json").read_text())
    for one in (results["plain"], *results["slmc"]):
        one.pop("cpu_s")
    return {**found, "results": json.dumps(results)}


def assert_same(one: Path, other: Path) -> None:
    a, b = content(one), content(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert same, name


def test_what_a_run_leaves(whole: SlmcOutcome) -> None:
    assert {p.name for p in whole.folder.iterdir()} == {
        "config.resolved.yaml", "results.json", "report.html", "plain", "collect",
        "fit-0", "fit-1", "fit-2", "measure-0", "measure-1", "measure-2",
    }  # fmt: skip
    page = whole.report.read_text()
    for title in ("Acceptance against layers", "Error against parameters", "Observables", "Efficiency"):
        assert title in page
    assert 'src="http' not in page and "<svg" in page
    results = json.loads((whole.folder / "results.json").read_text())
    assert [fit["parameters"] for fit in results["fits"]] == [3, 12, 21]
    assert set(results["plain"]["estimates"]) == set(OBSERVABLES)
    assert worst(whole) < 4.5
    with safe_open(whole.folder / "collect" / "chains.safetensors", "pt") as chains:
        kept, all_of_them = chains.get_tensor("sample_weights"), chains.get_tensor("series.log_weight")
    assert len(kept) == 22 and torch.equal(kept, all_of_them[::2])  # 700 samples of 32 chains, every second step
    errors = [fit.test_mse for fit in whole.fits]
    assert errors[2] <= errors[0]
    task = checkpoint.load(whole.folder / "fit-2" / "model.safetensors").task
    assert task.physics["inverse_temperature"] == 6 and task.model.config.num_layers == 2


def test_chains_that_are_too_short_are_named(whole: SlmcOutcome) -> None:
    assert whole.plain is not None
    for tau, said in ((4.9, 0), (5.1, 1)):  # of 50 sweeps
        slow = {key: replace(one, tau=tau) for key, one in whole.plain.estimates.items()}
        lines = too_short(replace(whole, plain=replace(whole.plain, estimates=slow), measured=()))
        assert len(lines) == said and all("plain.sweeps to 51" in line for line in lines)


def test_too_few_measurements_are_named(whole: SlmcOutcome) -> None:
    assert not [line for line in too_short(whole) if "linear" in line]
    short = estimate(np.random.default_rng(0).normal(size=(1, 12)))
    alone = replace(whole.measured[0], estimates=dict.fromkeys(OBSERVABLES, short))
    lines = [line for line in too_short(replace(whole, measured=(alone,))) if "linear" in line]
    assert len(lines) == 1 and "raise proposal.steps or proposal.chains" in lines[0]


TINIER = [*TINY, "model.layers=1", "training.steps=4", "proposal.chains=16"]


@pytest.mark.parametrize("given", ["lattice.hund=0", "lattice.hopping=0", "lattice.size=3"])
def test_what_does_not_fluctuate_is_not_judged(tmp_path: Path, given: str) -> None:
    """Rounding has autocorrelation times too; and a lattice of odd size no sublattices."""
    config = configure(None, {}, [*TINIER, given])
    outcome = slmc(config, tmp_path / "run", progress=lambda *_: None)
    assert outcome.plain is not None and outcome.report.exists()
    assert ("staggered" in outcome.plain.estimates) == (config.lattice.size == 2)
    expected = {"staggered", "magnetisation", "neighbours"} if config.lattice.size == 2 else {
        "magnetisation", "energy", "neighbours"}  # fmt: skip
    assert set(outcome.plain.slow) == expected
    gains = {key: s.rate(key) / outcome.plain.rate(key) for s in outcome.measured[:1] for key in expected}
    assert outcome.measured[0].gain(outcome.plain)[0] == min(gains.values())
    noise = Estimate(-0.7, 1e-16, 400.0, 40.0, 3.0)
    noisy = replace(outcome.plain, estimates=outcome.plain.estimates | {"energy": noise})
    assert [line for line in too_short(replace(outcome, plain=noisy)) if "plain" in line and " 0 " in line] == []
    assert worst(outcome) < 5


def test_few_plain_chains_are_named(whole: SlmcOutcome) -> None:
    """The gain depends on them."""
    for chains, said in ((8, 1), (31, 1), (32, 0), (64, 0)):
        config = whole.config.model_copy(update={"plain": whole.config.plain.model_copy(update={"chains": chains})})
        lines = few_chains(replace(whole, config=config))
        assert len(lines) == said and all(f"over {chains} chains" in line for line in lines)
    assert "The gain is over 8 chains of local updates" in whole.report.read_text()


def test_the_next_command_works(whole: SlmcOutcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder, and on a lattice that is another one."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(next_command(whole))
    assert html.escape(next_command(whole)) in whole.report.read_text()
    given = dict(zip(words[2::2], words[3::2], strict=True))
    again = configure(Path(given["--config"]), {}, [given["--set"]])
    assert again.lattice.size == 4 and again.plain == whole.config.plain


def test_the_same_seed_is_the_same_run(whole: SlmcOutcome, tmp_path: Path) -> None:
    again = run(tmp_path / "again")
    assert not again.interrupted
    assert_same(whole.folder, again.folder)


@pytest.mark.parametrize("stop", [("plain", 3), ("plain", 12), ("fit-2", 3), ("measure-1", 3)], ids=str)
def test_stopped_runs_go_on_to_the_bit(whole: SlmcOutcome, tmp_path: Path, stop: tuple[str, int]) -> None:
    out = tmp_path / "parts"
    stopped = run(out, stop=stop)
    assert stopped.interrupted and not stopped.report.exists()
    assert f"slmc --resume {out}" in stopped.resume_command
    assert not run(out, resume=True).interrupted
    assert_same(whole.folder, out)


KILLED = """
import os, signal, sys
from pathlib import Path
from covarium.workflows import slmc_chains
from covarium.workflows.slmc import slmc
from covarium.workflows.slmc_config import configure

slmc_chains.SAVE_S = 0.0
out, stage, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def progress(now, done, total, values):
    if (now, done) == (stage, count):
        os.kill(os.getpid(), signal.SIGKILL)

slmc(configure(None, {}, sys.argv[4:]), out, progress=progress)
"""


@pytest.mark.parametrize(("stage", "count"), [("plain", 4), ("plain", 13), ("fit-1", 12)])
def test_killed_runs_go_on_to_the_bit(whole: SlmcOutcome, tmp_path: Path, stage: str, count: int) -> None:
    out = tmp_path / "killed"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(out), stage, str(count), *TINY], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not run(out, resume=True).interrupted
    assert_same(whole.folder, out)


def test_the_warm_up_can_be_stopped(whole: SlmcOutcome, tmp_path: Path) -> None:
    """It is most of what local updates do before anything is kept: no signal waits for its end."""
    shown: list[set[str]] = []

    def progress(stage: str, count: int, total: int, values: dict[str, float]) -> None:
        shown.append(set(values))
        if count == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    slmc(configure(None, {}, TINY), tmp_path / "run", progress=progress)
    assert shown == [{"step"}] * 4
    with safe_open(tmp_path / "run" / "plain" / "chains.safetensors", "pt") as chains:
        assert not [name for name in chains.keys() if name.startswith("series")]  # so it is the warm-up
    assert configure(None, {}, TINY).settings.save_s <= 10  # as the page says


def test_a_finished_run_can_be_resumed(whole: SlmcOutcome) -> None:
    before = content(whole.folder)
    assert not run(whole.folder, resume=True).interrupted
    assert before.keys() == content(whole.folder).keys()
    assert before["results"] == content(whole.folder)["results"]


def test_used_folders_and_empty_ones_are_refused(whole: SlmcOutcome, tmp_path: Path) -> None:
    with pytest.raises(CovariumError, match="already holds a run.*slmc --resume"):
        run(whole.folder)
    with pytest.raises(CovariumError, match="no run to resume"):
        resumed_config(tmp_path)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("lattice.sise=4", "did you mean 'size'"),
        ("proposals.steps=4", "did you mean 'proposal'"),
        ("training.stepz=4", "did you mean 'steps'"),
        ("lattice.inverse_temperature=-1", "greater than 0"),
        ("lattice.hund=.nan", "lattice.hund: input should be a finite number"),
        ("model.attention_shells=9", "1 … 9"),
    ],
)
def test_mistakes_are_named(assignment: str, message: str) -> None:
    good = "lattice.size=6"
    if message == "1 … 9":
        good = assignment  # allowed on 6 × 6, refused on 4 × 4
        assert configure(None, {}, ["lattice.size=6", good]).model.attention_shells == 9
        with pytest.raises(CovariumError, match="1 … 5"):
            configure(None, {}, ["lattice.size=4", good])
        return
    with pytest.raises(CovariumError, match=message):
        configure(None, {}, [good, assignment])


def test_the_resolved_configuration_is_the_configuration(whole: SlmcOutcome) -> None:
    assert configure(whole.folder / "config.resolved.yaml", {}, []) == whole.config


def test_effective_models_are_described_and_checked(whole: SlmcOutcome, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("info", whole.folder / "fit-0") == 0
    shown = capsys.readouterr().out
    assert "O(3) x lattice" in shown and "2 × 2, periodic" in shown and "inverse temperature 6" in shown
    assert call("check", "model", whole.folder / "fit-1") == 0
    shown = capsys.readouterr().out
    assert "O(3) x lattice log_weight" in shown and "float32" in shown and "FAILED" not in shown
    # the finished fit, not the best of its training
    fitted = whole.folder / "fit-1" / "model.safetensors"
    assert call("info", whole.folder / "fit-1") == call("info", fitted) == 0
    by_folder, by_name = capsys.readouterr().out.split("Model")[1:]
    assert by_folder == by_name
    assert call("check", "model", fitted, "some.xyz") == 2
    assert "leave out 'some.xyz'" in capsys.readouterr().err


def test_effective_models_are_no_potentials(whole: SlmcOutcome, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = whole.folder / "fit-1" / "model.safetensors"
    for command in (("predict", fitted, "a.xyz", "--out", "b.xyz"), ("evaluate", fitted, "a.xyz")):
        assert call(*command) == 2, command
        assert "effective_action" in capsys.readouterr().err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [word for assignment in TINY for word in ("--set", assignment)]
    assert call("slmc", "--out", tmp_path / "run", *sets) == 0
    shown = capsys.readouterr().out
    assert "2 × 2, periodic" in shown and "acceptance, linear" in shown and "acceptance, 2 layers" in shown
    assert shown.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    assert call("slmc", "--resume", tmp_path / "run") == 0
    assert call("slmc") == 2
    assert "give --out DIR" in capsys.readouterr().err
    assert call("slmc", "--resume", tmp_path / "run", "--seed", "3") == 2
    assert "takes no other option" in capsys.readouterr().err
    assert call("slmc", "--out", tmp_path / "new", "--set", "lattice.sise=4") == 2
    assert "did you mean 'size'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()

"""Two processes are one: same weights, same decisions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import potential_runs
import pytest
import rank_runs
import torch
from safetensors import safe_open
from safetensors.torch import load_file

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """name → (tensors, facts) of one process and of two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    by_two("rank_runs.py", two)
    rank_runs.main(one)
    return {name: (read(one / f"{name}.safetensors"), read(two / f"{name}.safetensors")) for name in rank_runs.RUNS}


def by_two(script, out):
    path = os.pathsep.join([str(HERE), str(HERE.parents[1] / "src")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(HERE / script), str(out)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_two_ranks_train_a_potential_as_one_does(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    by_two("potential_runs.py", two)
    potential_runs.main(one)
    alone, together = (load_file(folder / "potential.safetensors") for folder in (one, two))
    assert alone["scores"][-1] != alone["scores"][0]
    for key, tensor in alone.items():
        torch.testing.assert_close(together[key], tensor, rtol=1e-10, atol=1e-10)


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])


@pytest.mark.parametrize("name", rank_runs.RUNS)
def test_two_ranks_equal_one(results, name):
    (one, facts), (two, other_facts) = results[name]
    for key in ("best", "scores") if "error" not in facts else ():
        assert other_facts.pop(key) == pytest.approx(facts.pop(key), rel=1e-10)
    assert facts == other_facts
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-10, atol=1e-10)


def test_the_runs_did_what_they_are_for(results):
    facts = {name: result[0][1] for name, result in results.items()}
    assert facts["early"]["reason"].startswith("stopped early") and facts["early"]["steps"] < 180
    assert len(facts["bad"]["notes"]) == 2 and facts["bad"]["notes"][0].endswith("clusters.xyz, index 9")
    assert "2 steps in a row" in facts["hopeless"]["error"] and "index 9" in facts["hopeless"]["error"]

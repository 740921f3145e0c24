"""Gravitational n-body: how many samples each model needs, and whether it holds where samples lie elsewhere.

    python benchmarks/nbody.py [--steps 1000] [--samples 100 1000] [--models iP C E P transformer] [--size published]

Every model is trained through `covarium train`'s own path on the same systems (settings of Brehmer 2023, arXiv
2305.18415; 6 bodies), and judged on others of the same domain and on others 200 units further along x. Published at
1,000 trajectories and 5,000 steps (official code, 10 blocks): GATr .0005, SEGNN .0006, SE(3)-Transformer .0025,
Transformer .0050. Differences: a cosine instead of an exponential schedule, and answers as changes of position; GATr's
inputs are centred on each sample in all spaces, the transformer's are not, as published (``--centre`` centres them).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from covarium.analysis.token_errors import evaluate_tokens
from covarium.checkpoint import load
from covarium.data.tokens import read_tokens
from covarium.physics.gravity import NBody
from covarium.workflows.configuring import configure
from covarium.workflows.kinds import infer
from covarium.workflows.making import write_nbody
from covarium.workflows.training_run import run

SIZES: dict[str, dict[str, dict[str, int]]] = {
    "small": {"gatr": {}, "transformer": {}},
    "published": {
        "gatr": {"hidden_mv_channels": 16, "hidden_s_channels": 128, "num_blocks": 10, "num_heads": 8},
        "transformer": {"hidden_channels": 384, "num_blocks": 10, "num_heads": 8},
    },
}


def files(folder: Path, samples: list[int], held_out: int) -> dict[str, Path]:
    """Training files of each size, nested; validation, test and shifted test."""
    found = {}
    for name, count, seed, shifted in (
        *((f"train-{n}", n, 1, False) for n in samples),
        ("valid", min(held_out, 200), 2, False),
        ("test", held_out, 3, False),
        ("shifted", held_out, 4, True),
    ):
        found[name] = folder / f"{name}.npz"
        write_nbody(found[name], NBody(), count, seed, shifted=shifted)
    return found


def train(model: str, data: dict[str, Path], samples: int, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Train one model and judge it."""
    name = "transformer" if model == "transformer" else "gatr"
    given = {
        "data": {"train": [str(data[f"train-{samples}"])], "valid": [str(data["valid"])], "kind": "tokens"},
        "model": {"name": name, **SIZES[options.size][name], **({} if name != "gatr" else {"variant": model})},
        "task": {"centre": name == "gatr" or options.centre},
        "training": {"steps": options.steps, "lr": options.lr, "eval_every": max(options.steps // 10, 1)},
        "seed": options.seed,
        "threads": options.threads,
    }
    plan = infer(configure(recipe="tokens", given=given))
    start = time.process_time()
    outcome = run(plan, out)
    seconds = time.process_time() - start
    best = load(outcome.model).task
    errors = {
        part: evaluate_tokens(best, read_tokens([data[part]])).summary()["positions"] for part in ("test", "shifted")
    }
    return {
        "model": model if name == "transformer" else f"{model}-GATr", "samples": samples, "steps": outcome.result.steps,
        "parameters": sum(p.numel() for p in best.parameters()), "MSE": errors["test"]["mse"],
        "MSE shifted": errors["shifted"]["mse"], "relative": errors["test"]["relative"], "CPU s": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--models", nargs="+", default=["iP", "C", "E", "P", "transformer"])
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--centre", action="store_true", help="centre the transformer's inputs too")
    options = parser.parse_args()
    from record import write_record

    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = files(Path(folder), options.samples, options.held_out)
        for samples in options.samples:
            for model in options.models:
                rows.append(train(model, data, samples, options, Path(folder) / f"{model}-{samples}"))
                print(rows[-1], flush=True)
        still = read_tokens([data["test"]])
        moved = [((s.targets["positions"] - s.positions) ** 2).mean() for s in still]
        rows.append({"model": "bodies at rest", "MSE": float(sum(moved) / len(moved))})
    note = f"{options.size} networks, {options.steps} steps of 64, lr {options.lr:g}, seed {options.seed}"
    write_record("nbody", rows, note=note)


if __name__ == "__main__":
    main()

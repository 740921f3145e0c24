"""Gravitational n-body: how many samples each model needs, and whether it holds where samples lie elsewhere.

    python benchmarks/nbody.py [--work FOLDER] [--steps 1000] [--samples 100 1000] [--models iP C E …]
                               [--size published]

Every model is trained through `covarium train`'s own path on the same systems (settings of Brehmer 2023, arXiv
2305.18415; 6 bodies), and judged on others of the same domain and on others 200 units further along x. Published at
1,000 trajectories and 5,000 steps (official code, 10 blocks): see ``PUBLISHED``. Differences: a cosine instead of an
exponential schedule, and answers as changes of position; inputs are centred on each sample, save those of
``transformer``, which sees absolute positions as the published one does.

Each run has a folder in ``--work``. What is finished there is not made again, what was stopped goes on, and several of
these commands may share it once its data are there. Record, table and picture are made of all results it holds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from record import write_record
from token_models import MODELS, RESULT, SIZES, train

from covarium.analysis.plots import GREY, STYLE, new_figure, render
from covarium.analysis.token_errors import evaluate_tokens
from covarium.data.tokens import read_tokens
from covarium.files import replace_file
from covarium.physics.gravity import NBody
from covarium.tasks.tokens import TokenRegression
from covarium.workflows.making import write_nbody

PUBLISHED = {"GATr": 0.0005, "SEGNN": 0.0006, "SE(3)-Transformer": 0.0025, "transformer": 0.0050}
POOL = 10_000  # the training files of all sizes are the first of these systems


def files(folder: Path, samples: list[int], held_out: int) -> dict[str, Path]:
    """Training files of each size, nested; validation, test and shifted test. What is there is not made again."""
    parts = {"pool": (max(POOL, *samples), 1, False), "valid": (min(held_out, 200), 2, False)}
    parts |= {"test": (held_out, 3, False), "shifted": (held_out, 4, True)}
    found = {name: folder / f"{name}.npz" for name in parts}
    for name, (count, seed, shifted) in parts.items():
        if not found[name].exists():
            write_nbody(found[name], NBody(), count, seed, shifted=shifted)
    for n in samples:
        found[f"train-{n}"] = folder / f"train-{n}.npz"
        if not found[f"train-{n}"].exists():
            with np.load(found["pool"]) as pool:
                first = {key: pool[key][:n] for key in pool.files}
            np.savez(found[f"train-{n}"], allow_pickle=False, **first)
    return found


def judged(task: TokenRegression, data: dict[str, Path]) -> dict[str, float]:
    """Errors on test and shifted systems; of bodies also the median, as near collisions rule the mean."""
    test, shifted = (evaluate_tokens(task, read_tokens([data[part]])) for part in ("test", "shifted"))
    found = test.summary()["positions"]
    bodies = zip(test.answers["positions"], test.samples, strict=True)
    squares = np.concatenate([((x - sample.targets["positions"]) ** 2).mean(1) for x, sample in bodies])
    worst = np.sort(squares)[-max(len(squares) // 1000, 1) :]
    return {
        "MSE": found["mse"], "MSE shifted": shifted.summary()["positions"]["mse"], "relative": found["relative"],
        "median body": float(np.median(squares)), "worst thousandth's part": float(worst.sum() / squares.sum()),
    }  # fmt: skip


@mpl.rc_context(STYLE)
def picture(results: list[dict[str, Any]], steps: int) -> Figure:
    """Error against training samples (dashed: shifted domain), and validation error while training."""
    figure, (left, right) = new_figure("nbody", 9.6, 4.4, 1, 2)
    chosen = [row for row in results if row["size"] == "small" and row["steps"] == steps]
    for kind in MODELS.values():
        mine = [row for row in chosen if row["model"] == kind.label]
        n = [row["samples"] for row in mine]
        line = {"color": kind.colour, "marker": "o", "markersize": 4}
        left.plot(n, [row["MSE"] for row in mine], label=kind.label, **line)
        left.plot(n, [row["MSE shifted"] for row in mine], linestyle=":", **line)
        for row in mine:
            if row["samples"] == 1000:
                right.plot(*row["curve"], color=kind.colour, label=kind.label)
    for (name, mse), marker in zip(PUBLISHED.items(), "*D^s", strict=True):
        left.plot(
            [1000],
            [mse],
            color=GREY,
            marker=marker,
            markersize=6,
            linestyle="none",
            label=f"published {name}",
            zorder=1,
        )
    left.set(xlabel="training trajectories", ylabel="test MSE (dotted: shifted domain)", xscale="log", yscale="log")
    right.set(xlabel=f"step of {steps:,}, 1,000 trajectories", ylabel="validation MSE", yscale="log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def write(work: Path, test: Path, steps: int, note: str) -> None:
    """Record, table and picture of all results in the folder."""
    order = [kind.label for kind in MODELS.values()]
    results = [json.loads(path.read_text()) for path in work.glob(f"*/{RESULT}")]
    results.sort(key=lambda row: (row["size"], row["steps"], row["samples"], order.index(row["model"])))
    rows = [{key: value for key, value in row.items() if key != "curve"} for row in results]
    moved = [((sample.targets["positions"] - sample.positions) ** 2).mean() for sample in read_tokens([test])]
    rows.append({"model": "bodies at rest", "MSE": float(np.mean(moved))})
    path = write_record("nbody", rows, note=note)
    replace_file(path.with_name("curves.svg"), lambda place: place.write_bytes(render(picture(results, steps))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-nbody"), help="data, runs and results; kept")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--held-out", type=int, default=4000)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    data = files(options.work, options.samples, options.held_out)
    training = {"steps": options.steps, "lr": options.lr, "eval_every": max(options.steps // 20, 1)}
    training["seed"] = options.seed
    for samples in options.samples:
        for model in options.models:
            out = options.work / f"{options.size}-{samples}-{options.steps}-{model}"
            train(
                model, options.size, data[f"train-{samples}"], data["valid"], out, training,
                lambda task, n=samples: {"samples": n, **judged(task, data)},
            )  # fmt: skip
            print(out.name, flush=True)
    note = f"batches of 64, lr {options.lr:g} falling by a cosine, seed {options.seed}, the best of 20 evaluations"
    write(options.work, data["test"], options.steps, note)


if __name__ == "__main__":
    main()

"""Wall-shear stress on tubes: errors on held-out tubes as they come, and on the same tubes turned at random.

    python benchmarks/tubes.py [--work FOLDER] [--steps 1500] [--samples 400] [--models iP E centred]

Tubes as `covarium make tubes` draws them: they begin along x, so that a model without symmetry can learn the direction
by heart. Trained through `covarium train`'s own path; the error is ‖answer − target‖ / ‖target‖ of each tube, averaged.
Each run has a folder in ``--work``; what is finished there is not made again, what was stopped goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from record import write_record
from scipy.spatial.transform import Rotation
from token_models import MODELS, SIZES, train

from covarium.analysis.token_errors import evaluate_tokens
from covarium.data.tokens import TokenSample, read_tokens
from covarium.tasks.tokens import TokenRegression
from covarium.workflows.making import write_tubes

PARTS = {"valid": (40, 1), "test": (200, 2)}


def turned(samples: list[TokenSample], seed: int) -> list[TokenSample]:
    """Each sample turned by a rotation of its own."""
    turns = Rotation.random(len(samples), random_state=seed).as_matrix()
    return [
        replace(
            sample,
            positions=sample.positions @ turn.T,
            vectors=sample.vectors @ turn.T,
            targets={"vectors": sample.targets["vectors"] @ turn.T},
        )
        for sample, turn in zip(samples, turns, strict=True)
    ]


def judged(task: TokenRegression, test: Path) -> dict[str, float]:
    """Errors on the test tubes, as they come and turned."""
    samples = read_tokens([test])
    parts = {"as they come": samples, "turned": turned(samples, 0)}
    return {name: evaluate_tokens(task, part).summary()["vectors"]["relative"] for name, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-tubes"), help="data, runs and results; kept")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--rings", type=int, default=8)
    parser.add_argument("--around", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["iP", "E", "centred"])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    data = {}
    for name, (count, seed) in {f"train-{options.samples}": (options.samples, 0), **PARTS}.items():
        data[name.split("-")[0]] = path = options.work / f"{name}.npz"
        if not path.exists():
            write_tubes(path, count, options.rings, options.around, seed)
    training = {"steps": options.steps, "lr": options.lr, "eval_every": max(options.steps // 20, 1)}
    training |= {"seed": options.seed, "batch_size": options.batch}
    rows = []
    for model in options.models:
        out = options.work / f"{options.size}-{options.samples}-{options.steps}-{model}"
        row = train(
            model, options.size, data["train"], data["valid"], out, training, lambda task: judged(task, data["test"])
        )
        rows.append({key: value for key, value in row.items() if key != "curve"})
        print(rows[-1], flush=True)
    note = f"{options.samples} tubes of {options.rings} × {options.around} vertices, batches of {options.batch}, "
    note += f"lr {options.lr:g}, seed {options.seed}; relative errors over {PARTS['test'][0]} tubes"
    write_record("tubes", rows, note=note)


if __name__ == "__main__":
    main()

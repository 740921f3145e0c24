"""Where the linear model is rarely accepted: what 1 to 6 layers of attention make of it, on 6 × 6.

    python benchmarks/slmc_depth.py [level | exchange] [--out DIR]

One run of ``covarium slmc``; DIR keeps it with its report, and an interrupted run goes on there. Proposals are long:
ten of heat bath and overrelaxation, there and back, each corrected by the attention. Beside their acceptance stands
what the errors on test samples give for independent configurations.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from record import write_record

from covarium.analysis.lattice_plots import power_law
from covarium.workflows.slmc import resumed_config, slmc
from covarium.workflows.slmc_config import configure
from covarium.workflows.slmc_report import worst

# Found by a scan of couplings, fillings and temperatures.
POINTS = {
    # weak coupling; the chemical potential lies on a degenerate level of the free electrons, far below its splitting
    "level": ("lattice.hund=1", "lattice.chemical_potential=-1", "lattice.inverse_temperature=120"),
    # few electrons in the band of those whose spin is along the lattice's
    "exchange": (
        "lattice.hund=4",
        "lattice.chemical_potential=-3",
        "lattice.inverse_temperature=26",
        "plain.warmup=60",
        "plain.sweeps=100",
        "samples.train=8000",
        "samples.test=3000",
        "samples.every=4",
        "training.steps=1200",
        "training.lr=0.01",
    ),  # fmt: skip
}
# What makes 6 × 6 affordable: of the order of ten minutes on a quiet core.
SETTINGS = (
    "lattice.size=6", "plain.warmup=40", "plain.sweeps=60", "samples.train=6000", "samples.valid=1000",
    "samples.test=2000", "samples.every=3", "model.layers=6", "training.steps=800", "training.lr=0.005",
    "proposal.chains=128", "proposal.sweeps=1", "proposal.corrections=10", "proposal.steps=40", "seed=0",
)  # fmt: skip


def show(stage: str, done: int, total: int, values: dict[str, float]) -> None:
    if done == total:
        print(f"{stage} {values}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("point", nargs="?", choices=POINTS, default="level")
    parser.add_argument("--out", type=Path, default=Path(tempfile.mkdtemp(prefix="slmc-depth-")))
    given = parser.parse_args()
    out = given.out
    started = (out / "config.resolved.yaml").exists()
    config = resumed_config(out) if started else configure(None, {}, [*SETTINGS, *POINTS[given.point]])
    outcome = slmc(config, out, progress=show, resume=started)
    if outcome.interrupted:
        return
    rows = []
    for fit, found in zip(outcome.fits, outcome.measured, strict=True):
        rows.append({
            "layers": fit.layers, "parameters": fit.parameters, "train_mse": fit.train_mse, "test_mse": fit.test_mse,
            "acceptance": found.accepted.mean, "acceptance_error": found.accepted.error,
            "independent": fit.independent, "exp_minus_root_mse": math.exp(-math.sqrt(fit.test_mse)),
        })  # fmt: skip
    deep = outcome.fits[2:]
    law = power_law([fit.parameters for fit in deep], [fit.test_mse for fit in deep])
    lattice = config.lattice
    note = (
        f"t = {lattice.hopping:g}, J = {lattice.hund:g}, mu = {lattice.chemical_potential:g}, "
        f"beta = {lattice.inverse_temperature:g} on {lattice.size} x {lattice.size}; test MSE of 2 layers and more ~ "
        f"parameters^(-{law.exponent:.2f} +- {law.exponent_error:.2f}); largest difference of a mean from local "
        f"updates {worst(outcome):.1f} standard errors"
    )
    write_record(f"slmc-depth-{given.point}", rows, note=note)
    print(f"report: {outcome.report}")


if __name__ == "__main__":
    main()

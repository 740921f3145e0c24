"""Small runs beside published end points: the attention ablation on aspirin, and dipole and gap on a part of QM9.

    python benchmarks/published.py --data DIR [--steps 400] [--minutes 8] [--only ablation qm9]
    python benchmarks/published.py --tables

ablation: the three forms of Equiformer's attention by their recipes (loss, learning rate, batch of 8, no envelope, norm
per irrep) at an equal number of steps, on the 950 + 50 training frames of split 01 of rMD17 aspirin with the labels of
the original MD17, errors on its 1000 test frames. The network has the sizes of ``covarium train --model equiformer``
(``--size published`` for those of the recipe), and the warm-up is a twentieth of the run. Published: 1500 epochs.

qm9: ``covarium train TRAIN --property KEY --model NAME --time 8m --threads 1`` with the clock of ``cells.py``, 20,000
molecules for training, 2,000 of others to choose the best weights by, 3,580 for the error. Published: 110,000
molecules, 300 epochs (Equiformer) or until the error stays (ET).

DIR holds rmd17/ and qm9/. Every cell is recorded when it is done and not run again.
"""

from __future__ import annotations

import argparse
import io
import lzma
import os
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

sys.path.insert(0, str(Path(__file__).parent))
from cells import budgeted, drive, markdown, record, recorded, rewrite
from models import NAMES, judged, labelled

FORMS = {  # recipe, in words, published energy (meV) and forces (meV/Å)
    "nonlinear": ("equiformer-md17-l2", "non-linear messages, MLP attention", 5.4, 7.2),
    "linear": ("equiformer-md17-l2-linear", "linear messages, MLP attention", 5.4, 8.2),
    "dot-product": ("equiformer-md17-l2-dot-product", "linear messages, dot-product attention", 5.8, 9.2),
}
SIZES = ("num_layers", "irreps_node", "irreps_feature", "irreps_head", "irreps_mlp")
TARGETS = {"mu": "D", "gap": "eV"}
PUBLISHED = {  # Liao 2023, arXiv 2206.11990, QM9 table; Thölke 2022, arXiv 2202.02541, corrected figures
    ("gap", "torchmd_et"): 0.0361, ("gap", "equiformer"): 0.030,
    ("mu", "torchmd_et"): 0.011, ("mu", "equiformer"): 0.011,
}  # fmt: skip
QM9_PARTS = ("train", "valid", "test")
README = Path(__file__).parent / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("COVARIUM_DATA"))
    parser.add_argument("--steps", type=int, default=400, help="of the ablation")
    parser.add_argument("--size", choices=("default", "published"), default="default", help="of the ablation")
    parser.add_argument("--minutes", type=float, default=8.0, help="of CPU time per property")
    parser.add_argument("--only", nargs="+", choices=("ablation", "qm9"), default=["ablation", "qm9"])
    parser.add_argument("--together", type=int, default=1, help="cells at the same time, one thread each")
    parser.add_argument("--work", type=Path, default=Path("runs/published"))
    parser.add_argument("--tables", action="store_true", help="write the tables of the page from the records")
    parser.add_argument("--cell", nargs=2, metavar=("WHICH", "OF"), help="one cell, in this process")
    options = parser.parse_args()
    if options.tables:
        rewrite(README, "ablation", ablation_table(recorded("ablation")))
        rewrite(README, "qm9", qm9_table(recorded("qm9")))
    elif options.data is None or not Path(options.data).is_dir():
        print("published: no data; give --data, or COVARIUM_DATA: not run")
    elif options.cell and options.cell[0] in FORMS:
        ablation(options.cell[0], options)
    elif options.cell:
        qm9(*options.cell, options)
    else:
        command = [__file__, "--data", str(options.data), "--minutes", f"{options.minutes:g}", "--size", options.size]
        command += ["--steps", str(options.steps), "--work", str(options.work)]
        if "ablation" in options.only:
            drive("ablation", [(form, options.size) for form in FORMS], command, options.together, options.work)
        if "qm9" in options.only:
            cells = [(target, model) for target in TARGETS for model in ("torchmd_et", "equiformer")]
            drive("qm9", cells, command, options.together, options.work)


def folder(options: argparse.Namespace) -> Path:
    """A new one for this cell."""
    out = Path(options.work) / f"{'_'.join(options.cell)}_{os.getpid()}"
    out.mkdir(parents=True)
    return out


# -- attention on aspirin


def ablation(form: str, options: argparse.Namespace) -> None:
    """Train one form of attention for so many steps and record its errors."""
    from covarium.models import EquiformerConfig
    from covarium.workflows.configuring import configure
    from covarium.workflows.kinds import infer
    from covarium.workflows.training_run import run

    out = folder(options)
    with np.load(Path(options.data) / "rmd17/rmd17_aspirin_split01.npz") as kept:
        for part in ("train", "test"):
            ase.io.write(out / f"{part}.extxyz", labelled(kept, part, "_md17"), format="extxyz")
    sizes = {name: getattr(EquiformerConfig(), name) for name in SIZES} if options.size == "default" else {}
    training = {"epochs": None, "steps": options.steps, "warmup": 0.05}
    given = {"data": {"train": [str(out / "train.extxyz")]}, "model": sizes, "training": training, "threads": 1}
    plan = infer(configure(recipe=FORMS[form][0], given=given))
    start = time.process_time()
    outcome = run(plan, out / "run")
    row = {
        "recipe": FORMS[form][0], "size": options.size, "steps": outcome.result.steps,
        "best_step": outcome.result.best_step, "batch": plan.settings.batch_size,
        "parameters": sum(p.numel() for p in plan.task.parameters()), "cpu_s": time.process_time() - start,
        "errors": {"test": judged(outcome.model, out / "test.extxyz")},
    }  # fmt: skip
    record("ablation", options.cell, row)


def ablation_table(cells: list[dict[str, Any]]) -> str:
    """The three forms, measured and published."""
    if not cells:
        return "Not run yet."
    header = (
        "form",
        "parameters",
        "steps of 8",
        "energy, meV",
        "forces, meV/Å",
        "published (1500 epochs): energy, forces",
    )
    rows = []
    for cell in sorted(cells, key=lambda cell: (cell["cell"][1], list(FORMS).index(cell["cell"][0]))):
        _, words, energy, forces = FORMS[cell["cell"][0]]
        measured = cell["errors"]["test"]
        rows.append([
            words, f"{cell['parameters']:,}", f"{cell['steps']:,}", f"{measured['energy']:.1f}",
            f"{measured['forces']:.1f}", f"{energy}, {forces}",
        ])  # fmt: skip
    return markdown(header, rows)


# -- properties


def qm9(target: str, model: str, options: argparse.Namespace) -> None:
    """Train one property and record its error."""
    from covarium.analysis.property_errors import evaluate_property
    from covarium.checkpoint import load
    from covarium.data import read
    from covarium.workflows.configuring import configure

    out = folder(options)
    paths = write_qm9(Path(options.data) / "qm9/qm9_12targets_26k.npz.xz", target, out)
    given = {
        "data": {"train": [paths["train"]], "valid": [paths["valid"]], "units": {"property": TARGETS[target]}},
        "model": {"name": model}, "task": {"property": {"name": target}},
        "training": {"time_s": 60 * options.minutes, "epochs": None, "steps": None}, "threads": 1,
    }  # fmt: skip
    outcome, row = budgeted(configure(given=given, default="properties"), out / "run")
    best = load(outcome.model).task.requires_grad_(False)
    frames = read([Path(paths["test"])], keys={"property": target}, need=("property",)).frames
    errors = evaluate_property(best, frames).to_json()["property"]
    record("qm9", options.cell, {"budget_cpu_s": 60 * options.minutes, **row, "errors": {"test": errors}})


def write_qm9(path: Path, target: str, out: Path) -> dict[str, str]:
    """Molecules with one target, by part."""
    with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as kept:
        numbers, positions = kept["z"], kept["R"] * 1e-6
        ends, split, values = np.cumsum(kept["n_atoms"].astype(int)), kept["split"], kept[target]
    molecules = [
        Atoms(numbers[end - count : end], positions[end - count : end], info={target: float(value)})
        for end, count, value in zip(ends, np.diff(ends, prepend=0), values, strict=True)
    ]
    paths = {part: str(out / f"{part}.extxyz") for part in QM9_PARTS}
    for k, part in enumerate(QM9_PARTS):
        ase.io.write(paths[part], [m for m, s in zip(molecules, split, strict=True) if s == k], format="extxyz")
    return paths


def qm9_table(cells: list[dict[str, Any]]) -> str:
    """Measured beside published."""
    if not cells:
        return "Not run yet."
    header = ("target", "model", "parameters", "steps", "batch", "epochs of 20,000", "MAE", "spread of the labels",
              "published (110,000 molecules)")  # fmt: skip
    rows = []
    for cell in sorted(cells, key=lambda cell: cell["cell"]):
        target, model = cell["cell"]
        errors, unit = cell["errors"]["test"], TARGETS[target]
        rows.append([
            f"{target}, {unit}", NAMES[model], f"{cell['parameters']:,}", f"{cell['steps']:,}", str(cell["batch"]),
            f"{cell['steps'] * cell['batch'] / 20000:.2g}", f"{errors['mae']:.3f}", f"{errors['spread']:.2f}",
            str(PUBLISHED[target, model]),
        ])  # fmt: skip
    return markdown(header, rows)


if __name__ == "__main__":
    main()

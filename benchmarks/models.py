"""Every atomistic model and MACE on five data sets after the same CPU time of one thread.

    python benchmarks/models.py --data DIR [--minutes 10] [--sets aspirin water] [--models torchmd_et mace]
    python benchmarks/models.py --tables

Ours: ``covarium train TRAIN --model NAME --time 10m --threads 1``, no other option, with the clock of ``cells.py``.
MACE (mace-torch in an environment of its own): as in ``aspirin.py``; a trial of 4 epochs on ten batches tells its CPU
time per frame, then as many epochs follow as fit. Where fewer than 4 epochs fit it gets every k-th frame, so that its
two stages have epochs to be divided into. Held out by both to choose the best weights: 5 % of the training frames.

DIR holds rmd17/, 3bpa/, water_deepmd/ and qm7x_2500/. Every cell is recorded when it is done and not run again.
"""

from __future__ import annotations

import argparse
import io
import lzma
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

sys.path.insert(0, str(Path(__file__).parent))
from aspirin import Mace
from cells import MB, budgeted, drive, markdown, record, recorded, rewrite

WHAT = "models"
MODELS = ("equiformer_v2", "equiformer_v3", "equiformer", "torchmd_et", "mace")
SETS = ("aspirin", "water", "3bpa", "ethanol", "qm7x")
NAMES = {
    "equiformer_v2": "EquiformerV2", "equiformer_v3": "EquiformerV3", "equiformer": "Equiformer",
    "torchmd_et": "TorchMD-NET ET", "mace": "MACE 32x0e+32x1o",
    "aspirin": "rMD17 aspirin", "ethanol": "rMD17 ethanol", "water": "water, 192 atoms",
    "qm7x": "QM7-X", "3bpa": "3BPA",
}  # fmt: skip
PEER_BATCH = {"water": 2}  # else 5
TRIAL_EPOCHS, TRIAL_BATCHES, LEAST_EPOCHS = 4, 10, 4
PAGES = (Path(__file__).parent / "README.md", Path(__file__).parent.parent / "docs/choosing.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("COVARIUM_DATA"))
    parser.add_argument("--minutes", type=float, default=10.0, help="of CPU time, per cell")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--together", type=int, default=1, help="cells at the same time, one thread each")
    parser.add_argument("--work", type=Path, default=Path("runs/models"))
    parser.add_argument("--peer-env", type=Path, default=Path("runs/mace-env"), help="made if it does not exist")
    parser.add_argument("--tables", action="store_true", help="write the tables of the pages from the records")
    parser.add_argument("--cell", nargs=3, metavar=("SET", "MODEL", "BUDGET"), help="one cell, in this process")
    options = parser.parse_args()
    if options.tables:
        for page in PAGES:
            rewrite(page, WHAT, table(recorded(WHAT)))
    elif options.data is None or not Path(options.data).is_dir():
        print("models: no data; give --data, or COVARIUM_DATA: not run")
    elif options.cell:
        measure(*options.cell[:2], options)
    else:
        cells = [(name, model, budget(options)) for name in options.sets for model in options.models]
        command = [__file__, "--data", str(options.data), "--minutes", f"{options.minutes:g}"]
        command += ["--work", str(options.work), "--peer-env", str(options.peer_env)]
        drive(WHAT, cells, command, options.together, options.work)


def measure(name: str, model: str, options: argparse.Namespace) -> None:
    """Train one model on one set, judge it on the test files, record it."""
    out = options.work / f"{name}_{model}_{os.getpid()}"
    out.mkdir(parents=True)
    train, tests = prepare(name, Path(options.data), out)
    run = peer if model == "mace" else ours
    row = run(name, model, train, tests, out, options)
    record(WHAT, (name, model, budget(options)), {"budget_cpu_s": 60 * options.minutes, **row})


def budget(options: argparse.Namespace) -> str:
    """As it stands in the name of a record."""
    return f"{options.minutes:g}min"


# -- data


def prepare(name: str, data: Path, out: Path) -> tuple[Path, dict[str, Path]]:
    """The training file and the test files of a set."""
    if name == "3bpa":
        folder = data / "3bpa"
        return folder / "train_300K.extxyz.xz", {
            f"{t} K": folder / f"proxy_test_{t}K.extxyz.xz" for t in (300, 600, 1200)
        }
    if name in ("aspirin", "ethanol"):
        with np.load(data / "rmd17" / f"rmd17_{name}_split01.npz") as kept:
            frames = {part: labelled(kept, part) for part in ("train", "test")}
    elif name == "water":  # the customary split
        read = structures(data / "water_deepmd/water_192atoms.extxyz.xz")
        frames = {"train": [], "test": []}
        for atoms in read:
            frames["test" if atoms.info["system"].startswith("data_3") else "train"].append(atoms)
    else:  # every fifth molecule
        read = structures(data / "qm7x_2500/qm7x_2500.extxyz.xz")
        frames = {
            "train": [a for a in read if a.info["mol"] % 5 != 4],
            "test": [a for a in read if a.info["mol"] % 5 == 4],
        }
    for part, kept_frames in frames.items():
        ase.io.write(out / f"{part}.extxyz", kept_frames, format="extxyz")
    return out / "train.extxyz", {"test": out / "test.extxyz"}


def structures(path: Path) -> list[Atoms]:
    """All frames of a compressed file."""
    read: Any = ase.io.read(io.StringIO(lzma.decompress(path.read_bytes()).decode()), ":", format="extxyz")
    return read


def labelled(kept: Any, part: str, labels: str = "") -> list[Atoms]:  # noqa: ANN401 - of numpy.load
    """Frames of ``train`` or ``test`` in one of rMD17's files; labels ``""``, or ``"_md17"`` for the original ones."""
    frames = [Atoms(kept["z"], positions) for positions in kept[f"{part}_R"]]
    for atoms, energy, forces in zip(frames, kept[f"{part}_E{labels}"], kept[f"{part}_F{labels}"], strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=float(energy), forces=forces.astype(np.float64))
    return frames


# -- ours


def ours(
    name: str, model: str, train: Path, tests: dict[str, Path], out: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """What ``covarium train TRAIN --model NAME --time …`` ends with."""
    from covarium.workflows.configuring import configure

    given = {
        "data": {"train": [str(train)]}, "model": {"name": model},
        "training": {"time_s": 60 * options.minutes, "epochs": None, "steps": None}, "threads": 1,
    }  # fmt: skip
    outcome, row = budgeted(configure(given=given), out / "run")
    return {**row, "errors": {part: judged(outcome.model, path) for part, path in tests.items()}}


def judged(model: Path, path: Path) -> dict[str, float]:
    """MAE of a saved potential on a file, meV and meV/Å."""
    from covarium.analysis.errors import evaluate
    from covarium.checkpoint import load
    from covarium.data import read

    errors = evaluate(load(model).task.requires_grad_(False), read([path]).frames).to_json()
    return {quantity: 1000 * errors[quantity]["mae"] for quantity in ("forces", "energy", "energy_per_atom")}


# -- the peer


def peer(
    name: str, model: str, train: Path, tests: dict[str, Path], out: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """MACE with the number of epochs that fits."""
    from covarium.data import read

    batch = PEER_BATCH.get(name, 5)
    frames = len(read([train]).frames)

    def mace(folder: str, every: float, most: int | None = None) -> Mace:
        (out / folder).mkdir()
        given = argparse.Namespace(
            train=train, test=next(iter(tests.values())), out=out / folder, peer_env=options.peer_env, threads=1,
            minutes=options.minutes, batch=batch,
        )  # fmt: skip
        return Mace(given, keep=[int(k * every) for k in range(int(frames / every))][:most])

    trial = mace("trial", 1, TRIAL_BATCHES * batch + batch)
    spent = trained(trial, TRIAL_EPOCHS)["training_cpu_s"]
    per_frame = spent / (TRIAL_EPOCHS * TRIAL_BATCHES * batch)
    epochs = int(60 * options.minutes / (0.95 * frames * per_frame))
    every = max(1.0, LEAST_EPOCHS * 0.95 * frames * per_frame / (60 * options.minutes))
    full = mace("full", every)
    epochs = max(epochs, LEAST_EPOCHS)
    row = trained(full, epochs)
    steps = epochs * int(0.95 * len(full.keep) / batch)
    return {
        **row, "batch": batch, "steps": steps, "epochs": epochs, "cpu_s_per_step": row["training_cpu_s"] / steps,
        "frames_of_training_set": [len(full.keep), frames],
        "errors": {part: peer_errors(full, path) for part, path in tests.items()},
    }  # fmt: skip


def trained(mace: Mace, epochs: int) -> dict[str, Any]:
    """Run it; CPU seconds between the log's beginning and end of training, and the most memory until then."""
    process = mace.run("mace", epochs)
    log, proc = mace.options.out / "mace.log", Path(f"/proc/{process.pid}")
    ticks = os.sysconf("SC_CLK_TCK")
    begun = ended = peak = 0.0
    while process.poll() is None:
        text = log.read_text(errors="replace")
        spent = sum(map(int, (proc / "stat").read_text().rsplit(")", 1)[1].split()[11:13])) / ticks
        held = re.search(r"VmHWM:\s+(\d+) kB", (proc / "status").read_text())
        if not begun and "Started training" in text:
            begun = spent
        if not ended and "Training complete" in text:
            ended = spent
        if not ended and held:
            peak = int(held.group(1)) * 1024
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"MACE failed; see {log}")
    return {"parameters": mace.parameters(), "training_cpu_s": ended - begun, "peak_mb": peak / MB}


def peer_errors(mace: Mace, path: Path) -> dict[str, float]:
    """MAE on a file, meV and meV/Å."""
    frames = mace.predicted(path)
    energy = np.array([a.info["MACE_energy"] - a.info["REF_energy"] for a in frames])
    atoms = np.array([len(a) for a in frames])
    forces = np.concatenate([a.arrays["MACE_forces"] - a.arrays["REF_forces"] for a in frames])
    errors = {"forces": forces, "energy": energy, "energy_per_atom": energy / atoms}
    return {quantity: 1000 * float(np.abs(error).mean()) for quantity, error in errors.items()}


# -- the table


def table(cells: list[dict[str, Any]]) -> str:
    """What the pages show: a table for each budget, the best forces of a set in bold, and what was not run."""
    budgets = sorted({cell["budget_cpu_s"] for cell in cells}, reverse=True)
    if not budgets:
        return "Not run yet."
    return "\n".join(of_budget(b, [cell for cell in cells if cell["budget_cpu_s"] == b]) for b in budgets)


def of_budget(seconds: float, cells: list[dict[str, Any]]) -> str:
    """The table of one budget, data sets in order."""
    header = ("test set", "model", "parameters", "steps", "CPU s per step", "memory, MB", "forces, meV/Å",
              "energy, meV", "energy, meV/atom")  # fmt: skip
    done = {tuple(cell["cell"][:2]): cell for cell in cells}
    rows, missing = [], []
    for name in SETS:
        here = [model for model in MODELS if (name, model) in done]
        for part in dict.fromkeys(part for model in here for part in done[name, model]["errors"]):
            best = min(done[name, model]["errors"][part]["forces"] for model in here)
            rows += [row(name, model, part, done[name, model], best) for model in here]
        left = [NAMES[model] for model in MODELS if model not in here]
        if left:
            missing.append(f"{NAMES[name]} ({', '.join(left) if here else 'all models'})")
    text = f"{seconds / 60:g} CPU minutes of one thread each:\n\n{markdown(header, rows)}"
    return text + (f"\nNot run: {'; '.join(missing)}.\n" if missing else "")


def row(name: str, model: str, part: str, cell: dict[str, Any], best: float) -> list[str]:
    """One line; ``best`` is the smallest force error beside it."""
    errors = cell["errors"][part]
    forces = f"{errors['forces']:.1f}"
    return [
        NAMES[name] if part == "test" else f"{NAMES[name]}, {part}", NAMES[model], f"{cell['parameters']:,}",
        f"{cell['steps']:,}", f"{cell['cpu_s_per_step']:.3g}", f"{cell['peak_mb']:.0f}",
        f"**{forces}**" if errors["forces"] == best else forces, f"{errors['energy']:.1f}",
        f"{errors['energy_per_atom']:.2f}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()

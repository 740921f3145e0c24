"""Does hydrogen get more attention off equilibrium? Thölke 2022, arXiv 2202.02541, in small.

    python benchmarks/attention.py --data FOLDER

The Equivariant Transformer, smaller than the published one, is trained on QM9 (20,000 equilibrium conformers, energies
U0), and on rMD17 (1000 frames at 500 K of each of ten molecules) twice: with energies and forces, as in the paper, and
with energies alone, which leaves the molecules and their geometries as the difference to QM9. An untrained model
shows what nothing learnt looks like. Attention of every model is then taken on held-out structures of both sets, so
that what was learnt and what is looked at are told apart. FOLDER holds ``qm9/qm9_12targets_26k.npz.xz`` and
``rmd17/rmd17_*_split01.npz``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import lzma
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import torch

from covarium import checkpoint
from covarium.models import TorchMDET, TorchMDETConfig
from covarium.tasks import Potential

sys.path.insert(0, str(Path(__file__).parent))
from record import write_record

UNTRAINED = "untrained"
CORE_MINUTES = "core_minutes.json"
ELEMENTS = (1, 6, 7, 8)  # of both sets; the few molecules of QM9 with fluorine are left out
SETS = ("qm9", "rmd17")
TESTED = {"qm9": 1000, "rmd17": 50}  # molecules; frames of each molecule
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qm9": ("qm9", {"training.batch_size": 16}),
    "rmd17": ("rmd17", {"training.batch_size": 4}),
    "rmd17-energies": ("rmd17", {"training.batch_size": 16, "task.terms.forces.weight": 0}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("COVARIUM_DATA"))
    parser.add_argument("--out", type=Path, default=Path("runs/attention"))
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, each model, on one thread")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="trained where not yet done")
    parser.add_argument("--train-only", action="store_true")
    options = parser.parse_args()
    if options.data is None or not (options.data / "qm9").is_dir() or not (options.data / "rmd17").is_dir():
        print("attention: no data; give --data, or COVARIUM_DATA, a folder with qm9/ and rmd17/: not run")
        return
    files = prepare(options.data, options.out)
    for name in options.models:
        train(name, files, options)
    untrained(options.out)
    if not options.train_only:
        report(files, options)


def prepare(data: Path, out: Path) -> dict[str, Path]:
    """extxyz files ``SET-train`` and ``SET-test``, made once."""
    out.mkdir(parents=True, exist_ok=True)
    files = {f"{name}-{part}": out / f"{name}-{part}.extxyz" for name in SETS for part in ("train", "test")}
    for name, read in (("qm9", _qm9), ("rmd17", _rmd17)):
        for part in ("train", "test"):
            path = files[f"{name}-{part}"]
            if not path.exists():
                part_of = path.with_suffix(".part")
                ase.io.write(part_of, list(read(data, part)), format="extxyz")
                part_of.rename(path)
    return files


def _qm9(data: Path, part: str) -> Iterator[ase.Atoms]:
    arrays = np.load(io.BytesIO(lzma.open(data / "qm9" / "qm9_12targets_26k.npz.xz").read()))
    table = {key: arrays[key] for key in ("n_atoms", "z", "R", "split", "u0")}
    ends = np.cumsum(table["n_atoms"])
    chosen = np.flatnonzero(table["split"] == {"train": 0, "test": 2}[part])
    for k in chosen if part == "train" else chosen[: TESTED["qm9"]]:
        atoms = slice(ends[k] - table["n_atoms"][k], ends[k])
        if np.isin(table["z"][atoms], ELEMENTS).all():
            info = {"energy": float(table["u0"][k])}
            yield ase.Atoms(table["z"][atoms], table["R"][atoms] * 1e-6, info=info)


def _rmd17(data: Path, part: str) -> Iterator[ase.Atoms]:
    for path in sorted((data / "rmd17").glob("rmd17_*_split01.npz")):
        arrays = np.load(path)
        positions, energies, forces = (arrays[f"{part}_{key}"] for key in "REF")
        for k in range(len(positions) if part == "train" else TESTED["rmd17"]):
            atoms = ase.Atoms(arrays["z"], positions[k], info={"energy": float(energies[k])})
            atoms.arrays["forces"] = forces[k].astype(np.float64)
            atoms.info["config_type"] = path.name.split("_")[1]
            yield atoms


def train(name: str, files: dict[str, Path], options: argparse.Namespace) -> None:
    """A run of ``covarium train`` in ``out/name``, unless it is there."""
    folder = options.out / name
    if (folder / CORE_MINUTES).exists():
        return
    source, settings = MODELS[name]
    given = settings | {"data.split_by": "frame", "data.workers": 0}
    words = ["--model", "torchmd_et", "--threads", "1", "--time", f"{options.minutes:g}m", "--out", str(folder)]
    words += [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "covarium", "train", str(files[f"{source}-train"]), *words]
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (folder / CORE_MINUTES).write_text(
        json.dumps((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60)
    )


def untrained(out: Path) -> None:
    """The same model with its initial weights."""
    torch.manual_seed(0)
    task = Potential(
        TorchMDET(TorchMDETConfig()), references=dict.fromkeys(ELEMENTS, 0.0), forces="gradient", scale=1.0
    )
    (out / UNTRAINED).mkdir(exist_ok=True)
    checkpoint.save(out / UNTRAINED / "best.safetensors", task, {})


def report(files: dict[str, Path], options: argparse.Namespace) -> None:
    """Attention of every model on the test structures of both sets: the table, and all tables beside the record."""
    rows, tables = [], {}
    for name in [*options.models, UNTRAINED]:
        for looked in SETS:
            folder = options.out / "tables" / f"{name}-on-{looked}"
            words = [str(options.out / name), str(files[f"{looked}-test"]), "--out", str(folder), "--keep", "3"]
            if not (folder / "attention.json").exists():
                command = [sys.executable, "-m", "covarium", "attention", *words, "--threads", "1"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found = json.loads((folder / "attention.json").read_text())
            tables[f"{name}-on-{looked}"] = {k: v for k, v in found.items() if k not in ("model", "files")}
            rows.append(_row(name, looked, found, options.out / name))
    note = f"TorchMD-NET ET, default size, {options.minutes:g} min of wall time each; attention in even shares"
    record = write_record("attention", rows, note=note)
    for name, table in tables.items():
        record.with_name(f"{name}.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")


def _training(run: Path) -> dict[str, Any]:
    """How long, and the last errors in validation."""
    if run.name == UNTRAINED:
        return {}
    log = list(csv.DictReader((run / "log.csv").open()))
    errors = [{k: row[k] for k in row if k.endswith("_mae") and row[k]} for row in log]
    last = next((row for row in reversed(errors) if row), {})
    return {
        "core minutes": json.loads((run / CORE_MINUTES).read_text()),
        "steps": int(log[-1]["step"]),
        **{k.removeprefix("valid_"): float(v) for k, v in last.items()},
    }


def _row(name: str, looked: str, found: dict[str, Any], run: Path) -> dict[str, Any]:
    elements = {row["element"]: row for row in found["elements"]}
    pairs = {(row["target"], row["source"]): row for row in found["pairs"]}
    heavy = [symbol for symbol in elements if symbol != "H"]

    def from_heavy(key: str) -> float:
        """What heavier atoms give to hydrogen: mean over all such pairs."""
        chosen = [pairs[symbol, "H"] for symbol in heavy]
        return sum(row[key] * row["pairs"] for row in chosen) / sum(row["pairs"] for row in chosen)

    return {
        "trained on": name,
        "looked at": looked,
        **_training(run),
        **{f"{symbol} received": row["received"] for symbol, row in elements.items()},
        "H, equal weights": elements["H"]["even_weights"],
        "heavy → H": from_heavy("shares"),
        "heavy → H, equal weights": from_heavy("even_weights"),
        "correlation with bonds": found["correlation_with_bonds"],
    }


if __name__ == "__main__":
    main()

"""Force and energy errors on rMD17 aspirin after equal training time, beside MACE.

    python benchmarks/aspirin.py --train rmd17_aspirin_train_01.extxyz.xz --test rmd17_aspirin_test_01.extxyz.xz

Covarium: ``covarium train TRAIN --time 30m``, nothing else. MACE (mace-torch from the package index, in an environment
of its own): 32x0e + 32x1o, r_max 5 Å, batch 5, float32, its two-stage schedule with the number of epochs fitted to the
same time from a timed trial. Both hold out 50 of the 1000 training frames. ``--together`` runs the two at the same time
on the same cores, so that both meet the same disturbances (each then has half the machine).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

from covarium.data import read

sys.path.insert(0, str(Path(__file__).parent))
from record import write_record

TRIAL = 3  # epochs
STAGE_TWO = 0.75  # of the run, as in MACE's own examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=_default("train"))
    parser.add_argument("--test", type=Path, default=_default("test"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=5, help="of MACE")
    parser.add_argument("--out", type=Path, default=Path("runs/aspirin"))
    parser.add_argument("--peer-env", type=Path, default=Path("runs/mace-env"), help="made if it does not exist")
    parser.add_argument("--together", action="store_true", help="both at the same time on the same cores")
    options = parser.parse_args()
    for path in (options.train, options.test):
        if path is None or not path.is_file():
            print(f"aspirin: no data at {path}; give --train and --test, or COVARIUM_DATA with rmd17/ in it: not run")
            return
    options.out.mkdir(parents=True, exist_ok=True)
    peer = Mace(options)
    ours = _start_ours(options)
    if not options.together:
        ours.wait()
    theirs = peer.start()
    if ours.wait() or theirs.wait():
        raise SystemExit(f"a run failed; see {options.out}/covarium.log and {options.out}/mace.log")
    rows = [_our_row(options), peer.row()]
    setting = "at the same time on the same cores" if options.together else "one after the other"
    write_record(
        "aspirin",
        rows,
        note=f"rMD17 aspirin, 950 + 50 frames, {options.minutes:g} min, {options.threads} threads each, {setting}; "
        "MAE on the test frames",
    )


def _default(part: str) -> Path | None:
    data = os.environ.get("COVARIUM_DATA")
    return Path(data) / "rmd17" / f"rmd17_aspirin_{part}_01.extxyz.xz" if data else None


def _start_ours(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "covarium", "train", str(options.train), "--time", f"{options.minutes * 60:g}s",
        "--threads", str(options.threads), "--out", str(options.out / "covarium"),
    ]  # fmt: skip
    log = (options.out / "covarium.log").open("wb")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _our_row(options: argparse.Namespace) -> dict[str, Any]:
    run, out = options.out / "covarium", options.out / "covarium.json"
    command = [sys.executable, "-m", "covarium", "evaluate", str(run / "best.safetensors"), str(options.test)]
    subprocess.run([*command, "--json", str(out), "--threads", str(options.threads)], check=True, capture_output=True)
    table = json.loads(out.read_text())
    from covarium import load

    model = load(run / "best.safetensors").potential
    steps = (run / "log.csv").read_text().strip().splitlines()[-1].split(",")[0]
    return {
        "model": "Covarium EquiformerV2, default",
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": int(steps),
        "forces MAE (meV/Å)": 1000 * table["forces"]["mae"],
        "energy MAE (meV)": 1000 * table["energy"]["mae"],
    }


class Mace:
    """The peer: its environment, its fitted schedule, its run."""

    def __init__(self, options: argparse.Namespace, keep: list[int] | None = None) -> None:
        """``keep``: indices of the training frames it gets; None for all."""
        self.options, self.bin = options, options.peer_env.absolute() / "bin"
        if not (self.bin / "mace_run_train").exists():
            subprocess.run([sys.executable, "-m", "venv", str(options.peer_env)], check=True)
            for packages in (["torch==2.13.0"], ["torch==2.13.0", "mace-torch"]):
                subprocess.run([str(self.bin / "pip"), "install", "-q", *packages], check=True)
        self.keep = range(len(read([options.train]).frames)) if keep is None else keep
        self.train = (options.out / "train.xyz").absolute()
        _rewrite(options.train, self.train, self.keep)
        self.epochs = 0

    def _command(self, name: str, epochs: int) -> list[str]:
        options = {
            "name": name, "train_file": self.train, "valid_fraction": 0.05, "E0s": "average", "model": "MACE",
            "hidden_irreps": "32x0e + 32x1o", "r_max": 5.0, "batch_size": self.options.batch, "valid_batch_size": 10,
            "max_num_epochs": epochs, "ema_decay": 0.99, "default_dtype": "float32", "device": "cpu", "seed": 1,
            "energy_key": "REF_energy", "forces_key": "REF_forces",
            # the second stage must be evaluated at least once
            "eval_interval": 2 if epochs > 8 else 1, "start_swa": max(1, int(STAGE_TWO * epochs)),
        }  # fmt: skip
        flags = [f"--{key}={value}" for key, value in options.items()]
        return [str(self.bin / "mace_run_train"), *flags, "--ema", "--amsgrad", "--swa"]

    def run(self, name: str, epochs: int) -> subprocess.Popen[bytes]:
        """Begin to train for so many epochs; the log is ``name.log``."""
        folder = self.options.out / name
        folder.mkdir(exist_ok=True)
        log = (self.options.out / f"{name}.log").open("wb")
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.options.threads)}
        return subprocess.Popen(
            self._command(name, epochs), stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment
        )

    def start(self) -> subprocess.Popen[bytes]:
        """Time a few epochs, then start the run that fits; the trial's minutes are not counted against MACE."""
        self.run("mace-trial", TRIAL).wait()
        stamps = re.findall(
            r"(\d+-\d+-\d+ \d+:\d+:\d+\.\d+) INFO: Epoch", (self.options.out / "mace-trial.log").read_text()
        )
        times = [time.mktime(time.strptime(stamp[:19], "%Y-%m-%d %H:%M:%S")) for stamp in stamps]
        per_epoch = max((times[-1] - times[0]) / max(TRIAL - 1, 1), 1.0)
        self.epochs = max(4, math.floor(self.options.minutes * 60 / per_epoch))
        return self.run("mace", self.epochs)

    def predicted(self, path: Path) -> list[ase.Atoms]:
        """Labelled frames of a file with energies and forces of the second-stage model."""
        given, out = (self.options.out / f"{path.name.split('.')[0]}{end}.xyz" for end in ("", "-out"))
        _rewrite(path, given)
        model = next((self.options.out / "mace").rglob("*_stagetwo.model"))
        evaluate = [str(self.bin / "mace_eval_configs"), f"--configs={given}", f"--model={model}", "--batch_size=8"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.options.threads)}
        subprocess.run(
            [*evaluate, f"--output={out}", "--device=cpu", "--default_dtype=float32"],
            check=True, capture_output=True, env=environment,
        )  # fmt: skip
        frames: Any = ase.io.read(out, ":")
        return frames

    def parameters(self) -> int:
        """Of that model."""
        model = next((self.options.out / "mace").rglob("*_stagetwo.model"))
        count = "import sys, torch; model = torch.load(sys.argv[1], map_location='cpu', weights_only=False)"
        count += "; print(sum(p.numel() for p in model.parameters()))"
        done = subprocess.run([str(self.bin / "python"), "-c", count, str(model)], check=True, capture_output=True)
        return int(done.stdout.split()[-1])  # what is not installed is told first

    def row(self) -> dict[str, Any]:
        """Errors on the test frames."""
        frames = self.predicted(self.options.test)
        energy = [a.info["MACE_energy"] - a.info["REF_energy"] for a in frames]
        forces = np.concatenate([a.arrays["MACE_forces"] - a.arrays["REF_forces"] for a in frames])
        return {
            "model": f"MACE 32x0e+32x1o, {self.epochs} epochs",
            "steps": self.epochs * 190,
            "forces MAE (meV/Å)": 1000 * float(np.abs(forces).mean()),
            "energy MAE (meV)": 1000 * float(np.abs(energy).mean()),
        }


def _rewrite(given: Path, path: Path, keep: Iterable[int] | None = None) -> None:
    """Frames of a file under the keys that MACE is told."""
    read_frames = read([given]).frames
    frames = []
    for frame in read_frames if keep is None else [read_frames[k] for k in keep]:
        energy = {"REF_energy": float(frame.labels["energy"])}
        frames.append(ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, info=energy))
        frames[-1].arrays["REF_forces"] = frame.labels["forces"]
    ase.io.write(path, frames, format="extxyz")


if __name__ == "__main__":
    main()

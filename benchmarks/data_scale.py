"""A million frames: memory of a training run that streams them, and whether loading ever holds it up.

python benchmarks/data_scale.py [--frames 1000000] [--steps 300] [--folder DIR]

Molecules and dimers of 9 to 21 atoms on springs are generated into our own format (0.7 GB in DIR, a temporary folder
that is removed unless DIR is given), then a small model is trained on them in a process of its own, whose memory and
that of its workers is sampled: PSS, in which a page shared by processes counts once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule

sys.path.insert(0, str(Path(__file__).parent))
from record import write_record

PARTS = ("CH3CH2OH", "bicyclobutane", "C3H8", "C6H6", "trans-butane", "CH3CH2OH+C6H6", "C3H8+bicyclobutane")
ATOM = {1: -13.6, 6: -1029.0, 8: -2042.0}  # eV
STIFFNESS = 20.0  # eV/Å²
MODEL = ["num_layers=1", "lmax=1", "mmax=1", "sphere_channels=16", "attn_hidden_channels=16", "num_heads=2",
         "attn_alpha_channels=8", "attn_value_channels=8", "ffn_hidden_channels=16", "edge_channels=16"]  # fmt: skip


def template(name: str) -> Atoms:
    """A molecule, or two of them 4 Å apart."""
    whole = Atoms()
    for part in map(molecule, name.split("+")):
        if len(whole):
            part.positions[:, 2] += whole.positions[:, 2].max() - part.positions[:, 2].min() + 4.0
        whole += part
    return whole


def distorted(atoms: Atoms, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [count, n, 3], energies and forces of springs between atoms nearer than 2.5 Å."""
    start = atoms.positions
    apart = np.linalg.norm(start[:, None] - start[None], axis=2)
    i, j = np.nonzero(np.triu((apart < 2.5) & (apart > 0)))
    positions = start + rng.normal(scale=0.05, size=(count, len(atoms), 3))
    vectors = positions[:, i] - positions[:, j]
    lengths = np.linalg.norm(vectors, axis=2)
    stretch = lengths - apart[i, j]
    energies = sum(ATOM[z] for z in atoms.numbers) + 0.5 * STIFFNESS * (stretch**2).sum(1)
    pull = -STIFFNESS * (stretch / lengths)[..., None] * vectors
    forces = np.zeros_like(positions)
    np.add.at(forces, (slice(None), i), pull)
    np.add.at(forces, (slice(None), j), -pull)
    return positions, energies, forces


def generate(path: Path, frames: int) -> None:
    """Write so many frames, molecules in turn."""
    from covarium.data import Frame
    from covarium.data.store import Rest
    from covarium.data.store_writing import Writer

    templates = [template(name) for name in PARTS]
    rng = np.random.default_rng(0)
    writer = Writer(path)
    none = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    nothing = Rest({}, {})
    done = writer.totals["frame"]
    while done < frames:
        atoms = templates[done // 500 % len(templates)]
        count = min(500, frames - done)
        for positions, energy, forces in zip(*distorted(atoms, count, rng), strict=True):
            labels = {"energy": np.asarray(energy), "forces": forces}
            numbers = atoms.numbers.astype(np.int64)
            frame = Frame(numbers, positions, *none, labels, np.zeros(len(numbers), dtype=bool), index=done)
            writer.append(frame, nothing)
            done += 1
    writer.finish(theory="springs", group=None, notes=[], left_out=[])
    writer.close()


def train(data: Path, out: Path, steps: int, batch: int) -> None:
    """One run as ``covarium train`` does it; prints what was measured as JSON."""
    from covarium.training import train as run
    from covarium.workflows.configuring import configure
    from covarium.workflows.inference import infer

    given = [*(f"model.{size}" for size in MODEL), "threads=1", f"training.steps={steps}", "data.split_by=frame"]
    given += [f"training.batch_size={batch}", "training.epochs=null", "training.time_s=null", "data.valid_part=200"]
    started = time.perf_counter()
    plan = infer(configure(given={"data": {"train": [str(data)]}}, assignments=given))
    planned = time.perf_counter()
    waits, gaps = [], []

    class Timed:
        """The data, with a clock at the place where training takes its batches."""

        def __len__(self) -> int:
            return len(plan.train)

        costs, batch = plan.train.costs, plan.train.batch

        def stream(self, batches: Iterable[list[int]]) -> Iterator[Any]:
            left = None
            made = plan.train.stream(batches)
            while True:
                asked = time.perf_counter()
                if left is not None:
                    gaps.append(asked - left)
                item = next(made)
                left = time.perf_counter()
                waits.append(left - asked)
                yield item

    run(plan.task, Timed(), plan.valid, plan.settings, out, save_best=lambda task, card: None)
    order = np.random.default_rng(1).permutation(len(plan.train))
    loaded = max(10 * batch, min(len(order), 200 * batch))
    begun = time.perf_counter()
    for _ in plan.train.stream(order[k : k + batch].tolist() for k in range(0, loaded, batch)):
        continue
    rate = loaded / (time.perf_counter() - begun)
    skip = len(waits) // 10
    print(json.dumps({
        "plan_s": planned - started, "workers": plan.train.workers, "step_s": float(np.median(gaps[skip:])),
        "waited_s": float(np.median(waits[skip:])), "waited_most_s": float(np.max(waits[skip:])),
        "waited_share": float(np.sum(waits[skip:]) / (np.sum(waits[skip:]) + np.sum(gaps[skip:]))),
        "loader_frames_per_s": rate, "training_frames_per_s": batch / float(np.median(gaps[skip:])),
    }))  # fmt: skip


def tree(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found


def memory(pid: int) -> dict[str, int]:
    """PSS and RSS in bytes of a process and its children now."""
    sums = {"Pss": 0, "Rss": 0}
    for one in tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sums:
                sums[name] += 1024 * int(rest.split()[0])
    return sums


def watched(command: list[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """The last line of a command's output, as JSON, and the peak memory of its processes together."""
    peak = {"Pss": 0, "Rss": 0}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def watch() -> None:
        while process.poll() is None:
            try:
                now = memory(process.pid)
            except (OSError, ValueError):  # a process ended while it was looked at
                continue
            for name in peak:
                peak[name] = max(peak[name], now[name])
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0]
    watcher.join()
    if process.returncode:
        raise SystemExit(process.returncode)
    return json.loads(output.splitlines()[-1]), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--part", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        train(*given.part, given.steps, given.batch)
        return
    with tempfile.TemporaryDirectory(prefix="covarium-scale-") as temporary:
        folder = given.folder or Path(temporary)
        data = folder / f"springs-{given.frames}.frames"
        begun = time.perf_counter()
        made = not (data / "header.json").exists()
        if made:
            generate(data, given.frames)
        generated = f", generated in {time.perf_counter() - begun:.0f} s" if made else ""
        rows = []
        for what in ("first run: counts neighbours", "second run"):
            with tempfile.TemporaryDirectory(prefix="covarium-run-") as out:
                command = [sys.executable, __file__, "--part", str(data), out, "--steps", str(given.steps)]
                facts, peak = watched([*command, "--batch", str(given.batch)])
            rows.append({"what": what, "frames": given.frames, "batch": given.batch, **facts,
                         "peak_pss_mb": peak["Pss"] / 1e6, "peak_rss_mb": peak["Rss"] / 1e6})  # fmt: skip
        size = sum(path.stat().st_blocks * 512 for path in data.iterdir()) / 1e6
        note = f"{size:.0f} MB on disk{generated}; one training thread, a small model; PSS counts shared pages once"
        write_record("data-scale", rows, note=note)


if __name__ == "__main__":
    main()

"""Energy conservation of a trained model: 5,000 × 0.5 fs at 300 K, and the dt² law of its energy error.

python benchmarks/dynamics.py runs/aspirin/covarium/best.safetensors structure.extxyz
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import ase.io
import torch

from covarium import load
from covarium.data import read
from covarium.simulation import MDSettings, md, timestep_law

sys.path.insert(0, str(Path(__file__).parent))
from record import write_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("runs/aspirin/covarium/best.safetensors"))
    parser.add_argument("structure", type=Path, nargs="?", help="its first frame is the start")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not options.model.is_file() or options.structure is None:
        print(f"dynamics: give a trained model and a structure ({options.model} is looked for): not run")
        return
    torch.set_num_threads(options.threads)
    frame = read([options.structure], need=[], limit=1).frames[0]
    start = ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    rows = []
    for dtype in ("float32", "float64"):
        calculator = load(options.model, dtype=dtype).calculator()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "md"
            settings = MDSettings(steps=options.steps, ensemble="nve", timestep=0.5, temperature=300.0)
            result = md(start, calculator, settings, out)
            last = ase.io.read(out / "trajectory.extxyz", -1)
        law = timestep_law(last, calculator, timestep=1.0, steps=200)
        rows.append(
            {
                "dtype": dtype,
                "steps": result.steps,
                "drift (meV/atom/ps)": result.drift,
                "error at 1 fs over error at 0.5 fs": law,
                "ended": result.reason,
            }
        )
    write_record("dynamics", rows, note=f"{options.model.name}, NVE, 0.5 fs, 300 K, {len(start)} atoms")


if __name__ == "__main__":
    main()

"""Where the time of molecular dynamics goes: the model, neighbours, the integrator and ASE, files.

python benchmarks/md_profile.py                      # benzene and 192 atoms of water, default models, random weights
python benchmarks/md_profile.py MODEL STRUCTURE      # a trained model on a structure of its own

CPU seconds of one thread, by a profiler that counts calls, so that small parts look a little larger than they are.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import ase.io
import torch
from ase import Atoms
from ase.build import molecule

from covarium import load
from covarium.models import MODELS
from covarium.simulation import Calculator, MDSettings, md
from covarium.tasks import Compiled, Potential
from covarium.workflows.scaling import water

sys.path.insert(0, str(Path(__file__).parent))
from record import write_record

# function → part; what a part calls belongs to it
PARTS = {
    ("potential.py", "evaluate"): "model",
    ("skin.py", "pairs"): "neighbours",
    ("origin.py", "near_origin"): "neighbours",
    ("md.py", "_record"): "files",
    ("md.py", "_save"): "files",
    ("md.py", "_objection"): "guards",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("structure", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--names", nargs="*", default=["equiformer_v2", "torchmd_et"], help="architectures")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, atoms, potential in _cases(options):
        if options.compile:
            potential.compiled = Compiled()
        rows.append({"model": name, "atoms": len(atoms), **_profile(atoms, potential, options.steps)})
    compiled = ", compiled" if options.compile else ""
    write_record("md-profile", rows, note=f"NVE, 0.5 fs, {options.steps} steps, one thread, float32{compiled}")


def _cases(options: argparse.Namespace) -> Any:  # noqa: ANN401 - names, structures and potentials
    if options.model is not None:
        yield options.model.name, ase.io.read(options.structure), load(options.model, device="cpu").potential
        return
    for name in options.names:
        for atoms in (molecule("C6H6"), water(192)):
            torch.manual_seed(0)
            model, config = MODELS[name]
            references = {int(z): 0.0 for z in set(atoms.numbers.tolist())}
            yield name, atoms, Potential(model(config()), references=references, scale=1e-3)


def _profile(atoms: Atoms, potential: Potential, steps: int) -> dict[str, Any]:
    """Milliseconds of a step, and the share of each part."""
    calculator = Calculator(potential)
    with tempfile.TemporaryDirectory() as folder:
        _run(atoms, calculator, 5, Path(folder) / "first")  # whatever is done once
        start = process_time()
        _run(atoms, calculator, steps, Path(folder) / "plain")
        plain = process_time() - start
        profiler = cProfile.Profile(process_time)
        profiler.runcall(_run, atoms, calculator, steps, Path(folder) / "profiled")
    stats: Any = pstats.Stats(profiler)
    shares = dict.fromkeys([*PARTS.values(), "integrator, ASE, the rest"], 0.0)
    for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items():
        if (Path(file).name, function) in PARTS:
            shares[PARTS[Path(file).name, function]] += cumulative
    shares["integrator, ASE, the rest"] = stats.total_tt - sum(shares.values())
    return {
        "ms per step": 1e3 * plain / steps,
        **{f"{part} (%)": 100 * share / stats.total_tt for part, share in shares.items()},
    }


def _run(atoms: Atoms, calculator: Calculator, steps: int, out: Path) -> None:
    md(atoms, calculator, MDSettings(steps=steps, temperature=300.0), out)


if __name__ == "__main__":
    main()

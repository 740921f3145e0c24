"""Energy and forces of liquid water from 192 to 10,125 atoms: seconds and memory must grow in proportion.

    python benchmarks/linearity.py [--models torchmd_et …]
    python benchmarks/linearity.py --tables

Every model at its default size with random weights, float32, edges in tiles of ``--tile``, so that what is kept grows
with atoms. Each box in a process of its own that steps as dynamics does, its neighbours found again where atoms moved.
Seconds are those of the processor on one thread, after a step that warms up; memory is the peak minus what the process
held with its model. Exponents are slopes of straight lines through the logarithms. A model is recorded when it is done.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from cells import drive, markdown, place, record, recorded, rewrite
from peers.rows import MODELS
from peers.subject import held, most

WHAT = "linearity"
SIZES = (192, 1029, 3000, 10125)  # three times a cube
ASKED = 1.1  # exponent, at most
STEP = 0.01  # Å that atoms move between two steps
FEW = 1000  # atoms from which on one step is enough
PAGE = Path(__file__).parent.parent / "docs/speed.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tile", type=int, default=8192, help="edges")
    parser.add_argument("--work", type=Path, default=Path("runs/linearity"))
    parser.add_argument("--tables", action="store_true", help="write the table of the page and draw the records")
    parser.add_argument("--cell", nargs=1, metavar="MODEL", help="one model, in this process")
    options = parser.parse_args()
    if options.tables:
        rewrite(PAGE, WHAT, table(recorded(WHAT)))
        draw(recorded(WHAT), place(WHAT, ["x"]).with_name("linearity.svg"))
    elif options.cell:
        record(WHAT, options.cell, measure(options.cell[0], options.tile))
    else:
        drive(WHAT, [(m,) for m in options.models], [__file__, "--tile", str(options.tile)], 1, options.work)
        print(table(recorded(WHAT)))


def measure(model: str, tile: int) -> dict[str, Any]:
    """All sizes, smallest first."""
    rows = []
    for size in SIZES:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(one, model, tile, size).result())
        print(rows[-1], flush=True)
    return {"model": model, "tile": tile, "rows": rows}


def one(model: str, tile: int, size: int) -> dict[str, Any]:
    """One box, in a fresh process."""
    from covarium.simulation import Calculator
    from covarium.workflows.scaling import Subject, water

    potential = Subject(model, {}, "cpu", threads=1).potential()
    potential.model.tile = tile
    calculator, atoms = Calculator(potential), water(size)
    rng = np.random.default_rng(0)
    base, seconds = held("cpu"), []
    for _ in range(2 if size > FEW else 5):
        atoms.positions += rng.normal(0, STEP, atoms.positions.shape)
        start = time.process_time()
        calculator.get_property("forces", atoms)
        seconds.append(time.process_time() - start)
    edges = calculator.pairs.edge_index.shape[1]
    median = statistics.median(seconds[1:])
    return {"atoms": len(atoms), "edges": edges, "cpu_s": median, "bytes": most("cpu") - base}


def exponent(rows: list[dict[str, Any]], what: str) -> float:
    """Slope of the logarithm over that of the number of atoms."""
    atoms, values = np.log([[row["atoms"], row[what]] for row in rows]).T
    return float(np.polyfit(atoms, values, 1)[0])


def table(cells: list[dict[str, Any]]) -> str:
    """Exponents and the largest box; what is above the asked exponent is set in bold."""
    done = {cell["model"]: cell for cell in cells}
    if not done:
        return "Not run yet."
    lines = []
    for name, title in MODELS.items():
        if name not in done:
            continue
        rows = done[name]["rows"]
        powers = [exponent(rows, what) for what in ("cpu_s", "bytes")]
        first, last = rows[0], rows[-1]
        lines.append([
            title, *(f"{p:.2f}" if p <= ASKED else f"**{p:.2f}**" for p in powers),
            *(f"{1e3 * row['cpu_s'] / row['atoms']:.2f}" for row in (first, last)),
            f"{last['cpu_s']:.1f}", f"{last['bytes'] / 1e9:.2f}",
        ])  # fmt: skip
    sizes = [f"{row['atoms']:,} atoms" for row in (first, last)]
    header = ("model", "time ∝ atoms to the power", "memory ∝ atoms to the power", f"ms per atom, {sizes[0]}",
              f"ms per atom, {sizes[1]}", f"s, {sizes[1]}", f"GB, {sizes[1]}")  # fmt: skip
    missing = [title for name, title in MODELS.items() if name not in done]
    return markdown(header, lines) + (f"\nNot run: {'; '.join(missing)}.\n" if missing else "")


def draw(cells: list[dict[str, Any]], to: Path) -> None:
    """Both quantities over the number of atoms, logarithmic, beside proportionality."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, what, unit, title in zip(
        figure.subplots(1, 2), ("cpu_s", "bytes"), (1.0, 1e-9), ("CPU seconds of a step", "memory, GB"), strict=True
    ):
        for cell in cells:
            atoms, values = np.array([[row["atoms"], unit * row[what]] for row in cell["rows"]]).T
            axes.loglog(atoms, values, "o-", label=MODELS[cell["model"]])
        axes.loglog(atoms, values[0] * atoms / atoms[0] / 2, "k:", label="proportional")
        axes.set(xlabel="atoms", ylabel=title)
    axes.legend(frameon=False)
    figure.savefig(to, metadata={"Date": None})


if __name__ == "__main__":
    main()

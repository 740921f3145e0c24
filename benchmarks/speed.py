"""Our models beside their published implementations: seconds and memory of energy and forces and of training steps.

    python benchmarks/speed.py [--rows equiformer_v2 torchmd_et …] [--work runs/speed] [--device cuda]
    python benchmarks/speed.py --compiled [--rows …]
    python benchmarks/speed.py --tables

Each row is one workload: the same inputs in float32, the same weights where the peer has the same parameters, one
thread, each side in a process of its own that is asked in turn. Seconds are those of the processor (on a GPU those
between two events), medians of several rounds after a pass that warms up. Memory is the peak of a fresh process that
does one pass minus what it held after model and optimiser were made; a training step is one that finds moments, as all
but the first do. Ours is measured with everything kept, and with the largest tile whose memory is the asked part of the
peer's and as many products and edges kept as then fit. ``--compiled`` measures ours once more as compiled graphs, in
other records, since compiling takes minutes.

Peers live in environments under ``--work``, made where they are missing; ``--peer-env SIDE=PYTHON`` names another one.
Every row is recorded when it is done and not run again; ``--again`` begins today's folder of records.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from cells import drive, markdown, record, recorded, rewrite
from peers.environments import ROOT, interpreter
from peers.ours import prepare
from peers.rows import BESIDE, ROWS, Row
from peers.session import Side, in_turn
from record import RECORDS, machine

WHAT = "speed"
TILES = (2048, 1024, 512, 256, 128, 64)
SMALL = (768, 384)  # the tile is at most one of these where products or edges are kept
PAGES = (Path(__file__).parent / "README.md", ROOT / "docs/speed.md")
PASSES = ("infer", "train", "tiled")
COMPILED = "compiled"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, *BESIDE], default=[*ROWS, *BESIDE])
    parser.add_argument("--work", type=Path, default=Path("runs/speed"))
    parser.add_argument("--peer-env", nargs="+", default=[], metavar="SIDE=PYTHON", help="interpreters to use")
    parser.add_argument("--data", type=Path, default=os.environ.get("COVARIUM_DATA"), help="for the box of water")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compiled", action="store_true", help="compiled graphs, of the rows that have targets")
    parser.add_argument("--again", action="store_true", help="measure anew what was not measured today")
    parser.add_argument("--tables", action="store_true", help="write the tables of the pages from the records")
    parser.add_argument("--cell", nargs="+", metavar="ROW", help="one row, in this process")
    options = parser.parse_args()
    what = what_of(options.device)
    if options.tables:
        write_tables()
        return
    if options.cell:
        name, *compiled = options.cell
        do = measure_compiled if compiled else beside if name in BESIDE else measure
        record(what, options.cell, do(name, options))
        return
    if options.again:
        (RECORDS / f"{machine()['date']}-{what}").mkdir(parents=True, exist_ok=True)
    given = dict(text.split("=", 1) for text in options.peer_env)
    kind = (COMPILED,) if options.compiled else ()
    rows = [name for name in options.rows if name in ROWS or not kind]
    for side in {side for name in rows for side in sides(name)}:
        interpreter(side, options.work, given)
    command = [__file__, "--work", str(options.work), "--device", options.device]
    command += ["--data", str(options.data)] if options.data else []
    command += ["--peer-env", *options.peer_env] if options.peer_env else []
    cells = [(name, *kind) for name in rows]
    drive(what, cells, command, 1, options.work)
    done = recorded(what)
    print(table(done))
    print(beside_table(done))


def what_of(device: str) -> str:
    """Name of the records."""
    return WHAT if device == "cpu" else f"{WHAT}-{device}"


def sides(name: str) -> list[str]:
    """Peers of a row."""
    return list(BESIDE[name].peers) if name in BESIDE else [ROWS[name].peer]


# -- measuring


class Place:
    """Where one row is measured: its files, its interpreters, its device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work, self.device = options.work.absolute(), options.device
        self.given = dict(text.split("=", 1) for text in options.peer_env)
        self.data = options.data
        self.work.mkdir(parents=True, exist_ok=True)

    def inputs(self, name: str, row: Row) -> Path:
        path = self.work / f"{name}.npz"
        prepare(row, self.data, path)
        return path

    def side(self, side: str, row: str, inputs: Path) -> Side:
        weights = inputs.with_suffix(".safetensors")
        return Side(interpreter(side, self.work, self.given), side, row, inputs, weights, self.device)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row: memory of fresh processes first, then seconds in turn."""
    row, where = ROWS[name], Place(options)
    inputs = where.inputs(name, row)
    peer_inputs = where.inputs(f"{name}-peer", ROWS["equiformer_v2"]) if row.stands_in else inputs

    def memory(side: str, given: Path, **command: Any) -> int:  # noqa: ANN401 - JSON
        with where.side(side, name, given) as fresh:
            taken = int(fresh.ask("memory", **command))
        print(f"{side} {command}: {taken / 1e6:.0f} MB", flush=True)
        return taken

    variant = {"variant": "shipped"} if row.stands_in else {}
    ours = {"infer": memory("ours", inputs, **{"pass": "infer"}), "train": memory("ours", inputs, **{"pass": "train"})}
    if row.stands_in:
        theirs = {"train": row.peer_memory}
    else:
        theirs = {p: memory(row.peer, inputs, **{"pass": p}) for p in ("infer", "train")}
    if row.proven:
        theirs["lean"] = memory(row.peer, inputs, **{"pass": "infer"}, variant="lean")
    allowed = row.memory * theirs["train"]
    edges = np.load(inputs)["edge_index"].shape[1]
    how: dict[str, int] = {}
    if ours["train"] > allowed:

        def taken(how: dict[str, int]) -> int:
            return memory("ours", inputs, **{"pass": "train"}, **how)

        with where.side("ours", name, inputs) as us:
            products = us.ask("facts")["products"]
        how, ours["tiled"] = within(taken, edges, products, allowed, ours["train"])
    with where.side("ours", name, inputs) as us, where.side(row.peer, name, peer_inputs) as them:
        facts = {"ours": us.ask("facts"), "peer": them.ask("facts")}
        difference = {} if row.stands_in else agreement({"ours": us, row.peer: them}, where.work / name)
        count = {p: us.ask("count", **{"pass": p}, tile=None) for p in ("infer", "train")}
        lean = {"peer lean infer": (them, {"pass": "infer", "variant": "lean"})} if row.proven else {}
        seconds = in_turn({
            "infer": (us, {"pass": "infer", "tile": None}),
            "peer infer": (them, {"pass": "infer", **variant}),
            "train": (us, {"pass": "train", "tile": None}),
            "tiled": (us, {"pass": "train", **how}),
            "peer train": (them, {"pass": "train"}),
            **lean,
        })  # fmt: skip
        rates = [us.ask("rate") for _ in range(5)]
        proven = {case.name: them.ask("check", case=str(case)) for case in (fixtures() if row.proven else [])}
    return {
        "row": name, "edges": edges, **how, "seconds": seconds,
        "rate_flops": statistics.median(rates), "flop": count,
        "memory": ours, "peer_memory": theirs, "memory_allowed": allowed, "facts": facts,
        "difference": difference, "proven": proven,
    }  # fmt: skip


def within(
    taken: Callable[[dict[str, int]], int], edges: int, products: int, allowed: float, everything: int
) -> tuple[dict[str, int], int]:
    """Tile, edges kept and products remembered of a training step in so much memory, and what it takes.

    Args:
        taken: bytes that a step takes.
        edges: there are.
        products: of an edge that can be remembered.
        allowed: bytes.
        everything: bytes with all kept.
    """
    for tile in [t for t in TILES if t < edges]:
        how = {"tile": tile, "keep": 0, "remember": 0}
        if (least := taken(how)) <= allowed:
            break
    else:
        return how, least
    small = how | {"tile": min(tile, SMALL[-1])}
    found, base = (how, least), taken(small) if small != how else least
    if products:  # they save more time than edges do in the same memory
        for most_of_tile in sorted({min(tile, most_of_tile) for most_of_tile in SMALL}, reverse=True):
            all_of_them = how | {"tile": most_of_tile, "remember": products * edges}
            if (most := taken(all_of_them)) <= allowed:
                found, small, base = (all_of_them, most), all_of_them, most
                break
        else:
            some = small | {"remember": int(0.95 * products * edges * (allowed - base) / (most - base))}
            return (some, size) if base <= allowed and (size := taken(some)) <= allowed else found
    keep, reached = 0, base
    for _ in range(3):  # what is left is for edges that are kept
        more = int(0.9 * (edges - keep) * (allowed - reached) / (everything - reached))
        if more < edges / 50 or keep + more < small["tile"] or (size := taken(small | {"keep": keep + more})) > allowed:
            break
        keep, reached = keep + more, size
        found = (small | {"keep": keep}, size)
    return found


def measure_compiled(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row, its compiled passes, the same uncompiled and the peer's in turn."""
    row, where = ROWS[name], Place(options)
    inputs = where.inputs(name, row)
    peer_inputs = where.inputs(f"{name}-peer", ROWS["equiformer_v2"]) if row.stands_in else inputs
    memory = {}
    for p in ("infer", "train"):
        with where.side("ours", name, inputs) as fresh:
            memory[p] = int(fresh.ask("memory", **{"pass": p}, compiled=True))
        print(f"compiled {p}: {memory[p] / 1e6:.0f} MB", flush=True)
    variant = {"variant": "shipped"} if row.stands_in else {}
    with where.side("ours", name, inputs) as us, where.side(row.peer, name, peer_inputs) as them:
        passes = {}
        for p in memory:
            passes[p] = (us, {"pass": p, "compiled": True})
            passes[f"uncompiled {p}"] = (us, {"pass": p})
            passes[f"peer {p}"] = (them, {"pass": p, **(variant if p == "infer" else {})})
        seconds = in_turn(passes)
    return {"row": name, COMPILED: True, "memory": memory, "seconds": seconds}


def fixtures() -> list[Path]:
    """Stored numbers of the authors' Equiformer for MD17."""
    folders = [ROOT / "tests/parity/equiformer"]
    folders += [Path(os.environ["COVARIUM_PARITY"]) / "equiformer"] if "COVARIUM_PARITY" in os.environ else []
    return [case for folder in folders for case in sorted(folder.glob("md17_*nonlinear_exp")) if case.is_dir()]


def agreement(opened: Mapping[str, Side], to: Path) -> dict[str, float]:
    """The largest difference of both sides' answers with the same weights, over the largest answer."""
    found = []
    for name, side in opened.items():
        path = Path(f"{to}-{name}-outputs.npz")
        side.ask("outputs", to=str(path))
        found.append(np.load(path))
    ours, theirs = found
    return {
        q: float(np.abs(ours[q].ravel() - theirs[q].ravel()).max() / np.abs(theirs[q]).max())
        for q in ("energy", "forces")
    }


def beside(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All our models at their default sizes and other potentials on one system: seconds in turn."""
    case, where = BESIDE[name], Place(options)
    opened: dict[str, Side] = {}
    for model, row in case.ours.items():
        inputs = where.inputs(f"{name}-{model}", row)
        opened[model] = where.side("ours", f"{name}-{model}", inputs)
    for peer in case.peers:
        opened[peer] = where.side(peer, name, inputs)
    passes = {
        f"{key} {p}": (side, {"pass": p}) for key, side in opened.items() for p in ("infer", "train")
    }  # fmt: skip
    seconds = in_turn(passes, enough=40.0)
    facts = {key: side.ask("facts") for key, side in opened.items()}
    for side in opened.values():
        side.close()
    atoms = len(np.load(inputs)["numbers"])
    return {"row": name, "atoms": atoms, "seconds": seconds, "facts": facts}


# -- tables


def write_tables() -> None:
    """Into the pages, from the records of the CPU."""
    cells = recorded(WHAT)
    for page in PAGES:
        rewrite(page, WHAT, table(cells))
        rewrite(page, "beside", beside_table(cells))


def table(cells: list[dict[str, Any]]) -> str:
    """Ratios with their targets, memory, and the part of the arithmetic floor."""
    done = {cell["row"]: cell for cell in cells if cell["row"] in ROWS and COMPILED not in cell}
    if not done:
        return "Not run yet."
    compiled = {cell["row"]: cell for cell in cells if COMPILED in cell}
    header = ("workload", "pass", "published, s", "ours, s", "ratio", "asked for / hoped for", "memory, MB: published",
              "ours", "of floor")  # fmt: skip
    lines = []
    for name, row in ROWS.items():
        lines += lines_of(row, done[name], compiled.get(name)) if name in done else []
    missing = [row.title for name, row in ROWS.items() if name not in done]
    return markdown(header, lines) + facts_text(done) + (f"\nNot run: {'; '.join(missing)}.\n" if missing else "")


def facts_text(done: Mapping[str, Mapping[str, Any]]) -> str:
    """That both sides compute the same, and what a product of matrices reaches."""
    same = [
        f"{ROWS[name].title.split(',')[0]} {max(cell['difference'].values()):.0e}"
        for name, cell in done.items()
        if cell["difference"]
    ]
    rates = [cell["rate_flops"] / 1e9 for cell in done.values()]
    text = f"\nProducts of matrices: {min(rates):.0f} to {max(rates):.0f} GFLOP/s."
    text += f" With the same weights energies and forces differ by: {', '.join(same)}." if same else ""
    proven = [error for cell in done.values() for error in cell.get("proven", {}).values()]
    text += f" The rebuilt Equiformer differs from the authors' by {max(proven):.0e} in float64." if proven else ""
    for cell in (cell for cell in done.values() if "lean" in cell["peer_memory"]):
        seconds = statistics.median(cell["seconds"]["peer lean infer"])
        ratio = seconds / statistics.median(cell["seconds"]["infer"])
        text += (
            " In inference it keeps the graph of the gradient, as the authors' code does; without that and with frozen "
            f"weights it takes {seconds:.3g} s and {cell['peer_memory']['lean'] / 1e6:,.0f} MB, so that the ratio is "
            f"{ratio:.2f}."
        )
    return text + "\n"


def lines_of(row: Row, cell: Mapping[str, Any], compiled: Mapping[str, Any] | None) -> list[list[str]]:
    """The lines of one workload; a ratio below what is asked for is set in bold."""
    lines = []
    fits = cell["memory"]["train"] <= cell["memory_allowed"]  # then no tiles are needed
    for k, given in enumerate(PASSES):
        name = "train" if given == "tiled" and fits else given
        kind = "infer" if name == "infer" else "train"
        how = "all is kept" if fits else tiles_text(cell)
        least = f"at most {row.memory:g} of the memory: "
        title = {"infer": "energy and forces", "train": "training step", "tiled": least + how}[given]
        theirs = [row.factor[k > 0] * s for s in cell["seconds"][f"peer {kind}"]]
        line = Line(title, kind, theirs, cell["seconds"][name], cell["memory"][name], row.targets[k])
        lines.append([row.title if k == 0 else "", *line.cells(cell, limited=given == "tiled")])
        if compiled is None or (given == "tiled" and compiled["memory"]["train"] > cell["memory_allowed"]):
            continue
        title = f"{least}compiled" if given == "tiled" else f"{title}, compiled"
        theirs = [row.factor[k > 0] * s for s in compiled["seconds"][f"peer {kind}"]]
        line = Line(title, kind, theirs, compiled["seconds"][kind], compiled["memory"][kind], row.targets[k])
        lines.append(["", *line.cells(cell, limited=False)])
    return lines


def tiles_text(cell: Mapping[str, Any]) -> str:
    """Edges at a time, and what is kept of them."""
    kept = [f"{cell['keep']} of {cell['edges']} edges"] if cell["keep"] else []
    kept += [f"{cell['remember']} products"] if cell.get("remember") else []
    return f"tiles of {cell['tile']} edges, {' and '.join(kept) or 'none'} kept"


class Line(NamedTuple):
    """One pass of one workload: seconds of both sides, bytes of ours, the ratio asked for and hoped for."""

    title: str
    kind: str
    theirs: list[float]
    ours: list[float]
    memory: float
    targets: tuple[float, float]

    def cells(self, cell: Mapping[str, Any], *, limited: bool) -> list[str]:
        """As text; ``limited``: more memory than is allowed is set in bold."""
        asked, hoped = self.targets
        seconds = statistics.median(self.ours)
        ratio = statistics.median(self.theirs) / seconds
        peer = cell["peer_memory"].get(self.kind)
        memory = f"{self.memory / 1e6:,.0f}" + ("" if peer is None else f" ({self.memory / peer:.2f})")
        if limited and self.memory > cell["memory_allowed"]:
            memory = f"**{memory}**"
        floor = cell["flop"][self.kind] / cell["rate_flops"] / seconds
        return [
            self.title, spread(self.theirs), spread(self.ours),
            f"{ratio:.2f}" if ratio >= asked else f"**{ratio:.2f}**", f"{asked:g} / {hoped:g}",
            "" if peer is None else f"{peer / 1e6:,.0f}", memory, f"{floor:.0%}",
        ]  # fmt: skip


def spread(seconds: list[float]) -> str:
    """Median and the range of all rounds."""
    return f"{statistics.median(seconds):.3g} ({min(seconds):.3g}–{max(seconds):.3g})"


def beside_table(cells: list[dict[str, Any]]) -> str:
    """Milliseconds per atom of our default models, MACE and NequIP."""
    done = [cell for cell in cells if cell["row"] in BESIDE]
    if not done:
        return "Not run yet."
    rows = []
    for cell in done:
        for key, facts in cell["facts"].items():
            times = [statistics.median(cell["seconds"][f"{key} {p}"]) for p in ("infer", "train")]
            rows.append([
                BESIDE[cell["row"]].title, BESIDE[cell["row"]].names[key], f"{facts['parameters']:,}",
                *(f"{1e3 * t / cell['atoms']:.2f}" for t in times),
            ])  # fmt: skip
    return markdown(
        ("system", "model", "parameters", "energy and forces, ms per atom", "training step, ms per atom"), rows
    )


if __name__ == "__main__":
    main()

"""Cells of a table: each is measured in a process of its own and recorded as soon as it is done; done ones are skipped.

A budget is CPU time of the one thread that trains (``time.process_time``), so that other work on the machine changes it
little. ``covarium train --time`` counts the clock on the wall; ``budgeted`` hands the training loop the clock of the
process instead and changes nothing else, so a cell is what ``--time`` gives on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from record import RECORDS, machine

MB = 1e6


class Watch:
    """Progress of a run: CPU seconds of each step, and the most memory the process held until the last of them."""

    def __init__(self) -> None:
        self.step, self.clock, self.seconds = 0, time.process_time(), list[float]()
        self.peak, self.elapsed = 0, 0.0

    def __call__(self, event: Any) -> None:  # noqa: ANN401 - training's Event
        if event.step > self.step:
            now = time.process_time()
            self.seconds.append(now - self.clock)
            self.step, self.clock, self.elapsed = event.step, now, event.elapsed
            self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux


def budgeted(config: Any, out: Path) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401 - RunConfig; Outcome
    """Train with ``training.time_s`` in CPU seconds; the outcome and what every table wants of it."""
    from covarium.training import loop
    from covarium.workflows.kinds import infer
    from covarium.workflows.training_run import run

    loop.time = SimpleNamespace(monotonic=time.process_time)  # the one place where training looks at a clock
    plan = infer(config)
    watch = Watch()
    outcome = run(plan, out, progress=watch)
    if outcome.result.interrupted:
        raise SystemExit(outcome.result.reason)
    return outcome, {
        "parameters": sum(p.numel() for p in plan.task.parameters()),
        "batch": plan.settings.batch_size,
        "steps": outcome.result.steps,
        "epochs": outcome.result.epochs,
        "best_step": outcome.result.best_step,
        "training_cpu_s": watch.elapsed,
        "cpu_s_per_step": statistics.median(watch.seconds),
        "peak_mb": watch.peak / MB,
        "learning_rate": plan.settings.lr,
    }


def record(what: str, cell: Sequence[str], row: Mapping[str, Any]) -> None:
    """Write one cell."""
    path = place(what, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"cell": list(cell), **row, "machine": machine()}, indent=1, ensure_ascii=False, default=float)
    path.with_suffix(".part").write_text(text + "\n")
    path.with_suffix(".part").replace(path)


def place(what: str, cell: Sequence[str]) -> Path:
    """Where a cell is recorded: in the newest folder of this table, else in one of today."""
    folders = sorted(RECORDS.glob(f"????-??-??-{what}"))
    folder = folders[-1] if folders else RECORDS / f"{machine()['date']}-{what}"
    return folder / ("_".join(cell) + ".json")


def recorded(what: str) -> list[dict[str, Any]]:
    """All cells there are."""
    return [json.loads(path.read_text()) for path in sorted(place(what, ["x"]).parent.glob("*.json"))]


def drive(what: str, cells: Sequence[Sequence[str]], command: Sequence[str], together: int, work: Path) -> None:
    """Run ``command --cell …`` for every cell that is not recorded, so many at a time, with one thread each."""
    waiting = [cell for cell in cells if not place(what, cell).exists()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    running: dict[str, subprocess.Popen[bytes]] = {}
    work.mkdir(parents=True, exist_ok=True)
    while waiting or running:
        while waiting and len(running) < together:
            cell = waiting.pop(0)
            name = "_".join(cell)
            with (work / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(
                    [sys.executable, *command, "--cell", *cell], stdout=log, stderr=subprocess.STDOUT, env=environment
                )
            print(f"{time.strftime('%H:%M')} {name} begins", flush=True)
        time.sleep(1)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            ended = running.pop(name).returncode
            print(f"{time.strftime('%H:%M')} {name} " + ("done" if not ended else f"FAILED, see {work}/{name}.log"))


def rewrite(page: Path, name: str, table: str) -> None:
    """Put a table between ``<!-- table: name -->`` and ``<!-- end -->`` of a page.

    Raises:
        SystemExit: the page has no such place.
    """
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
    if start not in text:
        raise SystemExit(f"{page} has no '{start.strip()}'")
    head, rest = text.split(start, 1)
    page.write_text(f"{head}{start}\n{table}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

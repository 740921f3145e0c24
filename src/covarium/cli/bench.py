"""``covarium bench``: how fast, how large."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from covarium.cli.options import Device, Memory, Precision, Settings, Threads
from covarium.errors import CovariumError


def bench(
    model: Annotated[
        str, Argument(help="Trained model, or the name of an architecture (random weights).", metavar="MODEL")
    ],
    file: Annotated[
        Path | None, Argument(help="Structure to repeat, the last of the file. Default: liquid water.")
    ] = None,
    atoms: Annotated[str, Option(metavar="FROM..TO", help="Sizes.")] = "100..10000",
    timestep: Annotated[float, Option(min=0.001, help="fs, for ns/day.")] = 0.5,
    out: Annotated[Path, Option(help="Folder for report.html and bench.json.")] = Path("bench"),
    memory: Memory = None,
    settings: Settings = None,
    device: Device = None,
    dtype: Precision = None,
    threads: Threads = None,
) -> None:
    """Time and memory of energy and forces over the number of atoms, and the largest system that fits.

    Each size runs in a process of its own, as steps of dynamics do: neighbours reused, nothing kept.
    """
    from dataclasses import asdict

    from covarium.cli.console import counting, say, table
    from covarium.workflows import scaling
    from covarium.workflows.evaluation import write_json

    subject = scaling.Subject(
        model, scaling.model_settings(settings or []), device, dtype and dtype.value, threads, memory
    )
    systems, machine = scaling.prepare(subject, file, scaling.sizes(atoms))
    free = scaling.free_memory(subject)
    rows, left_out = [], []
    with counting("measuring") as progress:
        for k, found in enumerate(scaling.scaling(subject, systems, free)):
            if isinstance(found, str):
                left_out.append(found)
            else:
                rows.append(found)
            progress(k + 1, len(systems))
    if not rows:
        raise CovariumError(f"no size could be measured: {'; '.join(left_out)}")
    concluded = scaling.conclude(rows, left_out, free, tiled=memory is not None)
    shown = scaling.table(rows, timestep)
    say(", ".join(f"{what} {value}" for what, value in machine.items()))
    table(shown.title, shown.header, shown.rows)
    for line in scaling.conclusions(concluded):
        say(line)
    scaling.write(out / "report.html", subject, concluded, timestep, machine)
    write_json({"timestep_fs": timestep, **asdict(concluded)}, out / "bench.json", {"model": model, **machine})
    say(f"report: {out / 'report.html'}")

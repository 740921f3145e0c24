"""``covarium check model``: is a potential what it claims to be?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from covarium.cli.options import Device, Model, Threads

app = typer.Typer(no_args_is_help=True)


@app.callback()
def check() -> None:
    """Look for what is wrong before it does harm."""


@app.command()
def model(
    model: Model,
    files: Annotated[
        list[Path] | None,
        Argument(help="Structures to look at beside the built-in ones; or samples of tokens.", metavar="FILE"),
    ] = None,
    frames: Annotated[int, Option(min=1, help="How many of the structures, the first ones.")] = 3,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Symmetry, forces and stress against finite differences, smoothness, locality; exit code 1 if a check fails."""
    from covarium.cli.console import counting, say
    from covarium.workflows.device import use_threads
    from covarium.workflows.kinds import kind_of_task
    from covarium.workflows.loaded import load_task

    use_threads(threads)
    loaded = load_task(model, device=device)
    failed = done = 0
    with counting("checking") as progress:
        for found in kind_of_task(loaded.header).checks(loaded.task, files or [], frames):
            done += 1
            failed += not found.passed
            progress(done, done)
            level = "" if found.level is None else f"≤ {found.level:.0e}"
            verdict = "measured" if found.level is None else "ok" if found.passed else "FAILED"
            say(f"{found.name:36s} {found.value:9.1e}  {level:8s} {verdict:9s} {found.note}".rstrip())
    say(f"{done} checks, {failed} failed")
    if failed:
        raise typer.Exit(1)

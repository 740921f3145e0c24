"""``covarium check``: is a model what it claims to be, are labelled structures sound?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from covarium.cli.check_data import data
from covarium.cli.options import Device, Model, Threads

app = typer.Typer(no_args_is_help=True)
app.command()(data)


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
    from covarium.cli.console import verdict
    from covarium.cli.using import loaded_task

    loaded, kind = loaded_task(model, device, None, threads)
    if verdict("", kind.checks(loaded, files or [], frames)):
        raise typer.Exit(1)

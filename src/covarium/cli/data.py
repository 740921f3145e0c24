"""``covarium data convert``: from one format of labelled structures to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from covarium.cli.options import Settings

app = typer.Typer(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Files of labelled structures."""


@app.command()
def convert(
    source: Annotated[
        Path, Argument(metavar="IN", help="What training reads, also LMDB and HDF5, or a folder of such files.")
    ],
    out: Annotated[
        Path,
        Argument(metavar="OUT", help="By its suffix: .frames (large sets), .extxyz, .traj, .db, .aselmdb, .npz, .h5."),
    ],
    settings: Settings = None,
) -> None:
    """Write structures and labels in another format, in eV and Å, nothing lost.

    An ended conversion goes on where it was when the same command is given again.
    """
    from covarium.cli.console import commands, counting, memory, say
    from covarium.data.convert import convert as convert_file
    from covarium.data.store import SUFFIX
    from covarium.workflows.evaluation import data_settings

    section = data_settings(settings or [])
    with counting("converting") as counted:
        done = convert_file(source, out, keys=section.keys, units=section.units, limit=section.limit, progress=counted)
    for note in done.notes:
        say(note)
    if done.resumed:
        say(f"continued after {done.resumed:,} frames that were done before")
    for what in done.left_out:
        say(f"note: left out: {what}")
    files = list(done.path.iterdir()) if done.path.is_dir() else [done.path]
    size = sum(path.stat().st_blocks * 512 for path in files)
    say(f"{done.contents}\n{done.path}: {memory(size)}")
    if out.suffix == SUFFIX:
        commands("Next:", [f"covarium train {out}"])

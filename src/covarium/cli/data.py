"""``covarium data``: published sets by name; from one format of labelled structures to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from typer import Argument, Option

from covarium.cli.options import Settings

app = typer.Typer(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Files of labelled structures, and published sets of them."""


@app.command("list")
def listed(
    name: Annotated[
        str, Argument(metavar="[BEGINNING]", help="Only the sets whose name begins so, with all that is known of them.")
    ] = "",
) -> None:
    """Published data sets that can be got by name."""
    from covarium.cli.console import findings, say
    from covarium.data.sets import SETS
    from covarium.errors import CovariumError, nearest

    found = [one for one in SETS.values() if one.name.startswith(name)]
    if not found:
        raise CovariumError(f"no data set begins with '{name}'{nearest(name, SETS)}")
    if not name:
        say(f"{'name':30s} {'structures':>11s} {'download':>9s}  {'licence':16s} {'where':28s} what")
        for one in found:
            licence = one.licence.partition(" (")[0].partition(";")[0]
            host = urlsplit(one.where).hostname or ""
            say(f"{one.name:30s} {_count(one.frames):>11s} {_size(one.size):>9s}  {licence:16s} {host:28s} {one.what}")
        say("\ncovarium data list NAME tells more, covarium data get NAME downloads")
        return
    for one in found:
        units = ", ".join(one.units.values())
        findings(one.name, [
            ("what", one.what, ""), ("frames", _count(one.frames), ""), ("theory", one.theory, ""),
            ("licence", one.licence, ""), ("citation", one.citation, ""), ("where", one.where, ""),
            ("units", units, "of the official files; eV and Å when they are here"), ("split", one.split, ""),
            *[("file" if k == 0 else "", source.url, _size(source.size)) for k, source in enumerate(one.sources)],
        ])  # fmt: skip


def _count(frames: int | None) -> str:
    return "" if frames is None else f"{frames:,}"


def _size(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 0.1):.3g} MB"


@app.command()
def get(
    name: Annotated[str, Argument(help="Of a published set, as covarium data list shows it.")],
    split: Annotated[int, Option(min=1, help="Which of the official splits, where there are several.")] = 1,
    yes: Annotated[bool, Option("--yes", help="Agree to a download of more than 2 GB.")] = False,
    out: Annotated[
        Path | None, Option(help="Folder of all sets. Default: COVARIUM_DATA, else ~/.cache/covarium/data.")
    ] = None,
) -> None:
    """Download a published data set, or find its files in COVARIUM_DATA, and split it as published.

    An ended download goes on where it was. The only command that uses the network.
    """
    from covarium.cli.console import commands, fetching, findings, say
    from covarium.data.getting import CARD
    from covarium.data.getting import get as get_set
    from covarium.data.sets import data_set_named

    one = data_set_named(name)
    with fetching() as told:
        done = get_set(one, out, split=split, confirmed=yes, told=told)
    for note in done.notes:
        say(note)
    card = done.card
    findings("", [
        ("set", f"{one.name}: {one.what}", ""),
        ("frames", ", ".join(f"{part} {count:,}" for part, count in card["frames"].items()), ""),
        ("split", card["split"], ""),
        ("theory", card["theory"], ""),
        ("licence", card["licence"], ""),
        ("cite", card["citation"], ""),
        ("folder", str(done.folder), f"{CARD} says all of this"),
    ])  # fmt: skip
    commands("Next:", done.commands)


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

"""From any readable format to another, through our own: a killed conversion goes on where it was ended."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from covarium.data.canonical import canonical, choose
from covarium.data.formats import parts, stream
from covarium.data.reading import check_arguments, stored_contents
from covarium.data.record import Record
from covarium.data.store import SUFFIX, Store, is_store
from covarium.data.store_writing import Writer
from covarium.data.writers import CONTINUED, WRITERS, retyped
from covarium.errors import CovariumError, nearest
from covarium.files import move, replace_text, workplace

SAMPLE = 2000  # first records, by which keys and units are chosen
PARTIAL = ".partial"
PLAN = "conversion.json"
Progress = Callable[[int, int | None], object]


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        path: the file or folder.
        frames: how many.
        contents: one line about them.
        notes: what was chosen.
        left_out: what could not be kept, and in how many frames.
        resumed: frames that an earlier, ended conversion had done.
    """

    path: Path
    frames: int
    contents: str
    notes: list[str]
    left_out: list[str]
    resumed: int


def convert(
    source: Path,
    out: Path,
    *,
    keys: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write the structures of ``source`` with labels in eV and Å, frozen atoms, charges and everything else they have.

    Args:
        source: what ``read`` reads.
        out: by its suffix .frames (our own format for large sets), .extxyz, .xyz, .traj, .db, .aselmdb, .npz or .h5.
        keys, units, limit: as for ``read``. Values that a property may be learnt from keep their keys and units.
        progress: called with frames done and, where it is known, their number.

    Raises:
        CovariumError: ``out`` exists or has an unknown suffix, the source cannot be read, or labels are ambiguous or
            differ from frame to frame.
    """
    keys, units = dict(keys or {}), dict(units or {})
    check_arguments([source], keys, (), limit)
    if "property" in keys or "property" in units:
        raise CovariumError(
            "a property is not chosen in a conversion: all values keep their keys and units; leave data.keys.property "
            "and data.units.property out, and name it in training"
        )
    allowed = (SUFFIX, *WRITERS)
    if out.suffix not in allowed:
        raise CovariumError(f"'{out}' has no known format{nearest(out.suffix, allowed)}; allowed: {', '.join(allowed)}")
    plan = _plan(source, keys, units, limit)
    with workplace(out) as place:
        if out.exists():
            raise CovariumError(f"'{out}' exists already; choose another name, or remove it")
        return _convert(source, out, place, plan, progress)


def _convert(source: Path, out: Path, place: Path, plan: dict[str, Any], progress: Progress | None) -> Conversion:
    """Writes ``place`` or, of our own format, a folder beside ``out``, and moves it onto ``out``."""
    stage = out.with_name(out.name + PARTIAL)
    resumed = 0
    if is_store(source) and out.suffix != SUFFIX and plan["limit"] is None:
        if plan["keys"] or plan["units"]:
            raise CovariumError(f"{source} has its keys and units from its conversion; leave them out")
        if is_store(stage):
            raise CovariumError(f"'{stage}' belongs to another conversion; remove it, or choose another name")
        store = Store(source)
    else:
        resumed = _fill(stage, source, plan, progress)
        store = Store(stage)
    header = store.header
    left_out = list(header["left_out"]) + (retyped(store) if out.suffix in CONTINUED else [])
    if out.suffix == SUFFIX:
        move(stage, out)
    else:
        if out.suffix in CONTINUED:
            stage.mkdir(exist_ok=True)
            place = stage / out.name
        WRITERS[out.suffix](place, store)
        move(place, out)
        if stage.exists():
            shutil.rmtree(stage)
    return Conversion(out, len(store), stored_contents([store]), header["notes"], left_out, resumed)


def _plan(source: Path, keys: Mapping[str, str], units: Mapping[str, str], limit: int | None) -> dict[str, Any]:
    """What a conversion is, to tell whether an ended one can go on; what was read must still be the same."""
    files = []
    for path in parts(source):
        status = path.stat()
        files.append([str(path.absolute()), 0 if path.is_dir() else status.st_size, status.st_mtime_ns])
    return {"files": files, "keys": dict(keys), "units": dict(units), "limit": limit}


def _fill(stage: Path, source: Path, plan: dict[str, Any], progress: Progress | None) -> int:
    """Bring the set in ``stage`` to its end; returns how many frames were there already."""
    known = stage / PLAN
    if known.exists():
        if json.loads(known.read_text(encoding="utf-8")) != plan:
            raise CovariumError(
                f"'{stage}' belongs to another conversion, or its source has changed; remove it, or choose another name"
            )
    elif is_store(stage):
        raise CovariumError(f"'{stage}' was not made by a conversion; remove it, or choose another name")
    if is_store(stage) and (stage / "header.json").exists():
        return len(Store(stage))
    keys, limit = plan["keys"], plan["limit"]
    begun = stream(source, keys)
    following: Iterable[Record]
    sample = list(islice(begun, SAMPLE if limit is None else min(SAMPLE, limit)))
    if not sample:
        raise CovariumError(f"{source} holds no structures")
    choice = choose(sample, keys, plan["units"])
    writer = Writer(stage)
    try:
        if not known.exists():
            replace_text(known, json.dumps(plan, ensure_ascii=False))
        done = resumed = writer.totals["frame"]
        if resumed:
            begun.close()
            following = stream(source, keys, after=tuple(writer.blocks[-1]["last"]))
        else:
            following = chain(sample, begun)
        for record in islice(following, None if limit is None else limit - done):
            frame, rest, left_out = canonical(record, choice)
            writer.append(frame, rest, left_out)
            done += 1
            if progress is not None and done % 100 == 0:
                progress(done, limit)
        counts: Counter[str] = Counter()
        for block in [*writer.blocks, {"left_out": writer.left_out}]:
            counts.update(block["left_out"])
        left = [f"{what}, in {count} frames" for what, count in sorted(counts.items())]
        writer.finish(theory=choice.theory, group=choice.group, notes=choice.notes, left_out=left)
    finally:
        writer.close()
    return resumed

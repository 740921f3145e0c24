"""A published data set by name: downloaded, read, and written as sets of ours, with a card that says what it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from covarium import __version__
from covarium.data.canonical import canonical, choose
from covarium.data.convert import SAMPLE
from covarium.data.download import LOCAL, Arrived, enter, fetch
from covarium.data.hdf5_files import MOLECULE
from covarium.data.record import Record
from covarium.data.set_layouts import LAYOUTS, Job, qm9_references
from covarium.data.sets import LARGE, DataSet
from covarium.data.store import SUFFIX
from covarium.data.store_writing import Writer
from covarium.errors import CovariumError
from covarium.files import held, replace_text

VARIABLE = "COVARIUM_DATA"
DOWNLOADS, PARTIAL, CARD = "downloads", ".partial", "card.yaml"
Told = Callable[[str, int, int | None], object]


@dataclass(frozen=True)
class Got:
    """A set that is ready.

    Attributes:
        folder: with a ``.frames`` set for each part, and ``card.yaml``.
        card: what stands in ``card.yaml``.
        commands: to go on with.
        notes: what was found while it was made; empty if it was there already.
    """

    folder: Path
    card: dict[str, Any]
    commands: list[str]
    notes: list[str]


def root() -> Path:
    """The folder of all sets: the one that the environment names, else one of the user's."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else Path("~/.cache/covarium/data").expanduser()


def get(
    one: DataSet, folder: Path | None = None, *, split: int = 1, confirmed: bool = False, told: Told | None = None
) -> Got:
    """Download what is missing, and write the parts of a set.

    Args:
        one: of ``SETS``.
        folder: of all sets; None for ``root()``. Files that lie there, or in ``root()``, are not downloaded.
        split: which of the official splits.
        confirmed: whether a large download was agreed to.
        told: called with what is being done, how much of it, and of how much.

    Raises:
        CovariumError: no network, a damaged file, a large download that was not agreed to, no such split, or what the
            readers refuse.
    """
    if not 1 <= split <= one.splits:
        raise CovariumError(f"{one.name} has {one.splits} official splits; --split 1 to {one.splits}, got {split}")
    folder = (folder or root()).absolute()
    name = one.name if split == 1 else f"{one.name}-split{split}"
    place = folder / name
    if (place / CARD).is_file():
        card = yaml.safe_load((place / CARD).read_text(encoding="utf-8"))
        return Got(place, card, _commands(one, place), [])
    places = list(dict.fromkeys((folder, root())))
    copies = {
        source.name: tuple(base / sub / source.name for base in places for sub in ("", one.name, DOWNLOADS))
        for source in one.sources
    }
    if not confirmed:
        _refuse_large(one, copies, folder)
    arrived: dict[str, Arrived] = {}
    for source in one.sources:
        progress = None if told is None else _about(told, f"downloading {source.name}")
        arrived[source.name] = fetch(source, folder / DOWNLOADS, local=copies[source.name], progress=progress)
    stage = folder / (name + PARTIAL)
    with held(stage):
        for left in stage.iterdir():  # by a process that was ended
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        local = any(found.how == LOCAL for found in arrived.values())
        job = Job(one, {file: found.path for file, found in arrived.items()}, stage / "unpacked", split, local)
        counts, notes = _write(job, stage, None if told is None else _about(told, f"reading {one.name}"))
        shutil.rmtree(job.scratch, ignore_errors=True)
        references = qm9_references(job.paths[2]) if one.layout == "qm9" else {}
        for target, energies in references.items():
            text = yaml.safe_dump({"task": {"references": energies}}, sort_keys=False)
            replace_text(stage / f"{target}.yaml", f"# energies of the free atoms in eV, {one.citation}\n{text}")
        card = _card(one, split, counts, arrived)
        replace_text(stage / CARD, yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=120))
        for source in one.sources:
            # not before: a wrong file is not what later ones are compared with
            enter(folder / DOWNLOADS, source, arrived[source.name])
    stage.rename(place)
    return Got(place, card, _commands(one, place), notes)


def _about(told: Told, what: str) -> Callable[[int, int | None], object]:
    return lambda done, total: told(what, done, total)


def _refuse_large(one: DataSet, local: dict[str, tuple[Path, ...]], folder: Path) -> None:
    missing = [source for source in one.sources if not any(path.is_file() for path in local[source.name])]
    sizes = [source.size or 0 for source in missing]
    if missing and (one.large or sum(sizes) > LARGE):
        size = f"{sum(sizes) / 1e9:.1f} GB" if all(sizes) else "several GB (their number is not stated)"
        raise CovariumError(
            f"{one.name} is a download of {size} from {missing[0].url}, and needs about as much room again when it is "
            f"read; add --yes to download it into {folder / DOWNLOADS}, or --out for another folder"
        )


def _write(
    job: Job, stage: Path, progress: Callable[[int, int | None], object] | None
) -> tuple[dict[str, int], list[str]]:
    """The parts as sets of ours; frames of each, and what was found."""
    one = job.card
    wanted = {*one.keys.values(), *one.keep, MOLECULE} if one.keys else None
    records = ((part, _only(record, wanted)) for part, record in LAYOUTS[one.layout](job))
    sample = list(islice(records, SAMPLE))
    if not sample:
        raise CovariumError(f"{one.name}: its files hold no structures")
    choice = choose([record for _, record in sample], one.keys, one.units)
    counts: dict[str, int] = {}
    with ExitStack() as stack:
        writers: dict[str, Writer] = {}
        for done, (part, record) in enumerate(chain(sample, records), 1):
            if part not in writers:
                writers[part] = Writer(stage / f"{part}{SUFFIX}")
                stack.callback(writers[part].close)
            writers[part].append(*canonical(record, choice))
            counts[part] = counts.get(part, 0) + 1
            if progress is not None and done % 100 == 0:
                progress(done, None)
        for part, writer in writers.items():
            notes = [f"{part} of {one.name}; {one.split}"]
            writer.finish(theory=one.theory, group=choice.group, notes=notes, left_out=[])
    return counts, choice.notes


def _only(record: Record, wanted: set[str] | None) -> Record:
    if wanted is None:
        return record
    return replace(record, values={key: value for key, value in record.values.items() if key in wanted})


def _card(one: DataSet, split: int, counts: dict[str, int], arrived: dict[str, Arrived]) -> dict[str, Any]:
    return {
        "name": one.name,
        "what": one.what,
        "frames": counts,
        "theory": one.theory,
        "licence": one.licence,
        "citation": one.citation,
        "where": one.where,
        "units": {"in the official files": dict(one.units), "here": {"energy": "eV", "length": "Å"}},
        "split": one.split + (f"; split {split} of {one.splits}" if one.splits > 1 else ""),
        "sources": [
            {"url": source.url, "file": source.name, "md5 as published": source.md5 or None,
             "sha256": arrived[source.name].sha256, "came": arrived[source.name].how}
            for source in one.sources
        ],
        "made by": f"covarium {__version__}",
    }  # fmt: skip


def _commands(one: DataSet, place: Path) -> list[str]:
    part, options = one.train
    paths = {path.name.removesuffix(SUFFIX): path for path in sorted(place.glob(f"*{SUFFIX}"))}
    command = f"covarium train {place / part}{SUFFIX} {options.format(**paths)}".rstrip()
    if one.layout != "qm9":
        return [f"{command} --out runs/{place.name}"]
    u0 = command.replace("--property homo", f"--property u0 --config {place / 'u0.yaml'}")
    return [f"{command} --out runs/qm9-homo", f"{u0} --out runs/qm9-u0"]

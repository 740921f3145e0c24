"""How results look on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from covarium.analysis.check import Check
    from covarium.simulation import Progress as Stepped
    from covarium.workflows.slmc_chains import Progress as Staged

# a log file has no edge to fit into
out = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
err = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line of plain text on stdout, never wrapped, so that it can be copied."""
    out.print(text, markup=False, soft_wrap=True)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns of numbers are aligned to the right; the first is a name."""
    shown = Table(title=title or None, title_justify="left", title_style="bold", header_style="", box=SIMPLE_HEAD)
    for index, name in enumerate(header):
        shown.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*[cell.replace("[", r"\[") for cell in row])
    out.print(shown)


def findings(title: str, rows: Iterable[tuple[str, str, str]]) -> None:
    """What, its value, where it comes from."""
    shown = Table(title=title or None, title_justify="left", title_style="bold", show_header=False, box=None)
    shown.add_column(style="bold", no_wrap=True, min_width=14)
    shown.add_column(overflow="fold")
    for what, value, origin in rows:
        text = Text(value)
        if origin:
            text.append(f"  ({origin})", style="dim")
        shown.add_row(what, text)
    out.print(shown)


def verdict(title: str, checks: Iterable[Check]) -> int:
    """Each check beside its level, as it comes; the number of those that failed."""
    done = failed = 0
    if title:
        out.print(Text(title, style="bold"))
    with counting("checking") as progress:
        for found in checks:
            done += 1
            failed += not found.passed
            progress(done, done)
            level = "" if found.level is None else f"≤ {found.level:.0e}"
            word = "measured" if found.level is None else "ok" if found.passed else "FAILED"
            say(f"{found.name:36s} {found.value:9.1e}  {level:8s} {word:9s} {found.note}".rstrip())
    say(f"{done} checks, {failed} failed")
    return failed


def commands(title: str, lines: Iterable[str]) -> None:
    say(f"\n{title}")
    for line in lines:
        say(f"  {line}")


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on stderr for work that says (done, all)."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def fetching() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar on stderr for each file that is downloaded, a count for what is read; they say (what, done, all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:

        def show(what: str, done: int, total: int | None) -> None:
            if what not in bars:
                bars[what] = bar.add_task(what, total=total, now="")
            size = memory(done) if what.startswith("downloading") else f"{done:,} structures"
            bar.update(bars[what], completed=done, total=total, now=size + (f" of {memory(total)}" if total else ""))

        yield show


@contextmanager
def stepping(what: str) -> Iterator[Stepped]:
    """A progress bar on stderr for simulations, which also say their values of the moment."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=None, now="")

        def show(step: int, steps: int, values: dict[str, float]) -> None:
            now = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            bar.update(task, completed=step, total=steps, now=now)

        yield show


@contextmanager
def progressing() -> Iterator[Staged]:
    """A bar on stderr for each stage of a long run; without a terminal, a line when a stage ends."""
    columns = (
        TextColumn("{task.description:12s}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:

        def show(stage: str, done: int, total: int, values: dict[str, float]) -> None:
            now = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            if stage not in bars:
                bars[stage] = bar.add_task(stage, total=total, now="")
            bar.update(bars[stage], completed=done, total=total, now=now)
            if done == total and not err.is_terminal:
                err.print(f"{stage:12s} {done}/{total}  {now}")

        yield show


def memory(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def seconds(value: float) -> str:
    """``42 s``, ``7 min``, ``3.2 h``."""
    if value < 120:
        return f"{value:.3g} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"

"""A progress bar for the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from covarium.training.protocols import Event


class RichProgress:
    """Shows step, loss, validation and time left; use it as a context and pass it to ``train`` as ``progress``."""

    def __init__(self, console: Console | None = None) -> None:
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]} left"),
            TextColumn("{task.fields[state]}"),
            console=console or Console(stderr=True),
        )
        self._task = self._bar.add_task("training", total=1.0, epoch=0, left="?", state="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        if event.note:
            self._bar.console.print(event.note, markup=False, highlight=False)
        losses = [f"{name} {value:.4g}" for name, value in event.losses.items()]
        best = [f"best {event.best:.4g}"] if event.best < float("inf") else []
        self._bar.update(
            self._task,
            completed=event.fraction,
            epoch=event.epoch,
            left=duration(event.remaining),
            state="  ".join([*losses, *best]),
        )


def duration(seconds: float) -> str:
    """``1:02:03`` or ``02:03``; ``?`` while unknown."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"

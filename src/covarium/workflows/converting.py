"""Official checkpoints to files of ours."""

from __future__ import annotations

from pathlib import Path

from covarium import __version__, checkpoint
from covarium.errors import CovariumError
from covarium.pretrained.conversion import convert


def convert_file(
    path: Path, out: Path, *, name: str | None = None, weights: str = "averaged", target: str | None = None
) -> list[str]:
    """Convert ``path`` and write ``out``.

    Returns:
        What was found, for printing.

    Raises:
        CovariumError: ``out`` exists, or see ``covarium.pretrained.conversion.convert``.
    """
    if out.exists():
        raise CovariumError(f"'{out}' exists already; choose another --out")
    converted = convert(path, name=name, weights=weights, target=target)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(out, converted.task, {"covarium": __version__, **converted.card})
    return converted.notes

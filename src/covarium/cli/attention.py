"""``covarium attention``: what a model looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from covarium.cli.options import Device, Files, Model, Precision, Settings, Threads


def attention(
    model: Model,
    files: Files,
    out: Annotated[Path, Option(help="Folder for attention.npz, attention.json, report.html and heatmaps/.")] = Path(
        "attention"
    ),
    keep: Annotated[
        int, Option(min=0, help="How many structures to keep in full, the first ones; the tables are over all.")
    ] = 10,
    index: Annotated[
        list[int] | None, Option(min=0, help="A structure to keep instead, from 0; may be given again.")
    ] = None,
    settings: Settings = None,
    device: Device = None,
    dtype: Precision = None,
    threads: Threads = None,
) -> None:
    """Attention weights of every layer, head and edge, their rollout, and tables by elements beside bonds."""
    from covarium.cli.console import counting, findings, say, table
    from covarium.cli.using import loaded_task
    from covarium.workflows.attention import attention_of_files, write
    from covarium.workflows.evaluation import data_settings, refuse_targets

    refuse_targets(files, None, out)
    loaded, _ = loaded_task(model, device, dtype, threads)
    data = data_settings(settings or [])
    with counting("attending") as progress:
        result = attention_of_files(loaded, files, data, keep=keep, index=index or (), progress=progress)
    for shown in result.totals.tables():
        table(shown.title, shown.header, shown.rows)
    correlation = result.totals.correlation()
    if correlation is not None:
        say(f"attention and bonds: correlation {correlation:.2f} over the ordered pairs of elements")
    for line in result.left_out:
        say(line)
    written = write(result, out, {"model": str(loaded.path), "files": [str(file) for file in files]})
    findings("", [(name, str(path), "") for name, path in written.items()])

"""``covarium convert``: published weights, once, into a file that everything else reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Weights(StrEnum):
    averaged = "averaged"
    last = "last"


def convert(
    file: Annotated[Path, Argument(help="Official .pt or .ckpt: EquiformerV2, V3, Equiformer, TorchMD-NET ET.")],
    out: Annotated[Path | None, Option(help="The file to write. Default: FILE's name with .safetensors.")] = None,
    name: Annotated[
        str | None, Option(help="Official name of the model where the file has none (Equiformer on MD17 and QM9).")
    ] = None,
    weights: Annotated[
        Weights, Option(help="The moving average if the file has it, as published results use, or the last step.")
    ] = Weights.averaged,
    target: Annotated[
        str | None, Option(help="What it predicts, where the file does not say: energy, or a target of QM9 such as mu.")
    ] = None,
) -> None:
    """Convert an official checkpoint. Nothing in it is executed."""
    from shlex import quote

    from covarium.cli.console import commands, say
    from covarium.workflows.converting import convert_file

    place = out or Path(file.name).with_suffix(".safetensors")
    for note in convert_file(file, place, name=name, weights=weights.value, target=target):
        say(note)
    say(f"model:  {place}")
    commands("Next:", [f"covarium info {quote(str(place))}", f"covarium evaluate {quote(str(place))} FILE"])

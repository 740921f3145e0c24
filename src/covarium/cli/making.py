"""``covarium make``: data whose physics is exact, in files that ``covarium train`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

app = typer.Typer(no_args_is_help=True)

Out = Annotated[Path, Argument(metavar="FILE", help="npz file to write.")]
Samples = Annotated[int, Option(min=1, help="How many.")]
Seed = Annotated[int, Option(min=0, help="Of everything that is drawn.")]


@app.callback()
def make() -> None:
    """Make samples of geometric tokens whose physics is exact."""


@app.command()
def nbody(
    file: Out,
    samples: Samples = 1000,
    planets: Annotated[int, Option(min=1, help="Of each star.")] = 5,
    shifted: Annotated[bool, Option("--shifted", help="From the shifted domain, 200 further along x.")] = False,
    seed: Seed = 0,
) -> None:
    """A star and its planets before and after 0.1 units of time, as in the n-body experiment of GATr."""
    from covarium.cli.console import say
    from covarium.physics.gravity import NBody
    from covarium.workflows.making import write_nbody

    write_nbody(file, NBody(planets=planets), samples, seed, shifted=shifted)
    say(f"{samples} systems of a star and {planets} planets: {file}")


@app.command()
def tubes(
    file: Out,
    samples: Samples = 100,
    rings: Annotated[int, Option(min=2, help="Of vertices along each tube.")] = 16,
    around: Annotated[int, Option(min=3, help="Vertices in a ring.")] = 12,
    seed: Seed = 0,
) -> None:
    """Straight and curved tubes of varying radius with the shear stress of viscous flow on their walls."""
    from covarium.cli.console import say
    from covarium.workflows.making import write_tubes

    write_tubes(file, samples, rings, around, seed)
    say(f"{samples} tubes of {rings * around} vertices: {file}")

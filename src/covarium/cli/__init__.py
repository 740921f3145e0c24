"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import Annotated, NoReturn

import typer

from covarium import __version__
from covarium.cli import checking, converting, data, making, slmc, training, using
from covarium.cli.attention import attention
from covarium.cli.bench import bench
from covarium.cli.doctor import doctor
from covarium.errors import CovariumError

app = typer.Typer(
    name="covarium",
    epilog="--debug, anywhere on the line, shows where an error came from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    training.train, using.evaluate, using.predict, using.md, using.relax, using.info, converting.convert, training.demo,
    doctor, bench, attention, slmc.slmc,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.add_typer(checking.app, name="check")
app.add_typer(making.app, name="make")
app.add_typer(data.app, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Equivariant transformers for atoms: train them on your data, judge them, and simulate with them."""


def main() -> None:
    """Run a command. An error is one message on stderr and exit code 2; ``--debug`` adds the traceback. A warning is
    one line on stderr.

    Exit code 1 is a run that was interrupted, a simulation that stopped or did not converge, or a check that failed.
    """
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            sys.exit(app(arguments, prog_name="covarium", standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort) as stop:
        if isinstance(stop.__cause__, EOFError):  # of a file: the option parser takes every one for a closed terminal
            _fail(stop.__cause__, arguments, debug)
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        _fail(error, arguments, debug)


def _fail(error: Exception, arguments: list[str], debug: bool) -> NoReturn:
    """Say what is wrong and end."""
    if debug:
        traceback.print_exception(error)
    if message := _explain(error, next((a for a in arguments if not a.startswith("-")), "")):
        typer.echo(f"error: {message}", err=True)
    sys.exit(2)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """In place of Python's own, which shows a line of source."""
    typer.echo(f"warning: {' '.join(str(message).split())}", err=True)


def _explain(error: Exception, command: str) -> str:
    """What the user can do about it."""
    if hasattr(error, "format_message"):  # of the option parser; empty when it has shown the help instead
        return str(error.format_message()).replace("Value error, ", "")
    if isinstance(error, CovariumError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f" '{error.filename}'" if error.filename else ""
        return f"{error.strerror}{where}"
    starved = any(text in str(error) for text in ("out of memory", "can't allocate memory"))
    if starved or isinstance(error, MemoryError):
        if command == "train":
            return (
                "out of memory; name what there is by --memory, e.g. --memory 8GB, or lower --set "
                "training.batch_size=… (training.accumulate keeps the size of the steps)"
            )
        if command in ("evaluate", "predict", "md", "relax"):
            return "out of memory; name what there is by --memory, e.g. --memory 8GB; or use fewer atoms"
        return "out of memory; use structures of fewer atoms, --dtype float32, or --device cpu"
    return f"{type(error).__name__}: {error} (this should not happen; --debug shows where it came from)"

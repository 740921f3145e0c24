"""``covarium evaluate``, ``predict``, ``md``, ``relax`` and ``info``: what a trained model is for."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from typer import Argument, BadParameter, Exit, Option

from covarium.cli.options import (
    Compile,
    Device,
    Dtype,
    File,
    Files,
    Memory,
    Model,
    Precision,
    Settings,
    Threads,
    simulated,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from torch.nn import Module

    from covarium.config import DataSection
    from covarium.workflows.kinds import Kind
    from covarium.workflows.loaded import LoadedPotential, LoadedTask


class Ensemble(StrEnum):
    nve = "nve"
    langevin = "langevin"
    npt = "npt"


class Optimiser(StrEnum):
    lbfgs = "lbfgs"
    bfgs = "bfgs"
    bfgs_line = "bfgs_line"
    fire = "fire"


Index = Annotated[int | None, Option(help="Which structure of FILE, from 0. Default: the last.")]


def evaluate(
    model: Model,
    files: Files,
    json: Annotated[
        Path | None, Option(help="Write the errors in eV and Å (of tokens, in the units of the data) to this file.")
    ] = None,
    out: Annotated[
        Path | None, Option(help="Folder for report.html (parity plots, worst frames) and errors.json.")
    ] = None,
    settings: Settings = None,
    device: Device = None,
    dtype: Precision = None,
    threads: Threads = None,
    memory: Memory = None,
    compile: Compile = False,
) -> None:
    """Errors of a model on labelled structures, or on samples of tokens."""
    from covarium.cli.console import counting, say, table
    from covarium.workflows.evaluation import ERRORS, data_settings, refuse_targets, write_json, write_report

    refuse_targets(files, json, out)
    loaded, kind = loaded_task(model, device, dtype, threads, compile=compile)
    data = data_settings(settings or [])
    _keep_within_files(memory, loaded, files, data)
    with counting("evaluating") as progress:
        notes, evaluation = kind.evaluate_files(loaded, files, data, progress)
    for note in notes:
        say(note)
    for shown in evaluation.tables():
        table(shown.title, shown.header, shown.rows)
    about = {"model": str(loaded.path), "files": [str(file) for file in files], **kind.about(loaded.task)}
    targets = [json] if json else []
    if out is not None:
        write_report(loaded.path, notes, kind.sections(evaluation), out / "report.html")
        say(f"report: {out / 'report.html'}")
        targets.append(out / ERRORS)
    for target in targets:
        write_json(evaluation.to_json(), target, about)
        say(f"errors: {target}")


def predict(
    model: Model,
    files: Files,
    out: Annotated[Path, Option(help="New extxyz file for the structures with what was predicted.")] = Path(
        "predicted.extxyz"
    ),
    settings: Settings = None,
    device: Device = None,
    dtype: Precision = None,
    threads: Threads = None,
    memory: Memory = None,
    compile: Compile = False,
) -> None:
    """Energy, forces and stress of structures, or the property that the model was trained on."""
    from covarium.cli.console import counting, say
    from covarium.workflows.evaluation import data_settings

    loaded, kind = loaded_task(model, device, dtype, threads, compile=compile)
    data = data_settings(settings or [])
    _keep_within_files(memory, loaded, files, data)
    with counting("predicting") as progress:
        count = kind.predict(loaded, files, out, data, progress)
    for what, meaning in kind.about(loaded.task).items():
        say(f"{what}: {meaning}")
    say(f"{count} structures with {kind.predicted(loaded.task)}: {out}")


def md(
    model: Model,
    file: Annotated[Path | None, Argument(help="Structure: anything ASE reads. Not needed with --resume.")] = None,
    ensemble: Annotated[
        Ensemble | None,
        Option(help="Constant energy, temperature, or temperature and pressure. Default: langevin."),
    ] = None,
    temperature: Annotated[
        float | None, Option(help="K. Default: 300; with nve, the momenta of the structure where it has any.")
    ] = None,
    time: Annotated[str | None, Option(metavar="DURATION", help="Simulated time, e.g. 5ps. Default: 1ps.")] = None,
    steps: Annotated[int | None, Option(min=0, help="Instead of --time.")] = None,
    timestep: Annotated[float | None, Option(help="fs. Default: 0.5.")] = None,
    pressure: Annotated[float | None, Option(help="GPa, for npt. Default: 0.")] = None,
    interval: Annotated[int | None, Option(min=1, help="Steps between saved frames. Default: 10.")] = None,
    index: Index = None,
    out: Annotated[Path, Option(help="Folder for trajectory, log, report.html and the state to resume from.")] = Path(
        "md"
    ),
    resume: Annotated[
        bool, Option("--resume", help="Continue the run in --out with its own settings, to --time or --steps in all.")
    ] = False,
    device: Device = None,
    dtype: Precision = None,
    threads: Threads = None,
    memory: Memory = None,
    compile: Compile = False,
    seed: Annotated[int | None, Option(min=0, help="Of velocities and thermostat. Default: 0.")] = None,
) -> None:
    """Molecular dynamics with a model.

    Stops with a reason and exit code 1 when atoms overlap, the temperature jumps or memory runs out.
    """
    from covarium.cli.console import commands, say, stepping
    from covarium.simulation import md as run_md
    from covarium.simulation import resume_md, saved_settings
    from covarium.workflows.dynamics import new_settings, resumed_settings
    from covarium.workflows.loaded import read_structure
    from covarium.workflows.simulated import REPORT, dynamics_report

    if time is not None and steps is not None:
        raise BadParameter("give --time or --steps, not both")
    if memory is not None and resume:
        raise BadParameter("--resume goes on with what --memory decided when the run began; leave it out")
    if compile and resume:
        raise BadParameter("--resume goes on as the run began, compiled or not; leave --compile out")
    if file is None and not resume:
        raise BadParameter("name a structure file; only --resume needs none")
    options = {
        "ensemble": None if ensemble is None else ensemble.value, "temperature": temperature, "timestep": timestep,
        "pressure": pressure, "interval": interval, "seed": seed, "steps": steps,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    length = None if time is None else simulated(time)
    compile = compile or (resume and saved_settings(out).compiled)
    loaded = loaded_potential(model, device, dtype, threads, compile=compile)
    atoms, which = None, f"resumed in {out}"
    if resume or file is None:
        settings = resumed_settings(out, given, length)
    else:
        atoms, which = read_structure(file, index)
        settings = new_settings(atoms, given, length)
    kelvin = f"{settings.temperature:g} K" if settings.temperature is not None else "momenta of the structure kept"
    gpa = f", {settings.pressure:g} GPa" if settings.ensemble == "npt" else ""
    if atoms is not None:
        _keep_within(memory, loaded, [atoms])
        chosen = loaded.potential.model
        settings = replace(settings, tile=chosen.tile, keep=chosen.keep, remember=chosen.remember)
    calculator = loaded.calculator()
    say(f"{which}; {settings.steps} steps of {settings.timestep:g} fs, {settings.ensemble}, {kelvin}{gpa}")
    with stepping("md") as progress:
        if atoms is None:
            result = resume_md(out, calculator, steps=settings.steps, progress=progress)
        else:
            result = run_md(atoms, calculator, settings, out, progress=progress)
    say(f"{result.steps} steps: {result.reason}" + (f". {result.message}" if result.message else ""))
    if result.temperature is not None:
        say(f"mean temperature {result.temperature:.0f} K")
    if result.drift is not None:
        ps = result.steps * settings.timestep / 1e3
        say(f"drift of the total energy {result.drift:+.4f} meV/atom/ps over {ps:g} ps")
    go_on = f"covarium md {quote(str(model))} --resume --out {quote(str(out))} --steps {2 * settings.steps}"
    dynamics_report(result, settings, out / REPORT, [go_on])
    _show_files({**result.files, "report": out / REPORT})
    commands("Go on:", [go_on])
    if result.reason != "finished":
        raise Exit(1)


def relax(
    model: Model,
    file: File,
    fmax: Annotated[float, Option(help="Largest force at the end, eV/Å.")] = 0.01,
    cell: Annotated[bool, Option("--cell", help="Relax the lattice too.")] = False,
    pressure: Annotated[float, Option(help="GPa, with --cell.")] = 0.0,
    steps: Annotated[int, Option(min=0, help="At most.")] = 500,
    optimiser: Annotated[Optimiser, Option(help="Method.")] = Optimiser.bfgs,
    index: Index = None,
    out: Annotated[Path, Option(help="Folder for relaxed.extxyz, trajectory.extxyz and report.html.")] = Path("relax"),
    device: Device = None,
    dtype: Annotated[Dtype, Option(help="Precision of the arithmetic.")] = Dtype.float64,
    threads: Threads = None,
    memory: Memory = None,
    compile: Compile = False,
) -> None:
    """The nearest minimum of the energy, from a structure. Exit code 1 if it was not reached."""
    from covarium.cli.console import commands, say, stepping
    from covarium.simulation import RelaxSettings
    from covarium.simulation import relax as run_relax
    from covarium.workflows.loaded import read_structure
    from covarium.workflows.simulated import REPORT, relaxation_report

    settings = RelaxSettings(fmax=fmax, steps=steps, optimiser=optimiser.value, cell=cell, pressure=pressure)
    loaded = loaded_potential(model, device, dtype, threads, compile=compile)
    atoms, which = read_structure(file, index)
    say(which)
    _keep_within(memory, loaded, [atoms])
    with stepping("relax") as progress:
        result = run_relax(atoms, loaded.calculator(), settings, out, progress=progress)
    say(f"{result.steps} steps: {result.reason}" + (f". {result.message}" if result.message else ""))
    if result.energies:
        change = result.energies[-1] - result.energies[0]
        say(f"energy {result.energies[-1]:.6f} eV, changed by {change:+.6f} eV")
    if result.fmax is not None:
        say(f"largest force {result.fmax:.4g} eV/Å")
    last = result.files.get("relaxed", file)
    go_on = f"covarium md {quote(str(model))} {quote(str(last))} --temperature 300 --time 5ps"
    relaxation_report(result, settings, atoms, out / REPORT, [go_on])
    _show_files({**result.files, "report": out / REPORT})
    commands("Go on:", [go_on])
    if result.reason != "converged":
        raise Exit(1)


def info(model: Model) -> None:
    """What a model is, what it was trained on, and how good it was."""
    from covarium.cli.console import findings
    from covarium.workflows.loaded import describe

    loaded, kind = loaded_task(model, "cpu", None, None)
    for title, rows in describe(loaded, kind.describe(loaded.task), kind.unit(loaded.task)).items():
        findings(title, rows)


def _keep_within(memory: str | None, loaded: LoadedPotential, structures: Sequence[Atoms]) -> None:
    """Set the model's tile by the memory that was named, if any."""
    from covarium.cli.console import say
    from covarium.workflows.memory import of_structures

    if memory is not None:
        say(of_structures(loaded.potential, structures, memory))


def _keep_within_files(memory: str | None, loaded: LoadedTask, files: list[Path], data: DataSection) -> None:
    """The same for all structures of files."""
    from covarium.cli.console import say
    from covarium.workflows.memory import of_files

    if memory is not None:
        say(of_files(loaded.task, files, data, memory))


def loaded_potential(
    model: Path, device: str | None, dtype: Dtype | None, threads: int | None, *, compile: bool
) -> LoadedPotential:
    """The model on its device, in its precision, after the number of threads was set."""
    from covarium.workflows.loaded import as_potential

    return as_potential(loaded_task(model, device, dtype, threads, compile=compile)[0])


def loaded_task(
    model: Path, device: str | None, dtype: Dtype | None, threads: int | None, *, compile: bool = False
) -> tuple[LoadedTask, Kind]:
    """The same of any kind, and its kind."""
    from covarium.cli.compiling import uncompiled
    from covarium.cli.console import say
    from covarium.workflows.compiling import compile_task
    from covarium.workflows.device import use_threads
    from covarium.workflows.kinds import kind_of_task
    from covarium.workflows.loaded import load_task

    use_threads(threads)
    loaded = load_task(model, device=device, dtype=None if dtype is None else dtype.value)
    _show_arithmetic(loaded.task.model)
    if compile:
        compile_task(loaded.task, uncompiled(), say)
    return loaded, kind_of_task(loaded)


def _show_arithmetic(model: Module) -> None:
    from covarium.cli.console import say
    from covarium.workflows.arithmetic import in_words

    if words := in_words(model):
        say(words)


def _show_files(files: dict[str, Path]) -> None:
    from covarium.cli.console import findings

    findings("", [(name, str(path), "") for name, path in files.items()])

"""``covarium train`` and ``covarium demo``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, BadParameter, Exit, Option

from covarium.cli.options import Compile, Device, Dtype, Memory, Settings, Threads, duration

if TYPE_CHECKING:
    from covarium.workflows.inference import Plan
    from covarium.workflows.training_run import Outcome

# names only: --help imports nothing heavy
RECIPES = ", ".join(sorted(file.stem for file in (Path(__file__).parents[1] / "workflows" / "recipes").glob("*.yaml")))

Labelled = Annotated[
    list[Path] | None,
    Argument(
        metavar="FILE",
        help="Labelled structures: what ASE reads, npz, LMDB, HDF5, also compressed, or .frames; or samples of tokens: "
        "npz, HDF5.",
    ),
]


def train(
    files: Labelled = None,
    model: Annotated[
        str | None, Option(help="Published model to train, e.g. equiformer_v2, torchmd_et or gatr.")
    ] = None,
    property: Annotated[
        str | None, Option(metavar="KEY", help="Learn this key of the files, a scalar or a vector, not a potential.")
    ] = None,
    recipe: Annotated[
        str | None, Option(help=f"Experiment to start from: {RECIPES}. Default: molecules, properties or tokens.")
    ] = None,
    config: Annotated[Path | None, Option(help="YAML file, e.g. config.resolved.yaml of another run.")] = None,
    settings: Settings = None,
    task: Annotated[
        str | None, Option(help="potential, or denoise: one that also learns to denoise displaced structures.")
    ] = None,
    valid: Annotated[list[Path] | None, Option(help="Validation file. Default: a part of FILE.")] = None,
    test: Annotated[list[Path] | None, Option(help="File for the error table at the end.")] = None,
    time: Annotated[
        str | None, Option(metavar="DURATION", help="Length of training, e.g. 30m; the schedule is fitted to it.")
    ] = None,
    epochs: Annotated[int | None, Option(min=1, help="Length in passes over the data.")] = None,
    out: Annotated[Path | None, Option(help="Folder of the run. Default: runs/NAME-OF-FILE.")] = None,
    resume: Annotated[Path | None, Option(metavar="RUN", help="Continue the run in this folder.")] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Say what would be done, with time and memory, and stop.")
    ] = False,
    device: Device = None,
    dtype: Annotated[Dtype | None, Option(help="Precision of weights and arithmetic. Default: float32.")] = None,
    threads: Threads = None,
    memory: Memory = None,
    compile: Compile = False,
    seed: Annotated[int | None, Option(min=0, help="Of weights, split and order. Default: 0.")] = None,
) -> None:
    """Train a potential on labelled structures, a property (--property), or a model of samples of geometric tokens.

    Needs nothing but a file: label keys, units, split, reference energies and sizes are inferred and printed.
    --time covers training with validation and saving; reading, estimate, error table (at most half the time again, by
    fewer frames) and report come on top.
    """
    from covarium.cli.compiling import uncompiled
    from covarium.cli.console import counting
    from covarium.workflows.configuring import configure
    from covarium.workflows.kinds import infer, recipe_for
    from covarium.workflows.training_run import resumed_config

    given = _given(
        {"train": files, "valid": valid, "test": test}, {"name": model}, {"kind": task}, time, epochs,
        {"device": device, "dtype": dtype, "threads": threads, "memory": memory, "seed": seed,
         "compile": compile or None},
    )  # fmt: skip
    if memory is not None:
        given |= {"tile": None, "keep": 0}  # those of the run were for another memory
    if resume is not None:
        if any((files, model, property, recipe, config, task, valid, test, out, dtype, seed is not None)):
            raise BadParameter(
                "--resume goes with --time, --epochs, --device, --threads, --memory and --set; the rest is in the run"
            )
        resolved = resumed_config(resume, given, settings or [])
        folder = resume
    else:
        if property is not None:
            if task is not None:
                raise BadParameter("--task is of potentials; leave it out with --property")
            given["task"]["property"] = {"name": property}
        default = recipe_for(given, settings or [])
        resolved = configure(recipe=recipe, file=config, given=given, assignments=settings or [], default=default)
        stem = resolved.data.train[0].name.split(".")[0] if resolved.data.train else "run"
        folder = out or Path("runs") / stem
    told = "given" if resume is None and config is None else "from the configuration"
    with counting("counting neighbours") as counted:
        # a configuration may ask for it too
        instead = uncompiled(*(("--set", "compile=false") if config or resume else ()))
        planned = infer(resolved, told=told, progress=counted, uncompiled=instead)
    _run(planned, folder, resume=resume is not None, dry_run=dry_run)


def _given(
    data: dict[str, list[Path] | None],
    model: dict[str, Any],
    task: dict[str, Any],
    time: str | None,
    epochs: int | None,
    top: dict[str, Any],
) -> dict[str, Any]:
    """The sections that options speak of."""
    given: dict[str, Any] = {key: value for key, value in top.items() if value is not None}
    given["data"] = {key: [str(path) for path in paths] for key, paths in data.items() if paths}
    given["model"] = {key: value for key, value in model.items() if value is not None}
    given["task"] = {key: value for key, value in task.items() if value is not None}
    if time is not None or epochs is not None:
        # a length that was asked for replaces the recipe's
        given["training"] = {"time_s": duration(time) if time else None, "epochs": epochs, "steps": None}
    return given


def _run(plan: Plan, folder: Path, *, resume: bool, dry_run: bool) -> None:
    from covarium.training import RichProgress, announced
    from covarium.training import estimate as estimate_run
    from covarium.workflows.training_run import refuse_unwritable, refuse_used, run

    ranks = announced()
    if not ranks.first:
        if not dry_run:
            run(plan, folder, resume=resume)
        return
    if not dry_run:
        if not resume:
            refuse_used(folder)
        refuse_unwritable(folder)
    _show_plan(plan)
    from covarium.cli.console import findings, memory, say, seconds

    if plan.config.compile:
        plan.task.compiled.tell = say
    needs = estimate_run(plan.task, plan.train, plan.settings, ranks)
    findings("", [
        ("estimate", f"{seconds(needs.seconds)}, {memory(needs.peak_bytes)}",
         f"{needs.seconds_per_step:.3g} s per step, {needs.epochs:.0f} epochs; measured on the costliest batch"),
        ("folder", str(folder), ""),
    ])  # fmt: skip
    if dry_run:
        say("\nDry run: nothing was written.")
        return
    say("")
    with RichProgress() as progress:
        outcome = run(plan, folder, progress=progress, resume=resume)
    _show_outcome(outcome)


def _show_plan(plan: Plan) -> None:
    from covarium.cli.console import findings, say

    findings("What is going to be done", [(f.what, f.value, f.origin) for f in plan.findings])
    for note in plan.notes:
        say(f"note: {note}")


def _show_outcome(outcome: Outcome) -> None:
    from covarium.cli.console import commands, say

    say(f"\n{outcome.result.reason[:1].upper()}{outcome.result.reason[1:]}.")
    say(f"Time: {outcome.result.shares}.")
    if not outcome.result.interrupted:
        say(f"{outcome.result.verdict[:1].upper()}{outcome.result.verdict[1:]}.")
    _show_errors(outcome)
    if not outcome.result.interrupted:
        say(f"model:  {outcome.model}")
        say(f"report: {outcome.report}")
    commands("Next:", outcome.next_commands)
    if outcome.result.interrupted:
        raise Exit(1)


def _show_errors(outcome: Outcome) -> None:
    from covarium.cli.console import table

    for part, evaluation in outcome.evaluations.items():
        for shown in evaluation.tables():
            table(f"{shown.title} ({part})", shown.header, shown.rows)


def demo(
    out: Annotated[Path, Option(help="Folder for everything it makes; if in use, the next free name.")] = Path("demo"),
    frames: Annotated[int, Option(min=20, help="Structures to label.")] = 600,
    time: Annotated[str, Option(metavar="DURATION", help="Of training.")] = "5m",
    threads: Annotated[int, Option(min=1, help="CPU threads; more than one does not help so small a model.")] = 1,
    seed: Annotated[int, Option(min=0, help="Of sampling and training.")] = 0,
) -> None:
    """The whole way on a small molecule in ten minutes: label, train, judge, simulate, report."""
    from covarium.cli.console import commands, counting, findings, say, stepping
    from covarium.training import RichProgress
    from covarium.workflows import demo as stages
    from covarium.workflows.inference import infer
    from covarium.workflows.training_run import run

    budget = duration(time)
    folder = stages.free_folder(out)
    say(f"1. {frames} structures of {stages.MOLECULE} at {stages.TEMPERATURE:g} K, labelled by {stages.METHOD}")
    with counting("labelling") as counted:
        labels = stages.make_labels(folder / "data", frames, seed, counted)
    say(f"   {labels.train}, {labels.test}\n\n2. Training for {time}")
    plan = infer(stages.configuration(labels, budget, threads, seed))
    _show_plan(plan)
    with RichProgress() as progress:
        outcome = run(plan, folder / "run", progress=progress)
    if outcome.result.interrupted:
        _show_outcome(outcome)
    say(f"   {outcome.result.verdict}\n\n3. Errors on held-out structures")
    _show_errors(outcome)
    say("4. Relaxation, then dynamics at constant energy, with the trained model")
    with stepping("simulating") as stepped:
        done = stages.simulate(outcome, labels, folder, stepped)
    findings("", done.findings())
    program = _program()
    own = [
        f"{program} train YOUR.extxyz --time 30m",
        f"{program} evaluate runs/YOUR TEST.extxyz --out errors",
        f"{program} md runs/YOUR START.xyz --temperature 300 --time 5ps",
    ]
    path = folder / "report.html"
    stages.write_report(plan, outcome, done, own, path)
    commands("Next, with your own data:", own)
    say(f"\n{path}")


def _program() -> str:
    """How the user calls this: by name, or by its place when it is not on the path."""
    if shutil.which("covarium"):
        return "covarium"
    place = Path(sys.argv[0])
    return "python -m covarium" if place.name == "__main__.py" else os.path.relpath(place)

"""``covarium check data``: what is wrong with labelled structures, before it is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from covarium.cli.options import Files, Settings

if TYPE_CHECKING:
    from covarium.workflows.inspecting import Inspection

PLACES = 3  # of each finding on the terminal


def data(
    files: Files,
    train: Annotated[
        list[Path] | None, Option(metavar="FILE", help="Training set: find its structures in FILE, and new elements.")
    ] = None,
    model: Annotated[
        Path | None, Option(metavar="MODEL", help="Find elements that this trained model does not know.")
    ] = None,
    cutoff: Annotated[float | None, Option(help="Å, how far a model looks. Default: that of MODEL, else 6.")] = None,
    accept: Annotated[
        list[str] | None, Option(metavar="KIND", help="A kind of error that is to be a warning, e.g. overlap.")
    ] = None,
    json: Annotated[Path | None, Option(help="Write every finding with every place to this file.")] = None,
    out: Annotated[Path | None, Option(help="Folder for report.html (histograms, structures), findings.json.")] = None,
    settings: Settings = None,
) -> None:
    """Labels, units, copies, leaks, overlaps, forces that should vanish, damage.

    Exit code 1 if errors are found, 0 with warnings only, 2 if the files cannot be used at all.
    """
    from covarium.cli.console import counting, say
    from covarium.workflows.inspecting import inspect, write_json, write_report

    with counting("checking") as progress:
        inspection = inspect(
            files, train=train or (), model=model, cutoff=cutoff, accept=accept or (), assignments=settings or (),
            progress=lambda done: progress(done, done),
        )  # fmt: skip
    _show(inspection)
    targets = [json] if json else []
    if out is not None:
        write_report(inspection, out / "report.html")
        say(f"report: {out / 'report.html'}")
        targets.append(out / "findings.json")
    for target in targets:
        write_json(inspection, target)
        say(f"findings: {target}")
    if inspection.errors:
        raise Exit(1)


def _show(inspection: Inspection) -> None:
    from covarium.cli.console import findings, say

    findings("", [(name, value, "") for name, value in inspection.facts().items()])
    for found in inspection.findings:
        say(f"\n{found.level.upper()}  {found.kind}: {found.text}")
        for place in found.places[:PLACES]:
            say(f"    {place}")
        if len(found.places) > PLACES:
            say(f"    … {len(found.places) - PLACES} more (--json FILE has all)")
        say(f"    remedy: {found.remedy}")
    if inspection.findings:
        _table(inspection)
    say(f"left out: {'; '.join(inspection.left_out())}")
    warnings = len(inspection.findings) - inspection.errors
    say(f"{len(inspection.survey.columns)} frames, {inspection.errors} errors, {warnings} warnings")


def _table(inspection: Inspection) -> None:
    from covarium.cli.console import table

    rows = [(f"{f.kind}: {f.title}", f.level, str(len(f.places))) for f in inspection.findings]
    table("", ("finding", "level", "places"), rows)

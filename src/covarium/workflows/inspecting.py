"""What is wrong with labelled files: a survey, its verdicts, and how they are told to people and to programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from covarium import __version__
from covarium.analysis import report
from covarium.analysis.errors import Table
from covarium.analysis.histograms import counted, element_counts, histogram
from covarium.data import Frame
from covarium.data.findings import Finding, Place, accepted, finding
from covarium.data.force_verdicts import forces_judged
from covarium.data.survey import FORCE_BINS, NEAR_BINS, Survey
from covarium.data.verdicts import References, references, unknown_elements, verdicts
from covarium.errors import CovariumError
from covarium.files import replace_file
from covarium.workflows.evaluation import data_settings
from covarium.workflows.loaded import load

SHOWN = 200  # places of one finding in the HTML page; the JSON file has all
CUTOFF = 6.0  # Å

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Inspection:
    """Everything about some files.

    Attributes:
        survey: of the files.
        references: of its energies.
        findings: errors first.
        training: what the files were compared with, empty if nothing.
    """

    survey: Survey
    references: References
    findings: list[Finding]
    training: str

    @property
    def errors(self) -> int:
        return sum(found.level == "error" for found in self.findings)

    def facts(self) -> dict[str, str]:
        """Name → value, for the top of a table or a page."""
        survey, columns = self.survey, self.survey.columns
        atoms = columns["atoms"]
        symbols = " ".join(chemical_symbols[z] for z in sorted(survey.elements))
        have = ", ".join(f"{label} {survey.labels[label]}" for label in ("energy", "forces", "stress"))
        sizes = " to ".join(f"{size:.0f}" for size in dict.fromkeys((atoms.min(initial=np.inf), atoms.max(initial=0))))
        keys = ", ".join(f"{label} from {' or '.join(names)}" for label, names in survey.keys.items() if names)
        facts = {
            "frames": str(len(columns)),
            "atoms": f"{atoms.sum():.0f}, {sizes} per frame",
            "elements": symbols,
            "labels": have,
            "keys": keys or "none",
        }
        if survey.labels["forces"]:
            facts["forces"] = forces_judged(survey)
        if survey.fixed:
            facts["frozen atoms"] = f"{survey.fixed}, left out of force losses and errors"
        if self.references.energies:
            facts["spread"] = f"{self.references.spread:.4g} eV per atom after element references"
        return facts

    def left_out(self) -> list[str]:
        """What is in no number, counted."""
        survey, columns = self.survey, self.survey.columns
        volumes = int(np.isfinite(columns["volume"]).sum())
        frames = len(columns)
        counts = {
            "frames that are no valid structures": len(survey.notes["invalid"]),
            "places that could not be read": len(survey.notes["unreadable"]),
            "frames without energy": frames - survey.labels["energy"],
            "frames without forces": frames - survey.labels["forces"],
            "periodic frames without stress": volumes - survey.labels["stress"],
            f"frames without two atoms within {survey.cutoff:g} Å, in no histogram of distances": int(
                np.isinf(columns["near"]).sum()
            ),
        }
        return [f"{count} {what}" for what, count in counts.items() if count] or ["nothing"]


def inspect(
    files: Sequence[Path],
    *,
    train: Sequence[Path] = (),
    model: Path | None = None,
    cutoff: float | None = None,
    accept: Sequence[str] = (),
    assignments: Sequence[str] = (),
    progress: Progress | None = None,
) -> Inspection:
    """Go through files and judge them.

    Args:
        files: labelled structures.
        train: the training set they are meant to be apart from.
        model: a trained model they are meant for: its elements, and its cutoff unless one is given.
        cutoff: Å, how far a model looks.
        accept: kinds of errors that are to be warnings.
        assignments: texts like ``data.keys.energy=E_dft``.
        progress: told the number of frames.

    Raises:
        CovariumError: nothing can be read, or an argument is wrong.
    """
    settings = data_settings(assignments)
    accept = [*accept, *settings.accept]
    accepted([], accept)
    loaded = None if model is None else load(model, device="cpu")
    if cutoff is None:
        cutoff = CUTOFF if loaded is None else loaded.potential.model.spec.cutoff
    if not cutoff > 0:
        raise CovariumError(f"--cutoff must be positive, got {cutoff:g}")
    survey = Survey(cutoff, keys=settings.keys, units=settings.units)
    extra = list(_read(survey, files, progress))
    training = None
    if train:
        training = Survey(cutoff, keys=settings.keys, units=settings.units)
        for path in train:
            training.read(path)
    found = references(survey)
    findings = [*extra, *verdicts(survey, found, training)]
    if loaded is not None:
        findings += unknown_elements(survey, set(loaded.potential.elements))
    named = [str(path) for path in [*train, *([model] if model else [])]]
    return Inspection(survey, found, accepted(findings, accept), ", ".join(named))


def _read(survey: Survey, files: Sequence[Path], progress: Progress | None) -> Iterator[Finding]:
    """All files; one that cannot be read at all is a finding beside others, and refused alone."""
    failed: list[CovariumError] = []
    for path in files:
        try:
            survey.read(path, progress)
        except CovariumError as error:
            failed.append(error)
            if len(failed) == len(files) or not path.is_file():
                raise
            yield finding("unreadable", str(error), [Place(str(path), None)])


def write_json(inspection: Inspection, path: Path) -> None:
    """Facts, and every finding with every place, for programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_json(inspection), indent=1, ensure_ascii=False)
    replace_file(path, lambda place: place.write_text(text + "\n", encoding="utf-8"))


def to_json(inspection: Inspection) -> dict[str, Any]:
    """What ``write_json`` writes."""
    energies = {chemical_symbols[z]: energy for z, energy in inspection.references.energies.items()}
    return {
        "covarium": __version__,
        "files": inspection.survey.sources,
        "compared_with": inspection.training,
        "errors": inspection.errors,
        "warnings": len(inspection.findings) - inspection.errors,
        "facts": inspection.facts(),
        "references_eV": energies,
        "left_out": inspection.left_out(),
        "findings": [
            {
                "kind": found.kind,
                "level": found.level,
                "text": found.text,
                "remedy": found.remedy,
                "count": len(found.places),
                "places": [{"file": p.source, "frame": p.frame, "note": p.note} for p in found.places],
            }
            for found in inspection.findings
        ],
    }


def write_report(inspection: Inspection, path: Path) -> None:
    """One HTML page with the findings, where they are, histograms, and structures to look at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ", ".join(Path(source).name for source in inspection.survey.sources)
    report.write(path, f"Check of {names}", list(_sections(inspection)), subtitle=f"covarium {__version__}")


def summary(inspection: Inspection) -> Table:
    """One row for each finding."""
    rows = tuple((f.level, f.kind, str(len(f.places)), f.title) for f in inspection.findings)
    return Table("Findings", ("level", "kind", "places", "what"), rows)


def _sections(inspection: Inspection) -> Iterator[report.Section]:
    total = inspection.errors, len(inspection.findings) - inspection.errors
    against = [f"Compared with {inspection.training}."] if inspection.training else []
    yield report.Section(
        "Summary",
        text=[f"{total[0]} errors, {total[1]} warnings.", *against],
        facts=inspection.facts(),
        tables=[summary(inspection)] if inspection.findings else [],
    )
    for found in inspection.findings:
        rows = tuple(
            (Path(p.source).name, "—" if p.frame is None else str(p.frame), p.note) for p in found.places[:SHOWN]
        )
        more = len(found.places) - len(rows)
        text = [f"{found.level}: {found.text}.", f"Remedy: {found.remedy}."]
        yield report.Section(
            f"{found.title[:1].upper()}{found.title[1:]}",
            text=[*text, f"{more} more places are in the JSON file."] if more else text,
            tables=[Table("Where", ("file", "frame", "what"), rows)],
            structures=_structures(inspection.survey.kept.get(found.kind, [])),
        )
    yield report.Section("Histograms", figures=list(_figures(inspection)))
    yield report.Section("Left out", text=inspection.left_out())


def _structures(frames: Sequence[Frame]) -> list[report.Structure]:
    return [
        report.Structure(
            f"frame {frame.index} of {Path(frame.source).name}", frame.numbers, frame.positions,
            frame.cell if frame.pbc.any() else None, frame.fixed,
        )
        for frame in frames
        if len(frame.numbers) <= report.MAX_ATOMS
    ]  # fmt: skip


def _figures(inspection: Inspection) -> Iterator[tuple[Any, str]]:
    survey, columns = inspection.survey, inspection.survey.columns
    remaining = inspection.references.remaining
    if np.isfinite(remaining).any():
        text = "Energies per atom after element references (least absolute deviations)."
        yield histogram(remaining[np.isfinite(remaining)], "energy − references (eV per atom)"), text
    if survey.force_counts.any():
        yield counted(survey.force_counts, FORCE_BINS, "norm of the force (eV/Å)"), "Forces on single atoms."
    if survey.near_counts.any():
        text = "From each atom to the nearest one."
        yield counted(survey.near_counts, NEAR_BINS, "distance to the nearest atom (Å)"), text
    if len(columns):
        yield histogram(columns["atoms"].astype(np.int64), "atoms per frame"), "Sizes of the structures."
        yield element_counts(survey.atoms), "Atoms of each element."
    pressure = columns["pressure"]
    if np.isfinite(pressure).any():
        text = "A third of the trace of the stress; positive under tension."
        yield histogram(pressure[np.isfinite(pressure)], "stress (eV/Å³)"), text

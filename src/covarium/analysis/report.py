"""One self-contained HTML file: text, tables, pictures and a structure viewer, readable from disk without a network.

A report is a list of ``Section``; what a workflow shows is its choice. The sections of a potential are made below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.figure import Figure

from covarium.analysis import plots
from covarium.analysis.errors import Evaluation, Table
from covarium.analysis.totals import KEPT
from covarium.errors import CovariumError
from covarium.files import replace_text

MAX_ATOMS = 2000  # of one structure in the viewer
MAX_EDGES = 4000
# The browser itself refuses everything that is not in the file.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?|—|")


@dataclass(frozen=True)
class WeightedEdges:
    """Edges for the viewer: index [2, E], source j and target i; offsets [E, 3] Å from atom j to the image that i sees;
    weights: name of a choice → [E], 0 or more."""

    index: np.ndarray
    offsets: np.ndarray
    weights: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Structure:
    """Something for the viewer: numbers [n], positions [n, 3] Å, errors [n, 3] of the forces in eV/Å, if known;
    received [n], attention from other atoms in even shares, and edges, drawn by their weights."""

    label: str
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray | None = None
    fixed: np.ndarray | None = None
    errors: np.ndarray | None = None
    received: np.ndarray | None = None
    edges: WeightedEdges | None = None


@dataclass(frozen=True)
class Section:
    """A chapter of a report; what is empty is not shown.

    Attributes:
        title: heading.
        text: paragraphs.
        facts: name → value, shown as tiles.
        tables: see ``errors.Table``.
        figures: matplotlib figures with their captions.
        structures: for one viewer with a menu.
        code: shown as it is.
        commands: lines to copy, one click selects one.
        folded: text, tables, figures and code are hidden until asked for.
    """

    title: str
    text: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    figures: Sequence[tuple[Figure, str]] = ()
    structures: Sequence[Structure] = ()
    code: str = ""
    commands: Sequence[str] = ()
    folded: bool = False


def write(path: Path, title: str, sections: Sequence[Section], *, subtitle: str = "") -> None:
    """Write the report at once or not at all.

    Raises:
        CovariumError: the file cannot be written.
    """
    text = html(title, sections, subtitle=subtitle)
    replace_text(path, text)


def html(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """The report as text; everything that is not markup of this module is escaped."""
    here = files("covarium.analysis")
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "viewer.js"))
    links = "".join(f'<a href="#s{n}">{escape(s.title)}</a>' for n, s in enumerate(sections))
    body = "".join(_section(n, section) for n, section in enumerate(sections))
    viewer = f"<script>{script}</script>" if any(s.structures for s in sections) else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # a browser asks for an icon unless it is told that there is none
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p><nav>{links}</nav></header>'
        f"<main>{body}</main>{viewer}</body></html>\n"
    )


def _section(number: int, section: Section) -> str:
    parts = [f"<p>{escape(paragraph)}</p>" for paragraph in section.text]
    if section.facts:
        tiles = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in section.facts.items())
        parts.append(f'<dl class="facts">{tiles}</dl>')
    parts += [_table(table) for table in section.tables]
    parts += [_picture(f"s{number}f{k}-", figure, text) for k, (figure, text) in enumerate(section.figures)]
    if section.structures:
        parts.append(_viewer(section.structures))
    if section.code:
        parts.append(f"<pre><code>{escape(section.code)}</code></pre>")
    if section.commands:
        lines = "".join(f"<code>{escape(line)}</code>" for line in section.commands)
        parts.append(f'<pre class="commands">{lines}</pre>')
    inside = "".join(parts)
    if section.folded:
        inside = f"<details><summary>show</summary>{inside}</details>"
    return f'<section id="s{number}"><h2>{escape(section.title)}</h2>{inside}</section>'


def _table(table: Table) -> str:
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.header)
    kinds = [' class="number"' if all(NUMBER.fullmatch(cell) for cell in column) else "" for column in columns]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, table.header, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.title)}</caption>"
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _picture(prefix: str, figure: Figure, caption: str) -> str:
    svg = plots.render(figure, "svg", transparent=True).decode()
    svg = svg[svg.index("<svg") :].replace(plots.INK, "currentColor")
    # several pictures share the page: their names must not meet
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}")
    # on a narrow screen the picture scrolls sideways before its letters become too small
    narrowest = f"min-width: {56 * figure.get_figwidth():.0f}px"
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}" style="{narrowest}"', 1)
    return f'<figure><div class="wide">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _viewer(structures: Sequence[Structure]) -> str:
    options = "".join(f'<option value="{k}">{escape(s.label)}</option>' for k, s in enumerate(structures))
    # "<" never stands in the data, so nothing in it can end the script element
    data = json.dumps([_drawn(s) for s in structures], allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<div class="viewer"><div class="bar">'
        f'<select aria-label="structure">{options}</select>'
        '<label><input type="checkbox" name="error"> colour by force error</label>'
        '<label><input type="checkbox" name="arrows" checked> force error as arrows</label>'
        '<label><input type="checkbox" name="received" checked> colour by attention received</label>'
        '<label>edges <select name="layer"></select></label>'
        '<span><button type="button" name="closer" aria-label="zoom in">+</button> '
        '<button type="button" name="farther" aria-label="zoom out">−</button></span></div>'
        '<canvas tabindex="0" role="img" aria-label="structure; drag or use the arrow keys to turn it"></canvas>'
        '<output class="soft"></output>'
        f'<script type="application/json">{data}</script></div>'
    )


def _drawn(structure: Structure) -> dict[str, object]:
    """What the viewer reads. Bonds join atoms closer than 1.25 times the sum of their covalent radii."""
    n, edges = len(structure.numbers), structure.edges
    if n > MAX_ATOMS:
        raise CovariumError(f"structure '{structure.label}' has {n} atoms; the viewer shows up to {MAX_ATOMS}")
    numbers, positions = structure.numbers, np.asarray(structure.positions)
    radii = covalent_radii[numbers]
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    near = np.triu(distance < 1.25 * (radii[:, None] + radii[None]), k=1)
    fixed = np.zeros(n, dtype=bool) if structure.fixed is None else structure.fixed
    return {
        "symbols": [chemical_symbols[z] for z in numbers],
        "positions": np.round(positions, 4).tolist(),
        "colours": np.round(255 * jmol_colors[numbers]).astype(int).tolist(),
        "radii": np.round(np.maximum(radii, 0.45), 3).tolist(),
        "bonds": np.argwhere(near).tolist(),
        "fixed": fixed.tolist(),
        "cell": None if structure.cell is None else np.round(structure.cell, 4).tolist(),
        "errors": None if structure.errors is None else [_short(row) for row in structure.errors],
        "received": None if structure.received is None else _short(structure.received),
        "edges": None if edges is None else _drawn_edges(edges),
    }


def _drawn_edges(edges: WeightedEdges) -> dict[str, object]:
    """The strongest ones, where there are more than a browser draws smoothly."""
    strength = np.max(list(edges.weights.values()), axis=0)
    chosen = np.sort(np.argsort(-strength, kind="stable")[:MAX_EDGES])
    offsets = edges.offsets[chosen]
    return {
        "index": edges.index.T[chosen].tolist(),
        "offsets": np.round(offsets, 4).tolist() if offsets.any() else None,
        "weights": {name: _short(values[chosen]) for name, values in edges.weights.items()},
    }


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{x:.4g}") for x in values]


def error_sections(evaluation: Evaluation, *, of: str = "", worst: int = 5) -> list[Section]:
    """Errors with tables and parity plots, and the worst frames with a viewer.

    Args:
        evaluation: predictions beside labels.
        of: which frames these are, for the headings.
        worst: how many frames to show.
    """
    which = f": {of}" if of else ""
    errors, elements = evaluation.errors(), evaluation.per_element()
    atoms = sum(found["atoms"] for found in elements.values())
    many = max(atoms, evaluation.frames) > KEPT
    few = f" Points are a random sample of {KEPT:,}; the errors told are of all." if many else ""
    figures = []
    if "energy" in errors or atoms:
        text = "Prediction against label; brighter where points are denser."
        figures.append((plots.parity(evaluation), text + few))
    if len(elements) > 1:
        text = "Force components of each element."
        figures.append((plots.parity_per_element(evaluation), text + few))
    if atoms:
        text = "Force error of each atom against the force on it; brighter where points are denser."
        figures.append((plots.force_error_against_magnitude(evaluation), text + few))
    sections = [Section(f"Errors{which}", tables=evaluation.tables(), figures=figures)]
    found = evaluation.worst(worst)
    if found:
        rows = tuple((Path(w.file).name or "—", str(w.index), f"{w.error:.4g}", w.unit) for w in found)
        table = Table("Largest error of one atom's force, or of the energy", ("file", "frame", "error", "unit"), rows)
        shown = [w for w in found if len(w.prediction.frame.numbers) <= MAX_ATOMS]
        structures = []
        for w in shown:
            frame = w.prediction.frame
            known = w.prediction.forces is not None and "forces" in frame.labels
            structures.append(
                Structure(
                    f"frame {frame.index} of {Path(w.file).name or 'the data'}: {w.error:.3g} {w.unit}",
                    frame.numbers,
                    frame.positions,
                    frame.cell if frame.pbc.any() else None,
                    frame.fixed,
                    w.prediction.forces - frame.labels["forces"] if known else None,
                )
            )
        sections.append(Section(f"Worst frames{which}", tables=[table], structures=structures))
    return sections


def training_section(log: Path, *, facts: Mapping[str, str] | None = None, text: Sequence[str] = ()) -> Section:
    """Learning curves from the ``log.csv`` of a run.

    Raises:
        CovariumError: the log is missing, empty, or has no learning curve.
    """
    figure = plots.learning_curves(plots.read_columns(log))
    caption = "Loss over training batches, and errors on held-out frames during training."
    return Section("Training", facts=facts or {}, text=text, figures=[(figure, caption)])


def dynamics_section(
    time: np.ndarray,
    energy: np.ndarray,
    atoms: int,
    *,
    facts: Mapping[str, str] | None = None,
    text: Sequence[str] = (),
) -> Section:
    """Energy conservation of a simulation at constant energy.

    Args:
        time: [T] fs.
        energy: [T] total energy, eV.
        atoms: number of atoms.
        facts: tiles.
        text: paragraphs.
    """
    caption = (
        "Change of the total energy: an integrator's error fluctuates, a potential without energy conservation drifts."
    )
    return Section(
        "Molecular dynamics",
        facts=facts or {},
        text=text,
        figures=[(plots.energy_drift(time, energy, atoms), caption)],
    )


def relaxation_section(
    energy: np.ndarray, fmax: np.ndarray, *, target: float | None = None, facts: Mapping[str, str] | None = None
) -> Section:
    """Trace of a relaxation: energy [T] eV and largest force [T] eV/Å."""
    tiles = {"steps": str(len(energy) - 1), "energy lowered by": f"{energy[0] - energy[-1]:.4g} eV"}
    figure = plots.relaxation(energy, fmax, target)
    return Section(
        "Relaxation",
        facts={**tiles, "largest force left": f"{fmax[-1]:.3g} eV/Å", **(facts or {})},
        figures=[(figure, "Energy above the last step and largest force on an atom.")],
    )

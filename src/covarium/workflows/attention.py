"""Attention of a trained model on the structures of files: tables over all, and everything of a few of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from matplotlib.figure import Figure

from covarium.analysis import attention_plots, plots, report
from covarium.analysis.attention import StructureAttention, attention_of_frames, attention_points
from covarium.analysis.attention_tables import Totals, received
from covarium.analysis.errors import Table
from covarium.config import DataSection
from covarium.data import read_structures
from covarium.errors import CovariumError
from covarium.files import replace_file, replace_text
from covarium.systems.neighbours import image_offsets
from covarium.workflows.evaluation import refuse_targets
from covarium.workflows.loaded import LoadedTask, as_frame

KEPT = 10  # structures, where none are chosen
HEAT_MAPS = 3  # of structures in the report
LARGEST_HEAT_MAP = 300  # atoms
MOST_ATTENDED = 20  # rows of the table of atoms, for each structure in it

ROLLOUT = "rollout_"
WRITTEN = (
    "attention.npz", "attention.json", "report.html", "heatmaps/element_pairs.png", "heatmaps/layers_and_heads.png",
)  # fmt: skip

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class AttentionResult:
    """Sums over all structures, and the kept ones in full."""

    totals: Totals
    kept: list[StructureAttention]

    @property
    def left_out(self) -> list[str]:
        """What is in the tables and nowhere else, or not even there."""
        lines = []
        more = self.totals.structures - len(self.kept)
        if more:
            lines.append(f"{more:,} structures are in the tables only; --index or --keep chooses those kept in full")
        if self.totals.alone:
            lines.append(f"{self.totals.alone:,} structures without attention between atoms are in no average")
        return lines


def attention_of_files(
    loaded: LoadedTask,
    files: Sequence[Path],
    data: DataSection,
    *,
    keep: int = KEPT,
    index: Sequence[int] = (),
    progress: Progress | None = None,
) -> AttentionResult:
    """Attention of a model on all structures of files.

    Args:
        loaded: a potential or property whose model attends over edges.
        files: what ``covarium.data.read_structures`` reads; labels are not looked at.
        data: keys, units and limit.
        keep: how many structures to keep in full, the first ones.
        index: which structures to keep instead, from 0 in the order of reading.
        progress: called with (structures done, all).

    Raises:
        CovariumError: a model without attention over edges, a file that cannot be read, a structure that the model
            refuses, or an index beyond the last.
    """
    attention_points(loaded.task.model)
    structures = read_structures(files, keys=data.keys, units=data.units, limit=data.limit)
    frames = [as_frame(one.atoms, one.index, one.source) for one in structures]
    for k in index:
        if not 0 <= k < len(frames):
            raise CovariumError(f"--index {k}: there are {len(frames)} structures, counted from 0")
    chosen = set(index) if index else set(range(keep))
    totals: Totals | None = None
    kept = []
    for k, one in enumerate(attention_of_frames(loaded.task, frames, progress=progress)):
        totals = totals or Totals(one.layers, one.weights.shape[2])
        totals.add(one)
        if k in chosen:
            kept.append(one)
    if totals is None:
        raise CovariumError("the files hold no structures")
    return AttentionResult(totals, kept)


def write(result: AttentionResult, out: Path, about: dict[str, Any]) -> dict[str, Path]:
    """attention.npz, attention.json, report.html and heat maps in a folder; name → file. What an earlier call wrote
    there goes first, so that nothing of another model stays beside them.

    Raises:
        CovariumError: the folder holds a run, or cannot be written to.
    """
    refuse_targets([], None, out)
    try:
        (out / "heatmaps").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CovariumError(f"cannot write to '{out}': {error.strerror}; choose another --out") from error
    for old in (*(out / name for name in WRITTEN), *(out / "heatmaps").glob(f"{ROLLOUT}*.png")):
        old.unlink(missing_ok=True)
    files = {"tables": out / "attention.json", "report": out / "report.html", "heat maps": out / "heatmaps"}
    text = json.dumps({**about, **result.totals.to_json()}, indent=1, ensure_ascii=False)
    replace_text(files["tables"], text + "\n")
    if result.kept:
        files = {"weights": out / "attention.npz", **files}
        replace_file(files["weights"], lambda place: _save(place, arrays(result.kept)))
    for name, figure, _ in _figures(result):
        replace_file(out / "heatmaps" / f"{name}.png", partial(_draw, figure))
    title = f"Attention of {Path(about['model']).name}"
    report.write(files["report"], title, list(_sections(result)), subtitle=", ".join(map(str, about["files"])))
    return files


def _draw(figure: Figure, place: Path) -> None:
    place.write_bytes(plots.render(figure, "png"))


def _save(place: Path, content: dict[str, np.ndarray]) -> None:
    with place.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **content)


def arrays(kept: Sequence[StructureAttention]) -> dict[str, np.ndarray]:
    """What ``attention.npz`` holds: S structures one after the other, N atoms, E edges, P entries of rollouts in all.

    layers [L] names; source [S] (file), index [S]; atom_start, edge_start, rollout_start [S + 1], where each begins;
    numbers [N], positions [N, 3] and cell [S, 3, 3] in Å, pbc [S, 3]; edge_index [2, E] (from, to), counted within the
    structure, shifts [E, 3], distance [E] Å; weights [L, E, H]; loop_weights [L, N, H] and envelope [E] of models
    that have them; received [N] even shares; rollout [P] with rollout_index [2, P] (to, from).
    """
    rollouts = [one.rollout.tocoo() for one in kept]
    first = kept[0]
    found = {
        "layers": np.array(first.layers),
        "source": np.array([one.frame.source for one in kept]),
        "index": np.array([one.frame.index for one in kept]),
        "atom_start": _starts([len(one.frame.numbers) for one in kept]),
        "edge_start": _starts([len(one.distance) for one in kept]),
        "rollout_start": _starts([one.nnz for one in rollouts]),
        "numbers": np.concatenate([one.frame.numbers for one in kept]),
        "positions": np.concatenate([one.frame.positions for one in kept]),
        "cell": np.stack([one.frame.cell for one in kept]),
        "pbc": np.stack([one.frame.pbc for one in kept]),
        "edge_index": np.concatenate([one.edge_index for one in kept], axis=1),
        "shifts": np.concatenate([one.shifts for one in kept]),
        "distance": np.concatenate([one.distance for one in kept]),
        "weights": np.concatenate([one.weights for one in kept], axis=1),
        "received": np.concatenate([received(one.rollout) for one in kept]),
        "rollout_index": np.concatenate([np.stack([one.row, one.col]) for one in rollouts], axis=1).astype(np.int64),
        "rollout": np.concatenate([one.data for one in rollouts]),
    }
    if first.loops is not None:
        found["loop_weights"] = np.concatenate([one.loops for one in kept if one.loops is not None], axis=1)
    if first.envelope is not None:
        found["envelope"] = np.concatenate([one.envelope for one in kept if one.envelope is not None])
    return found


def _starts(counts: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *counts])


def _label(one: StructureAttention) -> str:
    return f"frame {one.frame.index} of {Path(one.frame.source).name}"


def _figures(result: AttentionResult) -> Iterator[tuple[str, Figure, str]]:
    """File name, figure and caption, of all structures first."""
    if rows := result.totals.pair_rows():
        yield (
            "element_pairs",
            attention_plots.element_pairs(rows),
            "Means over ordered pairs of atoms: the row's element attends to the column's. One is an even share; equal "
            "weights are what the positions of the atoms in the graph give without any learning.",
        )
    found = result.totals.to_json()
    caption = "Over how many neighbours, and how far, the weights of each head reach."
    yield "layers_and_heads", attention_plots.layers_and_heads(found), caption
    for k, one in enumerate(result.kept):
        if 1 < len(one.frame.numbers) <= LARGEST_HEAT_MAP:
            symbols = [chemical_symbols[z] for z in one.frame.numbers]
            picture = attention_plots.atoms(one.rollout.toarray(), symbols, _label(one))
            yield (
                f"{ROLLOUT}{k}",
                picture,
                "Rollout: how much a target atom, in the end, goes back to each source atom.",
            )


def _sections(result: AttentionResult) -> Iterator[report.Section]:
    figures = {name: (figure, caption) for name, figure, caption in _figures(result)}
    totals = result.totals
    elements, pairs, layers = totals.tables()
    correlation = totals.correlation()
    facts = {"structures": f"{totals.structures:,}", "layers × heads": f"{len(totals.layers)} × {totals.heads}"}
    if correlation is not None:
        facts["attention and bonds"] = f"correlation {correlation:.2f}"
    yield report.Section(
        "Elements",
        text=[
            "Attention is the rollout (Abnar & Zuidema 2020) of all repeated layers, heads averaged. An even share is "
            "what each other atom of a structure would get if all got the same; equal weights are the rollout of the "
            "same graph if every edge had the same weight.",
            *result.left_out,
        ],
        facts=facts,
        tables=[elements, pairs],
        figures=[figures[name] for name in ("element_pairs",) if name in figures],
    )
    yield report.Section("Layers and heads", tables=[layers], figures=[figures["layers_and_heads"]])
    shown = [one for one in result.kept if len(one.frame.numbers) <= report.MAX_ATOMS]
    if shown:
        yield report.Section(
            "Structures",
            text=[
                "Half an edge, the one at the target, is as thick as the target attends to the source. Point at an "
                "atom to see what it alone attends to. Atoms are coloured from blue (least) to yellow (most) by the "
                "attention they receive."
            ],
            structures=[_structure(one) for one in shown],
        )
    maps = [figure for name, figure in figures.items() if name.startswith(ROLLOUT)]
    if result.kept:
        yield report.Section("Atoms", tables=[_atoms(result.kept[:HEAT_MAPS])], figures=maps[:HEAT_MAPS])


def _structure(one: StructureAttention) -> report.Structure:
    """With the share of each edge in what its target attends to, mean over heads."""
    frame, i = one.frame, one.edge_index[1]
    shares = {}
    for name, applied in zip(one.layers, one.applied, strict=True):
        size = np.abs(applied.astype(np.float64)).mean(1)
        total = np.bincount(i, size, minlength=len(frame.numbers))
        shares[name] = size / np.where(total > 0, total, 1.0)[i]
    return report.Structure(
        _label(one),
        frame.numbers,
        frame.positions,
        frame.cell if frame.pbc.any() else None,
        frame.fixed,
        received=np.nan_to_num(received(one.rollout)),
        edges=report.WeightedEdges(
            one.edge_index,
            image_offsets(one.shifts, frame.cell),
            {
                "mean of the layers": np.mean(
                    [shares[n] for n, r in zip(one.layers, one.repeated, strict=True) if r], axis=0
                ),
                **shares,
            },
        ),
    )


def _atoms(kept: Sequence[StructureAttention]) -> Table:
    """The atoms of each structure, the most attended first."""
    columns = []
    for one in kept:
        got = np.nan_to_num(received(one.rollout))
        order = np.argsort(-got, kind="stable")[:MOST_ATTENDED]
        columns.append([f"{chemical_symbols[one.frame.numbers[k]]} {k}: {got[k]:.3f}" for k in order])
    rows = tuple((str(rank + 1), *cells) for rank, cells in enumerate(zip_longest(*columns, fillvalue="")))
    return Table("Atoms by attention received, in even shares", ("rank", *map(_label, kept)), rows)

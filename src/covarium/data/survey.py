"""Files of labelled structures gone through frame by frame, with everything noted that may be wrong.

Where ``read`` refuses a file at the first fault, a survey goes on, and keeps a few numbers of every frame instead of
the frames. What the numbers mean together is decided in ``verdicts``.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from covarium.data import labels as labelling
from covarium.data.charges import CHARGES
from covarium.data.conversion import Units, resolve
from covarium.data.findings import KINDS, Finding, Place, finding
from covarium.data.formats import parts, stream
from covarium.data.frame import LABEL_UNITS, Frame
from covarium.data.measures import SIZE, Measures, measure
from covarium.data.names import LABELS
from covarium.data.pair_fit import Comparisons
from covarium.data.plausibility import findings as implausible
from covarium.data.reading import frame_of
from covarium.data.record import Record
from covarium.errors import CovariumError

CHUNK = 500  # records looked at together
FAMILIES, MEMBERS = 100, 40  # compositions, and frames of each, kept to compare energies with forces
KEPT = 3  # frames of each kind kept to be shown
OVERLAP, CLOSE = 0.3, 0.5  # of the sum of covalent radii; the shortest real bonds (H–H, N≡N, C≡O) keep more than 0.75
HIGH_FORCE = 50.0  # eV/Å on one atom; molecular dynamics at 5000 K has about 20
NET = 1e-3  # eV/Å per atom: labels with more are worse than what models reach
FORCE_BINS = np.logspace(-6, 4, 201)  # eV/Å
NEAR_BINS = np.linspace(0.0, 6.0, 241)  # Å
COLUMNS = ("atoms", "composition", "energy", "force", "near", "hydrogen", "pressure", "volume", "gap", "parts")


@dataclass
class Columns:
    """Numbers of every frame, in the order in which they came: 150 bytes a frame.

    Attributes:
        numbers: by name, see ``COLUMNS``; NaN where a frame has none.
        key: of the structure as it stands in its file.
        fingerprint: [frames × SIZE].
        file, index: of the frame.
    """

    numbers: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in COLUMNS})
    key: array[int] = field(default_factory=lambda: array("q"))
    fingerprint: array[float] = field(default_factory=lambda: array("d"))
    file: array[int] = field(default_factory=lambda: array("l"))
    index: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self.numbers[name])

    def fingerprints(self) -> np.ndarray:
        return np.array(self.fingerprint).reshape(-1, SIZE)


class Survey:
    """What was found in files, or in frames that were read already.

    Args:
        cutoff: Å, how far a model looks.
        keys, units: as for ``read``.

    Attributes:
        columns: a few numbers of every frame.
        compositions: sorted atomic numbers, by their place in this list.
        elements: element → number of frames that hold it.
        atoms: element → number of atoms.
        labels: label → frames that have it.
        left_out: what did not come in, one line each.
        kept: frames to be shown, by kind of finding.
        comparisons: of forces with a fit to them.
        force_counts, near_counts: histograms over atoms, ``FORCE_BINS`` and ``NEAR_BINS``.
    """

    def __init__(
        self, cutoff: float = 6.0, *, keys: Mapping[str, str] | None = None, units: Mapping[str, str] | None = None
    ) -> None:
        self.cutoff = cutoff
        self.given_keys, self.given_units = dict(keys or {}), dict(units or {})
        self.sources: list[str] = []
        self.columns = Columns()
        self.compositions: dict[bytes, int] = {}
        self.elements: Counter[int] = Counter()
        self.atoms: Counter[int] = Counter()
        self.labels: Counter[str] = Counter()
        self.keys: dict[str, Counter[str]] = {label: Counter() for label in LABELS}
        self.fixed = 0
        self.theories: dict[str, Place] = {}
        self.left_out: list[str] = []
        self.kept: dict[str, list[Frame]] = {}
        self.comparisons = Comparisons()
        self.force_counts = np.zeros(len(FORCE_BINS) - 1, dtype=np.int64)
        self.near_counts = np.zeros(len(NEAR_BINS) - 1, dtype=np.int64)
        self.notes: dict[str, list[Place]] = {kind: [] for kind in KINDS}
        self.texts: list[Finding] = []
        # a property has no usual name, and is learnt alone, as ``read`` reads it
        self._wanted = [x for x in LABEL_UNITS if (x == "property") == ("property" in self.given_keys)]
        self._missing: dict[str, list[Place]] = {label: [] for label in LABEL_UNITS}
        self._given: Counter[str] = Counter()  # without the forces of single atoms, which are known to be zero
        self._hints: dict[str, set[str]] = {label: set() for label in LABEL_UNITS}

    def read(self, path: Path, progress: Callable[[int], object] | None = None) -> None:
        """Go through a file, or the files of a set.

        Raises:
            CovariumError: the file is missing, or nothing in it can be read.
        """
        files = parts(path)
        if files != [path]:
            for file in files:
                self.read(file, progress)
            return
        source = str(path)
        self.sources.append(source)
        damage: list[Place] = []

        def damaged(index: int | None, what: str) -> None:
            damage.append(Place(source, index, what))

        units: Units | None = None
        sample: dict[bytes, list[Frame]] = {}
        for chunk in _chunks(stream(path, self.given_keys, damaged=damaged), damaged):
            units = units or self._units(chunk)
            for frame in self._frames(chunk, units):
                self.add(frame)
                _keep(sample, frame)
            if progress is not None:
                progress(len(self.columns))
        if units is None:
            raise CovariumError(str(damage[0]) if damage else f"{path} holds no structures")
        self.notes["unreadable"] += damage
        if _unfinished(path):
            self.notes["cut"].append(Place(source, None, "it may have been cut off inside its last number"))
        frames = [frame for family in sample.values() for frame in family]
        self._plausibility(source, sorted(frames, key=lambda frame: frame.index), units)

    def add(self, frame: Frame) -> None:
        """Measure one frame."""
        try:
            measured = measure(frame, self.cutoff)
        except CovariumError as error:
            self.notes["invalid"].append(Place(frame.source, frame.index, _without(str(error), frame)))
            return
        if not self.sources or self.sources[-1] != frame.source:
            self.sources.append(frame.source)
        self._note(frame, measured)
        if not len(measured.zeroed):
            self.comparisons.add(len(self.columns), frame)
        self._count(frame, measured)

    def places(self, rows: Iterable[int], note: Callable[[int], str] = lambda row: "") -> list[Place]:
        """Of the frames with these places in the columns."""
        file, index = self.columns.file, self.columns.index
        return [Place(self.sources[file[row]], index[row], note(row)) for row in rows]

    def findings(self) -> list[Finding]:
        """What was noted on the way; what all frames say together is in ``verdicts``."""
        found = list(self.texts)
        for kind, places in self.notes.items():
            if places:
                found.append(finding(kind, KINDS[kind].text.format(count=len(places), cutoff=self.cutoff), places))
        return [*found, *self._missing_labels()]

    def _units(self, chunk: Sequence[Record]) -> Units:
        try:
            return resolve(self.given_units, chunk)
        except CovariumError as error:
            if self.given_units:
                raise
            place = Place(chunk[0].source, chunk[0].index)
            self.texts.append(finding("units", f"{error} (eV and Å are taken for the rest)", [place]))
            return resolve({"energy": "eV", "length": "Å"}, chunk)

    def _frames(self, chunk: Sequence[Record], units: Units) -> Iterator[Frame]:
        """The frames of some records, each with the labels that can be had."""
        unwanted = {*LABEL_UNITS, "virial"} - {*self._wanted, "virial" if "stress" in self._wanted else ""}
        chosen = {label: None if label in unwanted else self._key(chunk, label) for label in LABELS}
        if theory := labelling.theory(chunk, []):
            self.theories.setdefault(theory, Place(chunk[0].source, chunk[0].index))
        for record in chunk:
            try:
                _refuse_uncharged(record, chosen)
                labels = self._labels(record, chosen, units)
                yield frame_of(record, labels, chosen, None, units)
            except CovariumError as error:
                text = str(error).replace(f"{record.where}: ", "")
                self.notes["invalid"].append(Place(record.source, record.index, text))

    def _key(self, chunk: Sequence[Record], label: str) -> str | None:
        try:
            key = labelling.choose(chunk, label, self.given_keys, [])
        except CovariumError as error:
            if label in self.given_keys and len(self.columns) == 0:
                raise
            place = Place(chunk[0].source, chunk[0].index)
            if not any(found.text == str(error) for found in self.texts):
                kind = "labels" if label in ("energy", "forces") or label in self.given_keys else "unlabelled"
                self.texts.append(finding(kind, str(error), [place]))
            return None
        if key is not None:
            self.keys[label][key] += 1
        return key

    def _labels(self, record: Record, chosen: Mapping[str, str | None], units: Units) -> dict[str, np.ndarray]:
        labels = {}
        for label in self._wanted:
            name = "virial" if label == "stress" and chosen["stress"] is None else label
            key = chosen[name]
            value = None if key is None else labelling.extract(record, name, key, units)
            self._given[label] += value is not None
            if value is None and label == "forces" and len(record.numbers) == 1:
                value = np.zeros((1, 3))
            if value is not None:
                labels[label] = value
            elif label != "stress" or record.pbc.all():
                self._missing[label].append(Place(record.source, record.index))
                if len(self._missing[label]) <= CHUNK:
                    self._hints[label] |= _candidates(record, label, chosen)
        return labels

    def _missing_labels(self) -> Iterator[Finding]:
        for label, places in self._missing.items():
            if not places:
                continue
            have, hints = self._given[label], self._hints[label]
            shape = f"; of its shape there are {', '.join(sorted(hints))}" if hints else ""
            text = f"{len(places)} frames have no {label} under a usual name{shape}"
            if have:
                yield finding("unlabelled" if label == "stress" else "labels", f"{text}, {have} have it", places)
            elif label == "energy" or hints:
                yield finding("labels" if label != "stress" else "unlabelled", text, places)
            elif label == "forces":
                yield finding("unlabelled", text, places)

    def _note(self, frame: Frame, m: Measures) -> None:
        """What is wrong with the frame by itself."""
        n, close = len(frame.numbers), m.close
        if close is not None and close.ratio < CLOSE:
            names = [f"{atom} ({chemical_symbols[frame.numbers[atom]]})" for atom in (close.first, close.second)]
            kind = "overlap" if close.ratio < OVERLAP else "close"
            self._mark(kind, frame, f"atoms {names[0]} and {names[1]} are {close.distance:.3f} Å apart")
        if len(m.misplaced):
            shown = ", ".join(f"{atom} ({chemical_symbols[frame.numbers[atom]]})" for atom in m.misplaced[:5])
            self._mark("valence", frame, f"{len(m.misplaced)} atoms: {shown}{', …' if len(m.misplaced) > 5 else ''}")
        if m.parts > 1:
            alone = int(np.isinf(m.nearest).sum())
            self._mark("fragments", frame, f"{m.parts} parts" + (f", {alone} atoms alone" if alone else ""))
        if m.force > HIGH_FORCE:
            self._mark("high_force", frame, f"{m.force:.4g} eV/Å")
        if len(m.zeroed):  # no wonder then that forces do not sum to zero
            shown = ", ".join(map(str, m.zeroed[:5])) + (", …" if len(m.zeroed) > 5 else "")
            along = f" along {'xyz'[m.flat]}" if m.flat is not None else ""
            self._mark("zero_forces", frame, f"{len(m.zeroed)} of {n} atoms ({shown}){along}")
        elif m.net > NET:
            self._mark("net_force", frame, f"{1e3 * m.net:.3g} meV/Å per atom")
        if m.torque > NET and not len(m.zeroed):
            self._mark("net_torque", frame, f"{1e3 * m.torque:.3g} meV/Å on the lever arms")

    def _mark(self, kind: str, frame: Frame, note: str) -> None:
        self.notes[kind].append(Place(frame.source, frame.index, note))
        kept = self.kept.setdefault(kind, [])
        if len(kept) < KEPT:
            kept.append(frame)

    def _count(self, frame: Frame, m: Measures) -> None:
        """The frame's share in columns and histograms."""
        numbers, labels = frame.numbers, frame.labels
        composition = np.sort(numbers).tobytes()
        volume = abs(float(np.linalg.det(frame.cell))) if frame.pbc.all() else np.nan
        row = (
            len(numbers),
            self.compositions.setdefault(composition, len(self.compositions)),
            float(labels["energy"]) if "energy" in labels else np.nan,
            m.force,
            float(m.nearest.min()),
            m.hydrogen,
            float(np.trace(labels["stress"])) / 3 if "stress" in labels else np.nan,
            volume,
            m.gap,
            m.parts,
        )
        for name, value in zip(COLUMNS, row, strict=True):
            self.columns.numbers[name].append(value)
        self.columns.key.append(m.key)
        self.columns.fingerprint.extend(m.fingerprint)
        self.columns.file.append(len(self.sources) - 1)
        self.columns.index.append(frame.index)
        counts = np.bincount(numbers)
        present = np.flatnonzero(counts)
        self.elements.update(present.tolist())
        for z in present:
            self.atoms[int(z)] += int(counts[z])
        self.labels.update(labels.keys())
        self.fixed += int(frame.fixed.sum())
        self.near_counts += np.histogram(m.nearest, NEAR_BINS)[0]
        if "forces" in labels:
            norms = np.sqrt(np.square(labels["forces"]).sum(axis=1))
            self.force_counts += np.histogram(norms, FORCE_BINS)[0]

    def _plausibility(self, source: str, frames: Sequence[Frame], units: Units) -> None:
        if not frames:
            return
        place = Place(source, None, f"units {units.origin}: {units.names['energy']}, {units.names['length']}")
        for found in implausible(frames, units.size["energy"]):
            if found.wrong:
                text = f"{found.text} ({len(frames)} frames compared)"
                self.texts.append(Finding("units", "warning" if units.origin == "given" else "error", text, (place,)))


def _chunks(records: Iterator[Record], damaged: Callable[[int | None, str], None]) -> Iterator[list[Record]]:
    """Records in lists; damage that ends a file is told once some were read, and raised before."""
    done = 0
    while True:
        chunk: list[Record] = []
        try:
            for record in islice(records, CHUNK):
                chunk.append(record)
        except CovariumError as error:
            if not chunk and not done:
                raise
            damaged(None, f"{error}; nothing after frame {(chunk[-1].index if chunk else done - 1)} was read")
            if chunk:
                yield chunk
            return
        if not chunk:
            return
        done = chunk[-1].index + 1
        yield chunk


def _keep(sample: dict[bytes, list[Frame]], frame: Frame) -> None:
    """Some frames of some compositions, to compare among themselves."""
    name = frame.numbers.tobytes()
    if name in sample:
        if len(sample[name]) < MEMBERS:
            sample[name].append(frame)
    elif len(sample) < FAMILIES:
        sample[name] = [frame]


def _candidates(record: Record, label: str, chosen: Mapping[str, str | None]) -> set[str]:
    """Keys that have the shape of a label and another name."""
    taken = {key for key in chosen.values() if key is not None}
    known = {"momenta", "velocities", "magmoms", "initial_magmoms", "dipole", *taken}
    found = {key for key, value in record.values.items() if labelling.fits(label, value, len(record.numbers))}
    if label == "energy":  # whole numbers are names and counts
        found = {key for key in found if np.asarray(record.values[key]).dtype.kind == "f"}
    return {f"'{key}'" for key in found - known}


def _refuse_uncharged(record: Record, chosen: Mapping[str, str | None]) -> None:
    for label in CHARGES:
        key = chosen[label]
        if key is not None and not labelling.fits(label, record.values.get(key), len(record.numbers)):
            raise CovariumError(f"it lacks {label} '{key}', which others have; give it to all frames or to none")


def _without(text: str, frame: Frame) -> str:
    return text.removeprefix(f"{frame.where}: ")


def _unfinished(path: Path) -> bool:
    """Whether a text file of frames lacks the end of its last line."""
    if path.suffix.lower() not in (".xyz", ".extxyz") or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"

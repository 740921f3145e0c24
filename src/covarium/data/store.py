"""Our own format for large sets: a folder of flat arrays, memory-mapped for reading, appended to in blocks.

One file per column, little-endian, without a header of its own. ``journal.jsonl`` has one line per block, written when
its bytes are on disk: totals so far, the sha256 of the block, what it holds. A killed writer leaves at most bytes that
the journal does not know of; they are cut when it goes on. ``header.json`` is written last, with a sha256 over itself
and one over the journal, so that a set with a header is complete. Frames are in eV and Å, labels by their own names;
whatever else their files said is kept as JSON beside them (``rest``), in the files' own units and under their own keys:
any of that may be learnt as a property.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io.jsonio import decode, encode

from covarium.data.frame import Frame
from covarium.data.labels import property_value
from covarium.data.record import Record
from covarium.errors import CovariumError, nearest

SUFFIX = ".frames"
HEADER, JOURNAL = "header.json", "journal.jsonl"
KIND, VERSION = "covarium frames", 1
RELEASED = 256  # frames read, after which pages of the files are handed back to the system
LABELS = ("energy", "forces", "stress")  # bit k of ``present``; properties are found in the rest


class Column(NamedTuple):
    """dtype, shape of one entry, and what it has one entry for: frame, atom, or byte of the rest."""

    dtype: str
    shape: tuple[int, ...]
    per: str


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "atoms": Column("<i4", (), "frame"),
        "cell": Column("<f8", (3, 3), "frame"),
        "pbc": Column("|b1", (3,), "frame"),
        "charge": Column("<f8", (), "frame"),
        "spin": Column("<f8", (), "frame"),
        "present": Column("|u1", (), "frame"),
        "energy": Column("<f8", (), "frame"),
        "stress": Column("<f8", (3, 3), "frame"),
        "rest_bytes": Column("<i4", (), "frame"),
        "numbers": Column("|u1", (), "atom"),
        "positions": Column("<f8", (3,), "atom"),
        "forces": Column("<f8", (3,), "atom"),
        "fixed": Column("|b1", (), "atom"),
        "tags": Column("<i8", (), "atom"),
        "rest": Column("|u1", (), "rest"),
    }
)


@dataclass(frozen=True)
class Rest:
    """What a file said of a structure beside its frame: of the whole, and per atom."""

    info: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def values(self) -> dict[str, Any]:
        """Everything by its key."""
        return {**self.info, **self.arrays}

    def encoded(self) -> bytes:
        parts = {name: dict(part) for name, part in (("info", self.info), ("arrays", self.arrays)) if part}
        return encode(parts).encode() if parts else b""

    @staticmethod
    def decoded(text: bytes) -> Rest:
        parts = decode(text.decode(), always_array=False) if text else {}
        return Rest(parts.get("info", {}), parts.get("arrays", {}))


def is_store(path: Path) -> bool:
    """Whether a path is a set of ours, finished or not."""
    return (path / HEADER).is_file() or (path / JOURNAL).is_file()


def journal_lines(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines, and their length in bytes; a kill may have cut the last one short."""
    lines, whole = [], 0
    for line in (folder / JOURNAL).read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise CovariumError(f"{folder / JOURNAL} is damaged; make the set again") from error
        whole += len(line)
    return lines, whole


def size_of(name: str, totals: Mapping[str, int]) -> int:
    column = COLUMNS[name]
    return totals[column.per] * int(np.dtype(column.dtype).itemsize * np.prod(column.shape, dtype=int))


def header_hash(header: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in header.items() if k != "sha256"}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class FrameColumns(ABC):
    """Frames as columns, wherever they are.

    Attributes:
        path: for messages.
        header: as ``store_writing.Writer.finish`` wrote it.
    """

    path: Path
    header: dict[str, Any]

    @abstractmethod
    def column(self, name: str) -> np.ndarray:
        """One of ``COLUMNS``, not read before it is indexed."""

    @property
    def totals(self) -> Mapping[str, int]:
        """How many frames, atoms and bytes of the rest there are."""
        return dict(self.header["totals"])

    def __len__(self) -> int:
        return int(self.header["totals"]["frame"])

    @cached_property
    def starts(self) -> np.ndarray:
        """[frames + 1] int64, where the atoms of each frame begin."""
        return np.concatenate([[0], np.cumsum(self.column("atoms")[:], dtype=np.int64)])

    @cached_property
    def rest_starts(self) -> np.ndarray:
        """[frames + 1] int64, where the rest of each frame begins."""
        return np.concatenate([[0], np.cumsum(self.column("rest_bytes")[:], dtype=np.int64)])

    def frame(self, k: int, labels: tuple[str, ...] | None = None, key: str | None = None) -> Frame:
        """Frame k with these labels, None for all it has but properties; ``key`` is that of the property."""
        a, b = self.starts[k : k + 2]
        present = int(self.column("present")[k])
        wanted = [name for bit, name in enumerate(LABELS) if present >> bit & 1 and (labels is None or name in labels)]
        found = {
            name: np.array(self.column(name)[a:b] if name == "forces" else self.column(name)[k]) for name in wanted
        }
        rest = self.rest(k)
        if key is not None:
            found["property"] = self.property(k, key, rest)
        info = rest.info
        group = self.header.get("group")
        return Frame(
            numbers=self.column("numbers")[a:b].astype(np.int64),
            positions=np.array(self.column("positions")[a:b]),
            cell=np.array(self.column("cell")[k]),
            pbc=np.array(self.column("pbc")[k]),
            labels=found,
            fixed=np.array(self.column("fixed")[a:b]),
            charge=float(self.column("charge")[k]),
            spin=float(self.column("spin")[k]),
            config_type=str(info.get("config_type", "")),
            group=str(info.get(group, "")) if group else "",
            source=str(self.path),
            index=k,
            tags=np.array(self.column("tags")[a:b]),
        )

    def property(self, k: int, key: str, rest: Rest) -> np.ndarray:
        """The value under a key in the rest of frame k, one number or [3], in the unit of its file.

        Raises:
            CovariumError: there is none, or one of another shape.
        """
        where = f"{self.path}, frame {k}"
        value = property_value(rest.values, key, where)
        if value is None:
            raise CovariumError(
                f"{where} has no key '{key}' for property{nearest(key, rest.values)}; it has "
                f"{', '.join(rest.values) or 'nothing beside its labels'}"
            )
        return value

    def rest(self, k: int) -> Rest:
        """What the file said of frame k beside its labels."""
        if not self.totals["rest"]:
            return Rest({}, {})
        a, b = self.rest_starts[k : k + 2]
        return Rest.decoded(self.column("rest")[a:b].tobytes())


class Store(FrameColumns):
    """A finished set, read through memory maps; safe to share with any number of processes.

    Raises:
        CovariumError: it is unfinished, truncated, damaged or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = _read_header(path)
        self.labels: dict[str, int] = self.header["labels"]
        journal = (path / JOURNAL).read_bytes() if (path / JOURNAL).exists() else b""
        if hashlib.sha256(journal).hexdigest() != self.header["journal"]:
            raise CovariumError(f"{path / JOURNAL} is not the one that the set was finished with; {_REMEDY}")
        self.blocks = journal_lines(path)[0]
        for name in COLUMNS:
            file = path / f"{name}.bin"
            size, expected = file.stat().st_size if file.exists() else 0, size_of(name, self.totals)
            if size != expected:
                raise CovariumError(f"{file} has {size} bytes, expected {expected}: it is truncated; {_REMEDY}")
        self._maps: dict[str, mmap.mmap] = {}
        self._columns: dict[str, np.ndarray] = {}
        self._read = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.path,)

    def column(self, name: str) -> np.ndarray:
        """A whole column, mapped, not read."""
        if name not in self._columns:
            column, size = COLUMNS[name], size_of(name, self.totals)
            if size:
                with (self.path / f"{name}.bin").open("rb") as file:
                    self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            content = self._maps[name] if size else b""
            self._columns[name] = np.frombuffer(content, column.dtype).reshape(-1, *column.shape)
        return self._columns[name]

    def frame(self, k: int, labels: tuple[str, ...] | None = None, key: str | None = None) -> Frame:
        self._read += 1
        if self._read % RELEASED == 0:
            self.release()
        return super().frame(k, labels, key)

    def verify(self, block: int) -> None:
        """Compare a block with its sha256.

        Raises:
            CovariumError: they differ.
        """
        before = self.blocks[block - 1]["totals"] if block else {"frame": 0, "atom": 0, "rest": 0}
        after = self.blocks[block]["totals"]
        digest = hashlib.sha256()
        for name, column in COLUMNS.items():
            digest.update(np.ascontiguousarray(self.column(name)[before[column.per] : after[column.per]]).data)
        if digest.hexdigest() != self.blocks[block]["sha256"]:
            raise CovariumError(
                f"{self.path}, frames {before['frame']} to {after['frame'] - 1}: they do not match their sha256, "
                f"some of their bytes have changed; {_REMEDY}"
            )

    def release(self) -> None:
        """Hand pages that were read back to the system, which may keep them: memory in use stays bounded."""
        for mapped in self._maps.values():
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)


_REMEDY = "copy it again, or repeat the conversion that made it"


def _read_header(path: Path) -> dict[str, Any]:
    if not (path / HEADER).exists():
        raise CovariumError(
            f"{path} is not finished; repeat the command that was making it, it goes on where it was ended"
        )
    return checked_header((path / HEADER).read_bytes(), path)


def checked_header(text: bytes | str, path: Path) -> dict[str, Any]:
    """
    Raises:
        CovariumError: it is damaged or of a newer version.
    """
    try:
        header = json.loads(text)
        sound = header["kind"] == KIND and header["sha256"] == header_hash(header) and _well_typed(header)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        sound = False
    if not sound:
        raise CovariumError(f"{path}: its header is damaged or not one of ours; {_REMEDY}")
    if header["version"] != VERSION:
        raise CovariumError(f"{path} has version {header['version']}, this Covarium reads {VERSION}; upgrade it")
    return dict(header)


def _well_typed(header: Mapping[str, Any]) -> bool:
    """Whether everything that is read of a header of this version is of its type: anybody can make a hash."""
    if header["version"] != VERSION:
        return True
    texts = [header["theory"], header["journal"], header["group"] or "", *header["nonzero"]]
    texts += [*header["notes"], *header["left_out"]]
    counts = [*(header["totals"][per] for per in ("frame", "atom", "rest")), *(header["labels"][x] for x in LABELS)]
    return (
        all(isinstance(header[name], list) for name in ("nonzero", "notes", "left_out", "elements"))
        and all(isinstance(text, str) for text in texts)
        and all(type(count) is int and count >= 0 for count in counts)
        and all(type(z) is int and 0 < z < 119 for z in header["elements"])
    )


def stored_records(store: Store, source: str, start: int) -> Iterator[Record]:
    """The frames as records of a file in eV and Å, verified block by block."""
    block = 0
    for k in range(start, len(store)):
        while store.blocks[block]["totals"]["frame"] <= k:
            block += 1
        if k == start or k == store.blocks[block - 1]["totals"]["frame"]:
            store.verify(block)
        yield as_record(store.frame(k), store.rest(k), source, charged=charged(store.header))


def arrays_of(frame: Frame, rest: Rest) -> dict[str, np.ndarray]:
    """What is said per atom beside labels and frozen atoms: the rest, and the tags where there are any."""
    return {**rest.arrays, **({"tags": frame.tags} if frame.tags.any() else {})}


def charged(header: Mapping[str, Any]) -> bool:
    """Whether any frame has a charge or spin."""
    return bool({"charge", "spin"} & set(header["nonzero"]))


def as_record(frame: Frame, rest: Rest, source: str, *, charged: bool) -> Record:
    """A frame as a file with the library's own names and units would have it."""
    info = dict(rest.info)
    if charged:
        info |= {"charge": frame.charge, "spin": frame.spin}
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, info=info)
    arrays = arrays_of(frame, rest)
    for name, array in arrays.items():
        atoms.set_array(name, np.asarray(array))
    if frame.fixed.any():
        atoms.set_constraint(FixAtoms(mask=frame.fixed))
    units = {"energy_unit": "eV", "length_unit": "Å"}
    return Record(
        numbers=frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc, fixed=frame.fixed,
        values={**units, **info, **arrays, **frame.labels}, atoms=atoms, source=source, index=frame.index,
    )  # fmt: skip

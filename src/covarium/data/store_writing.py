"""Writing our own format for large sets, see ``store``."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from covarium.data.frame import Frame
from covarium.data.store import (
    COLUMNS,
    HEADER,
    JOURNAL,
    KIND,
    LABELS,
    VERSION,
    Rest,
    header_hash,
    journal_lines,
    size_of,
)  # fmt: skip
from covarium.errors import CovariumError
from covarium.files import held, replace_text

BLOCK, BLOCK_ATOMS = 4096, 2**18  # frames and atoms, whichever is reached first: what is held in memory


class Writer:
    """Appends frames to a set, and goes on with one that was not finished.

    Args:
        folder: made if missing; held by one writer at a time.

    Raises:
        CovariumError: another process writes there, or the set is finished or damaged.
    """

    def __init__(self, folder: Path) -> None:
        if (folder / HEADER).exists():
            raise CovariumError(f"{folder} is finished; nothing can be added to it")
        self.folder = folder
        self._held = ExitStack()
        self._held.enter_context(held(folder))
        self._files = {name: open(folder / f"{name}.bin", "ab", buffering=0) for name in COLUMNS}
        self._journal = open(folder / JOURNAL, "ab", buffering=0)
        lines, whole = journal_lines(folder)
        self.blocks = lines
        self._journal.truncate(whole)
        for name, file in self._files.items():
            size = size_of(name, self.totals)
            if os.fstat(file.fileno()).st_size < size:
                raise CovariumError(
                    f"{folder} has lost bytes of {name}.bin since it was written; delete it and begin again"
                )
            file.truncate(size)
        self._waiting: list[tuple[Frame, bytes]] = []
        self._atoms = 0
        self.left_out: Counter[str] = Counter()

    @property
    def totals(self) -> Mapping[str, int]:
        """Frames, atoms and bytes of the rest that are safely written."""
        return self.blocks[-1]["totals"] if self.blocks else {"frame": 0, "atom": 0, "rest": 0}

    def append(self, frame: Frame, rest: Rest, left_out: Sequence[str] = ()) -> None:
        """Take a frame, and what it had that is not in it; it is on disk when its block is full."""
        self._waiting.append((frame, rest.encoded()))
        self.left_out.update(left_out)
        self._atoms += len(frame.numbers)
        if len(self._waiting) == BLOCK or self._atoms >= BLOCK_ATOMS:
            self._commit()

    def finish(self, **about: Any) -> None:  # noqa: ANN401  (anything that JSON can hold)
        """Write what waits and the header, which makes the set readable.

        Raises:
            CovariumError: there are no frames.
        """
        if self._waiting:
            self._commit()
        if not self.blocks:
            raise CovariumError(f"{self.folder} would hold no frames")
        blocks = self.blocks
        header = {
            "kind": KIND,
            "version": VERSION,
            "totals": self.totals,
            "units": {"energy": "eV", "length": "Å"},
            "elements": sorted({z for block in blocks for z in block["elements"]}),
            "labels": {name: sum(block["labels"][name] for block in blocks) for name in LABELS},
            "nonzero": sorted({name for block in blocks for name in block["nonzero"]}),
            **about,
            "columns": {name: [column.dtype, column.shape, column.per] for name, column in COLUMNS.items()},
            "journal": hashlib.sha256((self.folder / JOURNAL).read_bytes()).hexdigest(),
        }
        text = json.dumps({**header, "sha256": header_hash(header)}, indent=1, ensure_ascii=False)
        replace_text(self.folder / HEADER, text)

    def close(self) -> None:
        for file in (*self._files.values(), self._journal):
            file.close()
        self._held.close()

    def _commit(self) -> None:
        """Columns first, then the line of the journal that makes them count."""
        frames = [frame for frame, _ in self._waiting]
        columns = _as_columns(frames, [rest for _, rest in self._waiting])
        digest = hashlib.sha256()
        for name, values in columns.items():
            content = np.ascontiguousarray(values, dtype=COLUMNS[name].dtype).tobytes()
            digest.update(content)
            if values.any():
                _write(self._files[name], content, self.folder)
            else:  # zeros are a hole in the file, which takes no room
                self._files[name].truncate(size_of(name, self.totals) + len(content))
        for file in self._files.values():
            os.fsync(file.fileno())
        present = columns["present"]
        nonzero = [name for name in LABELS if columns[name].any()]
        nonzero += [name for name in ("charge", "spin", "fixed", "tags", "cell", "pbc") if columns[name].any()]
        added = {"frame": len(frames), "atom": len(columns["numbers"]), "rest": len(columns["rest"])}
        last = frames[-1]
        line = {
            "totals": {per: self.totals[per] + added[per] for per in added},
            "sha256": digest.hexdigest(),
            "elements": np.unique(columns["numbers"]).tolist(),
            "labels": {name: int((present >> bit & 1).sum()) for bit, name in enumerate(LABELS)},
            "nonzero": nonzero,
            "left_out": dict(self.left_out),
            "last": [last.source, last.index],
        }
        _write(self._journal, (json.dumps(line, ensure_ascii=False) + "\n").encode(), self.folder)
        os.fsync(self._journal.fileno())
        self.blocks.append(line)
        self._waiting.clear()
        self._atoms = 0
        self.left_out.clear()


def _as_columns(frames: list[Frame], rest: list[bytes]) -> dict[str, np.ndarray]:
    def label(name: str, frame: Frame, shape: tuple[int, ...]) -> np.ndarray:
        return frame.labels.get(name, np.zeros(shape))

    sizes = [len(frame.numbers) for frame in frames]
    return {
        "atoms": np.array(sizes),
        "cell": np.stack([frame.cell for frame in frames]),
        "pbc": np.stack([frame.pbc for frame in frames]),
        "charge": np.array([frame.charge for frame in frames]),
        "spin": np.array([frame.spin for frame in frames]),
        "present": np.array([sum(1 << k for k, x in enumerate(LABELS) if x in f.labels) for f in frames], np.uint8),
        "energy": np.array([float(label("energy", frame, ())) for frame in frames]),
        "stress": np.stack([label("stress", frame, (3, 3)) for frame in frames]),
        "rest_bytes": np.array([len(text) for text in rest]),
        "numbers": np.concatenate([frame.numbers for frame in frames]),
        "positions": np.concatenate([frame.positions for frame in frames]),
        "forces": np.concatenate([label("forces", f, (n, 3)) for f, n in zip(frames, sizes, strict=True)]),
        "fixed": np.concatenate([frame.fixed for frame in frames]),
        "tags": np.concatenate([frame.tags for frame in frames]),
        "rest": np.frombuffer(b"".join(rest), np.uint8),
    }


def _write(file: Any, content: bytes, folder: Path) -> None:  # noqa: ANN401
    try:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise CovariumError(
            f"cannot write {folder}: {error.strerror}; what was written is kept: free some space and repeat the command"
        ) from error

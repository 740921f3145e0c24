"""Frames to files of other formats, exact to the last bit, for ``covarium data convert``.

Every writer takes the frames one by one, so that memory stays bounded (npz excepted), and writes the same bytes for the
same frames (time stamps of ASE's SQLite excepted).
"""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ase.db
import h5py
import lmdb
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.data import chemical_symbols
from ase.db.row import AtomsRow
from ase.io.extxyz import key_val_str_to_dict
from ase.io.jsonio import encode
from ase.io.trajectory import TrajectoryWriter
from ase.stress import full_3x3_to_voigt_6_stress

from covarium.data.frame import Frame
from covarium.data.names import MADE_BY, REST, REST_ARRAYS
from covarium.data.store import COLUMNS, LABELS, VERSION, Rest, Store, arrays_of, charged
from covarium.errors import CovariumError
from covarium.files import replace_text

Pair = tuple[Frame, Rest]
ASE_ARRAYS = ("tags", "momenta", "masses", "initial_magmoms", "initial_charges")  # that all of ASE's formats keep
AT_ONCE = 1000  # rows of a transaction


def pairs(store: Store) -> Iterator[Pair]:
    """Frames and what belongs to them, verified block by block."""
    for block in range(len(store.blocks)):
        yield from pairs_of(store, block)


def pairs_of(store: Store, block: int) -> Iterator[Pair]:
    """Those of one block, verified."""
    store.verify(block)
    for k in range(store.blocks[block - 1]["totals"]["frame"] if block else 0, store.blocks[block]["totals"]["frame"]):
        yield store.frame(k), store.rest(k)


def as_atoms(frame: Frame, rest: Rest, *, charged: bool) -> Atoms:
    """With labels in a calculator, frozen atoms as a constraint, and all the rest in ``info`` and ``arrays``."""
    info = dict(rest.info) | ({"charge": frame.charge, "spin": frame.spin} if charged else {})
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, info=info)
    for name, array in arrays_of(frame, rest).items():
        atoms.set_array(name, np.asarray(array))
    results: dict[str, Any] = dict(frame.labels)
    if "energy" in results:
        results["energy"] = float(results["energy"])
    if "stress" in results:
        results["stress"] = full_3x3_to_voigt_6_stress(results["stress"])
    if frame.fixed.any():
        atoms.set_constraint(FixAtoms(mask=frame.fixed))
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _as_row(frame: Frame, rest: Rest, index: int, charges: bool) -> tuple[AtomsRow, dict[str, Any]]:
    """A row of an ASE data base and its data: what ASE has no column for."""
    atoms = as_atoms(frame, rest, charged=charges)
    data = dict(atoms.info) | {name: a for name, a in rest.arrays.items() if name not in ASE_ARRAYS}
    row = AtomsRow(atoms)
    row.__dict__.update(unique_id=f"{index:032x}", ctime=0.0, user="")  # not random, not of this moment
    return row, data


def write_extxyz(path: Path, store: Store) -> None:
    """Goes on with what an ended call has written of the same set, as its journal beside ``path`` knows."""
    journal = path.with_name(f"{path.name}.journal")
    blocks, size = _written(path, journal, store)
    with path.open("ab") as file:
        file.truncate(size)
        for block in range(blocks, len(store.blocks)):
            for frame, rest in pairs_of(store, block):
                file.write(extxyz(frame, rest, charged=charged(store.header)).encode())
            file.flush()
            os.fsync(file.fileno())
            done = {"set": store.header["sha256"], "blocks": block + 1, "bytes": file.tell()}
            replace_text(journal, json.dumps(done))
    journal.unlink(missing_ok=True)


def retyped(store: Store) -> list[str]:
    """What extended xyz gives back with the same numbers and as another type."""
    found: Counter[str] = Counter()
    for k in range(len(store) if store.totals["rest"] else 0):
        found.update(name for name, value in store.rest(k).info.items() if _becomes_array(value))
    return [f"'{name}': a list, read back as an array, in {count} frames" for name, count in sorted(found.items())]


def _becomes_array(value: Any) -> bool:  # noqa: ANN401
    """As ASE reads it; lists of texts stay what they are."""
    return isinstance(value, list | tuple) and np.asarray(value).dtype.kind in "ifb"


def _written(path: Path, journal: Path, store: Store) -> tuple[int, int]:
    """Blocks of the set that are in the file for certain, and their bytes."""
    if not (path.exists() and journal.exists()):
        return 0, 0
    done = json.loads(journal.read_text(encoding="utf-8"))
    whole = done["set"] == store.header["sha256"] and path.stat().st_size >= done["bytes"]
    return (done["blocks"], done["bytes"]) if whole else (0, 0)


def extxyz(frame: Frame, rest: Rest, *, charged: bool) -> str:
    """One frame as text; numbers as the shortest decimals that give back their bits, unlike ASE's writer."""
    words = []
    if frame.cell.any():
        words.append(f'Lattice="{_floats(frame.cell)}"')
    columns: dict[str, np.ndarray] = {"pos": frame.positions}
    if "forces" in frame.labels:
        columns["forces"] = frame.labels["forces"]
    if frame.fixed.any():
        columns["move_mask"] = ~frame.fixed
    info = dict(rest.info)
    for name, array in arrays_of(frame, rest).items():
        small = array.dtype.kind != "i" or np.abs(array).max(initial=0) < 2**31
        texts = array.dtype.kind == "U"
        plain = small and array.ndim <= 2 and not (texts and any(" " in text or not text for text in array.ravel()))
        (columns if plain else info)[name] = array
    kinds = {"f": "R", "i": "I", "u": "I", "b": "L", "U": "S"}
    properties = "".join(
        f":{name}:{kinds[array.dtype.kind]}:{array.shape[1] if array.ndim > 1 else 1}"
        for name, array in columns.items()
    )
    words.append(f"Properties=species:S:1{properties}")
    words.append('pbc="' + " ".join("FT"[bool(p)] for p in frame.pbc) + '"')
    if "energy" in frame.labels:
        words.append(f"energy={float(frame.labels['energy'])!r}")
    if "stress" in frame.labels:
        words.append(f'stress="{_floats(frame.labels["stress"])}"')
    if charged:
        words += [f"charge={frame.charge!r}", f"spin={frame.spin!r}"]
    words += [_word(name, value) for name, value in info.items()]
    cells = [[chemical_symbols[z] for z in frame.numbers]]
    for array in columns.values():
        cells += [_cells(column) for column in (array.T if array.ndim > 1 else array[None])]
    lines = [" ".join(row) for row in zip(*cells, strict=True)]
    return "\n".join([str(len(frame.numbers)), " ".join(words), *lines]) + "\n"


def _floats(values: np.ndarray) -> str:
    return " ".join(map(repr, values.ravel().tolist()))


def _cells(column: np.ndarray) -> list[str]:
    if column.dtype.kind == "b":
        return ["FT"[int(x)] for x in column]
    return [x if isinstance(x, str) else repr(x) for x in column.tolist()]


def _word(name: str, value: Any) -> str:  # noqa: ANN401
    """``name=value`` in the way that reads as the same value; JSON where the plain text would read as another.

    Raises:
        CovariumError: there is none.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    plain = value if isinstance(value, str) else None
    if isinstance(value, int | float):
        plain = "FT"[value] if isinstance(value, bool) else repr(value)
    for text in (plain, "_JSON " + json.dumps(value, ensure_ascii=True)):
        if text is not None and "\n" not in text:
            word = '{}="{}"'.format(*(part.replace("\\", "\\\\").replace('"', '\\"') for part in (name, text)))
            word = word if any(c in name for c in " ='{}[]") is False else f'"{name}"="{text}"'
            found = key_val_str_to_dict(word).get(name)
            found = found.tolist() if isinstance(found, np.ndarray | np.generic) else found
            if type(found) is type(value) and (found == value or (found != found and value != value)):
                return word
    raise CovariumError(
        f"'{name}' = {str(value)[:60]!r} cannot be written as extxyz; choose .db, .h5, .aselmdb or .frames"
    )


def write_traj(path: Path, store: Store) -> None:
    with TrajectoryWriter(str(path)) as file:
        for frame, rest in pairs(store):
            atoms = as_atoms(frame, rest, charged=charged(store.header))
            # the format knows ASE's own arrays only
            for name in [name for name in rest.arrays if name not in ASE_ARRAYS]:
                atoms.info[name] = atoms.arrays.pop(name)
            file.write(atoms)


def write_db(path: Path, store: Store) -> None:
    with ase.db.connect(str(path), type="db", use_lock_file=False, serial=True) as rows:
        rows.metadata = {MADE_BY: VERSION}
        for index, (frame, rest) in enumerate(pairs(store)):
            row, data = _as_row(frame, rest, index, charged(store.header))
            rows.write(row, data=data)


def write_aselmdb(path: Path, store: Store) -> None:
    """ASE rows as ``ase-db-backends`` writes and reads them."""

    def packed(value: Any) -> bytes:  # noqa: ANN401
        return zlib.compress(encode(value).encode())

    # room in the address space, not on the disk
    with lmdb.open(str(path), subdir=False, lock=False, map_size=2**41) as environment:
        put = environment.begin(write=True)
        count = 0
        for count, (frame, rest) in enumerate(pairs(store), 1):
            row, data = _as_row(frame, rest, count, charged(store.header))
            fields = {key: row[key] for key in row if key != "id"}
            fields |= {"mtime": 0.0, "cell": frame.cell, "pbc": frame.pbc, "data": data, "key_value_pairs": {}}
            if row.constraints:
                fields["constraints"] = [constraint.todict() for constraint in row.constraints]
            put.put(str(count).encode(), packed(fields))
            if count % AT_ONCE == 0:
                put.commit()
                put = environment.begin(write=True)
        put.put(b"nextid", packed(count + 1))
        put.put(b"metadata", packed({MADE_BY: VERSION}))
        put.commit()
        environment.sync(True)


def write_npz(path: Path, store: Store) -> None:
    """Arrays [frames, atoms of the largest, …], filled up with zeros; what not all frames have goes into JSON."""
    atoms = np.diff(store.starts)
    frames, most = len(store), int(atoms.max())
    shapes = {
        "numbers": (np.int64, ()),
        "positions": (np.float64, (3,)),
        "forces": (np.float64, (3,)),
        "fixed": (bool, ()),
        "tags": (np.int64, ()),
    }
    whole = [name for name in LABELS if store.labels[name] == frames]
    for name in {"fixed", "tags"} - set(store.header["nonzero"]):
        del shapes[name]
    if "forces" not in whole:
        del shapes["forces"]
    arrays: dict[str, np.ndarray] = {
        name: np.zeros((frames, most, *shape), dtype) for name, (dtype, shape) in shapes.items()
    }
    for name in ("cell", "pbc", *(name for name in whole if name != "forces")):
        arrays[name] = np.array(store.column(name))
    if charged(store.header):
        arrays |= {name: np.array(store.column(name)) for name in ("charge", "spin")}
    texts: dict[str, list[str]] = {REST: [], REST_ARRAYS: []}
    for k, (frame, rest) in enumerate(pairs(store)):
        n = len(frame.numbers)
        for name in shapes:
            arrays[name][k, :n] = frame.labels["forces"] if name == "forces" else getattr(frame, name)
        beside = {**rest.info, **{x: v for x, v in frame.labels.items() if x not in whole}}
        for name, part in ((REST, beside), (REST_ARRAYS, dict(rest.arrays))):
            texts[name].append(encode(part) if part else "")
    arrays |= {name: np.array(lines) for name, lines in texts.items() if any(lines)}
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write_hdf5(path: Path, store: Store) -> None:
    """The columns of the set, in chunks."""
    with h5py.File(path, "w", libver="v110") as file:
        file.attrs["covarium"] = json.dumps(store.header, ensure_ascii=False)
        for name, column in COLUMNS.items():
            values = store.column(name)
            out = file.create_dataset(name, values.shape, column.dtype, compression="gzip" if len(values) else None,
                                      shuffle=bool(len(values)), fletcher32=bool(len(values)))  # fmt: skip
            for start in range(0, len(values), 2**18):
                out[start : start + 2**18] = values[start : start + 2**18]
                store.release()


CONTINUED = (".extxyz", ".xyz")  # an ended call of the writer goes on; the others begin anew
WRITERS: Mapping[str, Callable[[Path, Store], None]] = MappingProxyType(
    {
        ".extxyz": write_extxyz, ".xyz": write_extxyz, ".traj": write_traj, ".db": write_db, ".aselmdb": write_aselmdb,
        ".npz": write_npz, ".h5": write_hdf5, ".hdf5": write_hdf5,
    }
)  # fmt: skip

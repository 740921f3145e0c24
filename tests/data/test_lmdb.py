"""LMDBs of ASE rows and of OC20's pickles: read, and nothing in them is ever run."""

from __future__ import annotations

import collections
import os
import pickle
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import lmdb
import numpy as np
import pytest
import torch
from ase.constraints import FixAtoms
from ase.io.jsonio import encode
from damage import assert_damage_is_named
from spring_waters import springs, waters

from covarium.data import oc20, read
from covarium.data.convert import convert
from covarium.data.formats import stream
from covarium.errors import CovariumError


def put(path: Path, content: dict[bytes, bytes]) -> None:
    with lmdb.open(str(path), subdir=False, map_size=2**28, lock=False) as environment:
        with environment.begin(write=True) as view:
            for key, value in content.items():
                view.put(key, value)


class Plain:
    """torch_geometric 1 keeps the fields in the object."""


class Nested:
    """torch_geometric 2: the object holds a storage that points back to it, and classes by name."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__


class GlobalStorage:
    pass


@pytest.fixture
def geometric() -> Iterator[Callable[[int, dict[str, Any]], bytes]]:
    """Pickles records as the two versions of torch_geometric do, under their names."""
    names = {"torch_geometric", "torch_geometric.data", "torch_geometric.data.data", "torch_geometric.data.storage"}
    assert not names & sys.modules.keys(), "the real package would do"
    modules = {name: types.ModuleType(name) for name in names}
    sys.modules.update(modules)

    def pickled(version: int, fields: dict[str, Any]) -> bytes:
        kind: Any = Plain if version == 1 else Nested
        kind.__name__ = kind.__qualname__ = "Data"
        kind.__module__ = "torch_geometric.data.data"
        GlobalStorage.__module__ = "torch_geometric.data.storage"
        modules["torch_geometric.data.data"].Data = kind  # type: ignore[attr-defined]
        modules["torch_geometric.data.storage"].GlobalStorage = GlobalStorage  # type: ignore[attr-defined]
        record = kind()
        if version == 1:
            record.__dict__.update(x=None, edge_attr=None, **fields)
        else:
            store = GlobalStorage()
            store.__dict__.update(_mapping=fields, _parent=record)
            record.__dict__.update(_edge_attr_cls=kind, _store=store)
        return pickle.dumps(record, protocol=2 if version == 1 else pickle.HIGHEST_PROTOCOL)

    yield pickled
    for name in names:
        del sys.modules[name]


def slab(index: int) -> dict[str, Any]:
    """The fields of an S2EF record."""
    rng = torch.Generator().manual_seed(index)
    return {
        "pos": torch.randn(5, 3, generator=rng), "cell": torch.eye(3)[None] * 9, "natoms": 5, "sid": index, "fid": 3,
        "atomic_numbers": torch.tensor([29.0, 29, 8, 6, 1]), "tags": torch.tensor([0, 1, 2, 2, 2]),
        "edge_index": torch.zeros(2, 4, dtype=torch.int64), "cell_offsets": torch.zeros(4, 3),
        "y": -1.25 - index, "force": torch.randn(5, 3, generator=rng), "fixed": torch.tensor([1.0, 0, 0, 0, 0]),
    }  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_s2ef(tmp_path: Path, geometric: Callable[[int, dict[str, Any]], bytes], version: int) -> None:
    content = {str(k).encode(): geometric(version, slab(k)) for k in range(12)}
    put(tmp_path / "data.0000.lmdb", {**content, b"length": pickle.dumps(12)})
    put(tmp_path / "data.0001.lmdb", {str(k).encode(): geometric(version, slab(20 + k)) for k in range(3)})
    frames = read([tmp_path]).frames
    assert len(frames) == 15 and (frames[13].source, frames[13].index) == (str(tmp_path / "data.0001.lmdb"), 1)
    for frame, k in zip(frames, [*range(12), 20, 21, 22], strict=True):
        fields = slab(k)
        np.testing.assert_array_equal(frame.positions, fields["pos"].double())
        np.testing.assert_array_equal(frame.labels["forces"], fields["force"].double())
        assert frame.labels["energy"] == -1.25 - k and frame.fixed.tolist() == [True, False, False, False, False]
        assert frame.pbc.all() and frame.cell.tolist() == (9 * np.eye(3)).tolist()
        assert frame.numbers.tolist() == [29, 29, 8, 6, 1]


def test_is2re_has_no_label_of_the_structure_and_says_what_it_has(
    tmp_path: Path, geometric: Callable[[int, dict[str, Any]], bytes]
) -> None:
    fields = slab(0)
    for name in ("y", "force"):
        del fields[name]
    fields |= {"y_init": 0.5, "y_relaxed": -2.0, "pos_relaxed": fields["pos"] + 0.1}
    put(tmp_path / "a.lmdb", {b"0": geometric(2, fields), b"1": geometric(2, fields)})
    with pytest.raises(CovariumError, match="no energy under a usual name.*'y_init', 'y_relaxed'"):
        read([tmp_path / "a.lmdb"], need=["energy"])
    reading = read([tmp_path / "a.lmdb"], need=["energy"], keys={"energy": "y_relaxed"})
    assert reading.frames[1].labels["energy"] == -2.0
    convert(tmp_path / "a.lmdb", tmp_path / "a.extxyz", keys={"energy": "y_relaxed"})
    atoms = ase.io.read(tmp_path / "a.extxyz")
    np.testing.assert_array_equal(atoms.arrays["pos_relaxed"] if "pos_relaxed" in atoms.arrays
                                  else np.array(atoms.info["pos_relaxed"]), fields["pos_relaxed"].double())  # fmt: skip


class Payload:
    """Writes a file if it is ever unpickled by the ordinary unpickler."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_payloads_never_run(tmp_path: Path, geometric: Callable[[int, dict[str, Any]], bytes]) -> None:
    mark = tmp_path / "ran"
    hidden = geometric(2, {**slab(0), "extra": Payload(mark)})
    nested = pickle.dumps(collections.OrderedDict(a=Payload(mark)))
    # a tensor whose storage file is itself a payload, which torch would unpickle without restraint
    inside = pickle.dumps(torch.ones(2)).replace(b"x", b"x")
    storage = b"\x80\x02ctorch.storage\n_load_from_bytes\nB" + len(nested).to_bytes(4, "little") + nested + b"\x85R."
    for content in (pickle.dumps(Payload(mark)), hidden, nested, storage):
        put(tmp_path / "a.lmdb", {b"0": content})
        with pytest.raises(CovariumError, match=r"a\.lmdb, frame 0: it (names '(posix|nt)\.system'|holds)"):
            read([tmp_path / "a.lmdb"])
        with pytest.raises(CovariumError):
            oc20.read_record(content)
        (tmp_path / "a.lmdb").unlink()
    put(tmp_path / "a.lmdb", {b"0": geometric(2, slab(0)), b"length": pickle.dumps(Payload(mark))})
    with pytest.raises(CovariumError, match="names 'posix.system'"):
        read([tmp_path / "a.lmdb"])
    assert not mark.exists()
    pickle.loads(inside)
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # the payload works where pickles are trusted


@pytest.mark.parametrize("name", ["builtins eval", "builtins getattr", "torch load", "numpy load", "codecs decode",
                                  "torch.storage TypedStorage", "numpy.core.multiarray fromstring"])  # fmt: skip
def test_other_names_mean_nothing(name: str) -> None:
    module, function = name.split()
    with pytest.raises(CovariumError, match=f"it names '{module}.{function}'"):
        oc20.read_record(f"c{module}\n{function}\n(S'1'\ntR.".encode())


def test_tensors_cannot_reach_beyond_their_bytes(geometric: Callable[[int, dict[str, Any]], bytes]) -> None:
    tensor = torch.arange(12.0).reshape(3, 4)[:, ::2]
    whole = geometric(2, {**slab(0), "pos": tensor})
    np.testing.assert_array_equal(oc20.read_record(whole)["pos"], tensor)
    storage = np.zeros(12)
    for offset, shape, strides in ((0, (3, 5), (5, 1)), (11, (2,), (1,)), (-1, (1,), (1,)), (0, (2,), (-1,))):
        with pytest.raises(CovariumError, match="holds a (damaged )?tensor"):
            oc20._tensor(storage, offset, shape, strides)
    rng = np.random.default_rng(0)
    for _ in range(300):  # damaged anywhere: refused, or read as other numbers
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        try:
            oc20.read_record(bytes(content))
        except CovariumError:
            continue


def ase_rows(path: Path, *, plain: bool) -> None:
    """As ase-db-backends writes them, or as fairchem's older writer did, with bare lists."""
    content = {b"nextid": zlib.compress(b"7"), b"deleted_ids": zlib.compress(b"[3]")}
    for k, atoms in enumerate(waters(5)):
        energy, forces = springs(atoms.positions)
        row = {
            "numbers": atoms.numbers, "positions": atoms.positions, "cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool),
            "unique_id": "x", "ctime": 1.0, "mtime": 1.0, "user": "", "calculator": "unknown", "energy": energy,
            "forces": forces, "constraints": [FixAtoms([0]).todict()], "data": {"mol": f"m{k % 2}", "gap": 1.5},
            "key_value_pairs": {"level": "PBE"},
        }  # fmt: skip
        if plain:
            row = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in row.items()}
        content[str([1, 2, 4, 5, 6][k]).encode()] = zlib.compress(encode(row).encode())
    put(path, content)


@pytest.mark.parametrize("plain", [True, False])
def test_aselmdb(tmp_path: Path, plain: bool) -> None:
    ase_rows(tmp_path / "a.aselmdb", plain=plain)
    reading = read([tmp_path / "a.aselmdb"])
    assert reading.theory == "level PBE" and [frame.group for frame in reading.frames] == ["m0", "m1", "m0", "m1", "m0"]
    for frame, atoms in zip(reading.frames, waters(5), strict=True):
        energy, forces = springs(atoms.positions)
        assert frame.labels["energy"] == energy and frame.fixed.tolist() == [True, False, False]
        np.testing.assert_array_equal(frame.labels["forces"], forces)


def test_damaged_files_are_refused_and_do_not_end_the_process(tmp_path: Path) -> None:
    whole = tmp_path / "whole.aselmdb"
    ase_rows(whole, plain=False)
    content = whole.read_bytes()
    path = tmp_path / "a.aselmdb"
    assert_damage_is_named(content, path, (len(content) * 3 // 4, len(content) // 2, 8192, 100, 0), places=20, seed=1)


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a.aselmdb", {b"nextid": zlib.compress(b"3"), b"1": b"no zlib", b"2": zlib.compress(b"{}")})
    with pytest.raises(CovariumError, match=r"a\.aselmdb, frame 0: its row 1 is damaged.*copy the file again"):
        read([tmp_path / "a.aselmdb"])
    damage: list[tuple[int, str]] = []
    assert not list(stream(tmp_path / "a.aselmdb", {}, damaged=lambda *told: damage.append(told)))
    assert [index for index, _ in damage] == [0, 1] and "its row 2 is no structure" in damage[1][1]
    put(tmp_path / "b.lmdb", {b"some": b"thing"})
    with pytest.raises(CovariumError, match="neither ASE rows nor OC20 records; its first keys are \\[b'some'\\]"):
        read([tmp_path / "b.lmdb"])

"""The pickled records of OC20's LMDBs, read without running anything that is in them.

A record is a pickled ``torch_geometric.data.Data`` of tensors. Here nothing but the few names below means anything to
the unpickler: they give plain stand-ins, tensors become numpy arrays from their bytes, and every other name is refused.
Layouts: torch_geometric 1 keeps the fields in the object, torch_geometric 2 in its ``_store``.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from covarium.errors import CovariumError

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first word of torch's format of a single storage
STORAGES: Mapping[str, str] = MappingProxyType(
    {
        "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
        "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?",
    }
)  # fmt: skip
PLAIN_DTYPE = re.compile(r"[<>=|]?([biufSU]\d+|\?)")
DERIVED = ("edge_index", "cell_offsets", "distances", "neighbors", "natoms", "batch", "ptr")  # follow from the rest


def read_record(content: bytes) -> dict[str, Any]:
    """The fields of one record: arrays, numbers, strings and None.

    Raises:
        CovariumError: it names code, or is no such record.
    """
    data = _load(content, _Record)
    if not isinstance(data, _Fields):
        raise CovariumError(f"it holds a {type(data).__name__}, expected a torch_geometric Data")
    store = data.__dict__.get("_store", data)
    fields = store.__dict__.get("_mapping", store.__dict__) if isinstance(store, _Fields) else store
    if not isinstance(fields, dict):
        raise CovariumError("it is a torch_geometric Data of an unknown version")
    return {str(name): _plain(value) for name, value in fields.items()}


def read_number(content: bytes) -> int:
    """A pickled whole number."""
    number = _load(content, _Record)
    if not isinstance(number, int):
        raise CovariumError(f"it holds a {type(number).__name__}, expected a number")
    return number


def _load(content: bytes, kind: type[pickle.Unpickler]) -> Any:  # noqa: ANN401
    try:
        return kind(io.BytesIO(content)).load()
    except CovariumError:
        raise
    except Exception as error:  # damaged pickles raise every kind of exception
        raise CovariumError(f"it is damaged: {type(error).__name__}: {error}") from error


class _Fields:
    """In place of a torch_geometric class: whatever its state was."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Dtype:
    """In place of numpy.dtype."""

    def __init__(self, name: str, *_: object) -> None:
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    def dtype(self) -> np.dtype[Any]:
        if not PLAIN_DTYPE.fullmatch(self.name):
            raise CovariumError(f"it holds a numpy array of '{self.name}', expected numbers or strings")
        return np.dtype(self.name).newbyteorder(self.order if self.order in "<>" else "=")  # type: ignore[arg-type]


class _Array:
    """In place of numpy.ndarray."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        self.array = np.frombuffer(content, dtype.dtype()).reshape(shape, order="F" if fortran else "C")


class _Storage:
    """In place of the class of a storage."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Record(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        found = _named(module, name)
        return _refuse(module, name) if found is None else found


class _TorchFile(_Record):
    """A storage inside its own file: named by a persistent id, its bytes come later."""

    def persistent_load(self, pid: Any) -> Any:  # noqa: ANN401
        kind, storage, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(storage, _Storage):
            raise CovariumError("it holds a torch file of something else than a tensor")
        return storage.name, key, count


def _refuse(module: str, name: str) -> NoReturn:
    raise CovariumError(
        f"it names '{module}.{name}', which a record of numbers does not need and which might run code; it was not read"
    )


def _named(module: str, name: str) -> Any:  # noqa: ANN401
    """What a name means; None for all names that mean nothing."""
    if module.startswith("torch_geometric.data") and name in (
        "Data",
        "GlobalStorage",
        "DataEdgeAttr",
        "DataTensorAttr",
    ):
        return _Fields
    if module == "torch" and name in STORAGES:
        return _Storage(name)
    allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch.storage", "_load_from_bytes"): _storage,
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "defaultdict"): _dictionary,
        ("_codecs", "encode"): _encode,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
    }
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = _empty
        allowed[f"{core}.multiarray", "scalar"] = _scalar
        allowed[f"{core}.numeric", "_frombuffer"] = _from_buffer
    return allowed.get((module, name))


def _dictionary(*_: object) -> dict[Any, Any]:
    return {}


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    return text.encode("latin1" if encoding == "latin1" else "utf-8")


def _empty(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, content: bytes) -> Any:  # noqa: ANN401
    return np.frombuffer(content, dtype.dtype())[0].item()


def _from_buffer(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:  # noqa: ANN401
    return np.frombuffer(bytes(content), dtype.dtype()).reshape(shape, order="F" if order == "F" else "C")


def _storage(content: bytes) -> np.ndarray:
    """A torch storage file: five pickles, then the number of elements and their bytes."""
    file = io.BytesIO(content)

    def part(kind: type[pickle.Unpickler] = _Record) -> Any:  # noqa: ANN401
        return kind(file).load()

    magic, _, system, named, keys = part(), part(), part(), part(_TorchFile), part()
    if magic != TORCH_MAGIC or not system["little_endian"]:
        raise CovariumError("it holds a tensor in a foreign torch format")
    name, key, count = named
    dtype = np.dtype(STORAGES[name])
    stored = int.from_bytes(file.read(8), sys.byteorder)
    array = np.frombuffer(file.read(), dtype)
    if keys != [key] or stored != count or len(array) != count:
        raise CovariumError(f"it holds a tensor of {count} elements with the bytes of {len(array)}")
    return array


def _tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> np.ndarray:
    """The elements of a storage that belong to a tensor, copied."""
    if not isinstance(storage, np.ndarray) or min((offset, *shape, *strides), default=0) < 0:
        raise CovariumError("it holds a damaged tensor")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(storage):
        raise CovariumError(f"it holds a tensor of shape {list(shape)} with {len(storage)} elements")
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Without stand-ins; single numbers out of their arrays."""
    if isinstance(value, _Array):
        value = value.array
    if isinstance(value, np.ndarray):
        return value.item() if value.size == 1 and value.ndim == 0 else value
    return value if isinstance(value, str | int | float | bool | list | tuple | None) else str(type(value).__name__)

"""Our file of a trained task: safetensors with a JSON header. Nothing in it is ever executed.

The safetensors metadata hold two strings: ``covarium``, the JSON of ``{"format", "model", "config", "task", "card"}``,
and ``sha256`` over that JSON and all tensors, so that a flipped bit anywhere is found. Files are written beside their
place and moved onto it when they are safely on disk: at every moment the old file or the new one is there, complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from covarium.errors import CovariumError, nearest
from covarium.files import replace_file
from covarium.models import MODELS
from covarium.tasks import TASKS

Header = dict[str, Any]
Tensors = dict[str, Tensor]
Models = Mapping[str, tuple[type[Any], type[Any]]]
Migration = Callable[[Header, Tensors], tuple[Header, Tensors]]


def v1_to_v2(header: Header, tensors: Tensors) -> tuple[Header, Tensors]:
    """Potentials got an offset of every structure and scales of their direct heads."""
    task = dict(header["task"])
    if task.get("kind") in ("potential", "denoise"):
        task = {**task, "offset": 0.0, "head_scales": {}}
    return {**header, "task": task}, tensors


# Entry v − 1 turns a file of format v into one of format v + 1, purely: it returns new dictionaries.
MIGRATIONS: tuple[Migration, ...] = (v1_to_v2,)
FORMAT = 1 + len(MIGRATIONS)
SMALL = 32  # sizes that cost nothing to build, whatever they mean

FOREIGN = {
    b"PK\x03\x04": "a PyTorch or zip archive; its pickled content could run code when opened",
    b"\x80": "a Python pickle, which could run code when opened",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"\x89HDF": "an HDF5 file",
    b"<": "a web page or XML, probably a failed download; fetch the file again",
}


@dataclass(frozen=True)
class Checkpoint:
    """A task ready for use (in evaluation mode) and the header it was built from."""

    task: Any
    header: Header


def save(path: Path | str, task: Any, card: Mapping[str, Any], *, models: Models | None = None) -> None:  # noqa: ANN401
    """Write ``task`` to one file, atomically.

    Args:
        path: the file; its folder must exist.
        task: an ``nn.Module`` with ``model`` (an entry of ``MODELS`` with its ``config``) and ``describe()``.
        card: how the task came to be (data, settings, metrics); anything JSON can hold.
        models: the table of models; None for the library's.

    Raises:
        CovariumError: the model is not in the table, or the file cannot be written.
    """
    table = MODELS if models is None else models
    name = next((name for name, (kind, _) in table.items() if type(task.model) is kind), None)
    if name is None:
        raise CovariumError(f"cannot save a {type(task.model).__name__}: the table of models has {sorted(table)}")
    config = asdict(task.model.config)
    header = {"format": FORMAT, "model": name, "config": config, "task": task.describe(), "card": dict(card)}
    write_file(Path(path), task.state_dict(), "covarium", header)


def load(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    models: Models | None = None,
    tasks: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read a file that ``save`` wrote.

    Args:
        path: the file.
        device: where the task goes.
        dtype: of its parameters; None for that of the file.
        models: the table of models; None for the library's.
        tasks: the table of tasks (classes with ``from_description(model, dict)``); None for the library's.

    Raises:
        CovariumError: the file is missing, foreign, damaged or of a newer format, or does not fit its own model.
    """
    path = Path(path)
    tensors, header = read_file(path, "covarium")
    header, tensors = migrate(path, header, tensors)
    try:
        task = _built(
            path, header, tensors, dtype, MODELS if models is None else models, TASKS if tasks is None else tasks
        )
    except CovariumError:
        raise
    except Exception as error:  # what a header describes may be anything
        raise CovariumError(
            f"{path} describes no model that can be built ({type(error).__name__}: {error}); it was made or changed by "
            "something else than Covarium"
        ) from error
    return Checkpoint(task=task.to(device).eval(), header=header)


def _built(
    path: Path,
    header: Header,
    tensors: Tensors,
    dtype: torch.dtype | None,
    models: Models,
    tasks: Mapping[str, Any],
) -> Any:  # noqa: ANN401
    """The task that a header describes, with its weights."""
    model_class, config_class = _entry(path, "model", header.get("model"), models)
    task_class = _entry(path, "task", header.get("task", {}).get("kind"), tasks)
    config = _config(path, config_class, header["config"])
    refuse_beyond(path, header["config"], tensors)
    # Tables that modules derive at construction get the precision of the weights, not of a later conversion.
    before = torch.get_default_dtype()
    dtype = dtype or next((t.dtype for t in tensors.values() if t.is_floating_point()), before)
    with torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(dtype)
        try:
            task = task_class.from_description(model_class(config), header["task"])
        finally:
            torch.set_default_dtype(before)
    task.to(dtype)
    _fill(path, task, tensors)
    return task


def refuse_beyond(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Before a model is built: no size of it can be greater than the number of its weights, and no layer is without.

    Layers may share a tensor, stacked on its first axis. A small size costs nothing, and the side of a lattice may be
    more than its couplings.

    Raises:
        CovariumError: names the first such size.
    """
    weights = sum(tensor.numel() for tensor in tensors.values())
    layers = max([len(tensors), *(len(tensor) for tensor in tensors.values() if tensor.ndim > 2)])
    for name, value in config.items():
        most = layers if name in ("num_layers", "num_blocks") else max(weights, SMALL)
        if isinstance(value, int) and value > most:
            held = f"{weights} weights in {len(tensors)} tensors"
            raise CovariumError(f"{path}: {name} = {value} does not belong to a file of {held}")


def migrate(
    path: Path, header: Header, tensors: Tensors, migrations: tuple[Migration, ...] = MIGRATIONS
) -> tuple[Header, Tensors]:
    """Bring a file of any older format to the newest one.

    Raises:
        CovariumError: the file is newer than the migrations know, or states no format.
    """
    newest = 1 + len(migrations)
    stated = header.get("format")
    if not isinstance(stated, int) or stated < 1:
        raise CovariumError(f"{path}: format is {stated!r}; it must be a whole number from 1 to {newest}")
    if stated > newest:
        raise CovariumError(
            f"{path} has format {stated}, this version of Covarium reads up to {newest}; upgrade with "
            "`pip install --upgrade covarium`"
        )
    for version in range(stated, newest):
        header, tensors = migrations[version - 1](header, tensors)
        header = {**header, "format": version + 1}
    return header, tensors


def write_file(path: Path, tensors: Mapping[str, Tensor], key: str, header: Header) -> None:
    """Write tensors and a JSON header under ``key`` to a safetensors file, atomically, with a hash over both.

    Raises:
        CovariumError: the file cannot be written (no such folder, no space, no permission).
    """
    plain: Tensors = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory, such as tied weights
        plain[name] = value.clone() if memory in seen else value
        seen.add(memory)
    text = json.dumps(header)
    metadata = {key: text, "sha256": _digest(text, plain)}
    # not save_file: it leaves a temporary file of its own when it is killed, and makes the result private to the user
    replace_file(path, lambda place: place.write_bytes(to_bytes(plain, metadata=metadata)))


def read_file(path: Path, key: str) -> tuple[Tensors, Header]:
    """Tensors and JSON header of a file that ``write_file`` wrote under ``key``, checked against its hash.

    Raises:
        CovariumError: the file is missing, foreign or damaged.
    """
    if path.is_dir():
        inside = sorted(str(file) for file in path.glob("*.safetensors"))
        raise CovariumError(f"{path} is a folder; give a file" + (f", such as {inside[0]}" if inside else ""))
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise CovariumError(f"cannot read {path}: {error.strerror}") from error
    for magic, what in FOREIGN.items():
        # the first 8 bytes of a safetensors file are the length of its header, which then opens with a brace
        if start.lstrip(b" \r\n\t").startswith(magic) and start[8:9] != b"{":
            raise CovariumError(f"{path} is {what}. Covarium opens only the safetensors files it wrote")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise CovariumError(f"{path} is truncated, damaged or no safetensors file ({error})") from error
    if key not in metadata:
        found = ", ".join(sorted(metadata)) or "nothing"
        raise CovariumError(f"{path} was not written as '{key}' by Covarium: its header holds {found}")
    if metadata.get("sha256") != _digest(metadata[key], tensors):
        raise CovariumError(f"{path} is damaged: its content does not match its sha256; restore it from a copy")
    try:
        header = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise CovariumError(f"{path}: its header is no JSON ({error}); it was not written by Covarium") from error
    if not isinstance(header, dict):
        raise CovariumError(f"{path}: its header holds a {type(header).__name__}; it was not written by Covarium")
    return tensors, header


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header's text and, by name, every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _entry(path: Path, what: str, name: object, table: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if not isinstance(name, str) or name not in table:
        hint = nearest(str(name), table)
        raise CovariumError(f"{path} holds the {what} '{name}', which is unknown; known: {sorted(table)}{hint}")
    return table[name]


def _config(path: Path, config_class: type[Any], values: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """The model's configuration; JSON's lists become the tuples they were."""
    known = {field.name: field for field in fields(config_class)}
    for name in values:
        if name not in known:
            raise CovariumError(f"{path}: unknown configuration key '{name}'{nearest(name, known)}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise CovariumError(f"{path}: configuration key '{name}' is missing")
    return config_class(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:  # noqa: ANN401
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _fill(path: Path, task: nn.Module, tensors: Tensors) -> None:
    """Copy the weights in, every name and shape checked first."""
    own = task.state_dict()
    for name in own:
        if name not in tensors:
            raise CovariumError(f"{path}: the weights '{name}' are missing{nearest(name, tensors)}")
    for name, tensor in tensors.items():
        if name not in own:
            raise CovariumError(f"{path}: weights '{name}' belong to no part of the model{nearest(name, own)}")
        if tensor.shape != own[name].shape:
            raise CovariumError(
                f"{path}: weights '{name}' have shape {list(tensor.shape)}, the model's have {list(own[name].shape)}"
            )
    task.load_state_dict(tensors)

"""Samples of geometric tokens from files, and batches of them.

Three kinds of file, told apart by their keys (``token_file``):

- the user's own npz: ``positions`` [B, N, 3] with ``vectors`` [B, N, V, 3], ``scalars`` [B, N, S], and at least one of
  ``target_positions`` [B, N, 3], ``target_vectors`` [B, N, V', 3], ``target_scalars`` [B, N, S']; or everything
  packed, [N, …], with ``counts`` [B], for samples of different sizes;
- the n-body file of the code of Brehmer 2023, arXiv 2305.18415: ``m``, ``x_initial``, ``v_initial``, ``x_final``;
- the artery file of J. Suk et al. 2022, arXiv 2109.04797 (HDF5): a group for each sample with ``pos`` [N, 3], ``face``
  [F, 3], ``wss`` [N, 3] and ``inlet_idcs`` (or ``inlet_idx``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from covarium.data.hdf5_files import refuse_other_files
from covarium.data.npz_files import npz_arrays
from covarium.data.processes import apart
from covarium.errors import CovariumError, nearest
from covarium.systems import Tokens
from covarium.systems.tokens import token_cost

TARGETS = ("positions", "vectors", "scalars")
OWN = ("positions", "vectors", "scalars", "counts", *(f"target_{name}" for name in TARGETS))
NBODY = ("m", "x_initial", "v_initial", "x_final")


@dataclass(frozen=True)
class TokenSample:
    """One sample with its targets.

    Attributes:
        positions: [n, 3]. vectors: [n, V, 3]. scalars: [n, S]; float64.
        targets: ``positions`` [n, 3], ``vectors`` [n, V', 3], ``scalars`` [n, S'], those that the file has.
        source, index: file and place in it.
    """

    positions: np.ndarray
    vectors: np.ndarray
    scalars: np.ndarray
    targets: dict[str, np.ndarray]
    source: str = ""
    index: int = 0

    @property
    def where(self) -> str:
        return f"{self.source}, sample {self.index}"


@dataclass(frozen=True)
class TokenBatch:
    """Samples as one system, with their targets [N, …] in float64 and (file, index) of each."""

    system: Tokens
    targets: dict[str, Tensor]
    sources: list[tuple[str, int]]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TokenBatch:
        """A copy on another device; ``dtype`` applies to the vectors of the system. Positions, scalars and targets stay
        float64: a mean is taken off them, and far from zero that would lose digits in less."""
        targets = {name: target.to(device) for name, target in self.targets.items()}
        wide, system = self.system.to(device), self.system.to(device, dtype)
        return TokenBatch(replace(system, positions=wide.positions, scalars=wide.scalars), targets, self.sources)


class TokenDataset:
    """Samples as a data set for training.

    Raises:
        CovariumError: no samples, or not all alike.
    """

    def __init__(self, frames: Sequence[TokenSample]) -> None:
        if not frames:
            raise CovariumError("a data set needs at least one sample, got none")
        first = _form(frames[0])
        for sample in frames:
            if _form(sample) != first:
                raise CovariumError(
                    f"{sample.where} has {_form(sample)}, but {frames[0].where} has {first}; all samples of a data set "
                    "need the same vectors, scalars and targets"
                )
        self.frames = list(frames)

    def __len__(self) -> int:
        return len(self.frames)

    def costs(self) -> list[int]:
        """The relative cost of each sample, ``Tokens.cost()``."""
        return [token_cost(len(sample.positions)) for sample in self.frames]

    def batch(self, indices: Sequence[int]) -> TokenBatch:
        """The samples with these indices."""
        if len(indices) == 0:
            raise CovariumError("a batch needs at least one sample, got none")
        chosen = [self.frames[index] for index in indices]
        counts = torch.tensor([len(sample.positions) for sample in chosen])
        system = Tokens(
            positions=_joined([sample.positions for sample in chosen]),
            vectors=_joined([sample.vectors for sample in chosen]),
            scalars=_joined([sample.scalars for sample in chosen]),
            batch=torch.repeat_interleave(torch.arange(len(counts)), counts),
            counts=counts,
        )
        targets = {name: _joined([sample.targets[name] for sample in chosen]) for name in chosen[0].targets}
        return TokenBatch(system, targets, [(sample.source, sample.index) for sample in chosen])


def _joined(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def _form(sample: TokenSample) -> dict[str, tuple[int, ...]]:
    """Name → shape of what a token has."""
    inputs = {"vectors": sample.vectors.shape[1:], "scalars": sample.scalars.shape[1:]}
    return inputs | {f"target {name}": target.shape[1:] for name, target in sample.targets.items()}


def token_file(path: Path) -> bool:
    """Does the file hold tokens, judged by its keys? A file that cannot be read is judged later, by who reads it."""
    if not path.is_file():
        return False
    if path.suffix in (".h5", ".hdf5"):
        try:
            return next(apart(_of_arteries, path), False)
        except (CovariumError, RuntimeError):
            return False
    if path.suffix != ".npz":
        return False
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
    except Exception:  # of a damaged archive NumPy raises every kind of exception
        return False
    # an incomplete file is told what tokens need, rather than what atoms do
    return "x_initial" in names or bool(names & {"vectors", "scalars", *(f"target_{name}" for name in TARGETS)})


def _of_arteries(path: Path) -> Iterator[bool]:
    """Whether the first group is a mesh or has shear stress; run by ``apart``, as all HDF5 files of structures are."""
    with h5py.File(path, "r") as file:
        first = next((file[name] for name in sorted(file)), None)
        yield isinstance(first, h5py.Group) and "pos" in first and ("face" in first or "wss" in first)


def read_tokens(paths: Sequence[Path], limit: int | None = None) -> list[TokenSample]:
    """All samples of the files, the first ``limit`` of each.

    Raises:
        CovariumError: a file is missing, damaged, or of none of the kinds above; shapes do not fit; a number is not
            finite.
    """
    samples: list[TokenSample] = []
    for path in paths:
        if not path.is_file():
            there = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
            raise CovariumError(f"data file {path} is not there{nearest(path.name, there)}")
        found = _read(path, limit)
        if not found:
            raise CovariumError(f"{path} holds no samples")
        for sample in found:
            _refuse_not_finite(sample)
        samples += found
    return samples


def _read(path: Path, limit: int | None) -> list[TokenSample]:
    try:
        # the library of HDF5 may end its process on damaged files
        return list(apart(_arteries, path, limit)) if path.suffix in (".h5", ".hdf5") else _npz(path, limit)
    except CovariumError as error:
        raise CovariumError(str(error) if str(path) in str(error) else f"{path}, {error}") from error
    except Exception as error:  # of damaged files the libraries raise every kind of exception
        raise CovariumError(f"{path} cannot be read as tokens: {str(error) or type(error).__name__}") from error


def _npz(path: Path, limit: int | None) -> list[TokenSample]:
    names, arrays = npz_arrays(path, str(path), (*OWN, *NBODY))
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise CovariumError(f"{path}: '{name}' holds {array.dtype}, expected real numbers")
    if set(NBODY) <= arrays.keys():
        return _samples(path, _nbody(path, arrays), limit)
    if "positions" not in arrays or not any(name.startswith("target_") for name in arrays):
        unknown = "".join(nearest(name, [own for own in OWN if own not in names]) for name in names if name not in OWN)
        raise CovariumError(
            f"{path} holds {', '.join(names) or 'nothing'}; tokens need 'positions' and a target ("
            f"{', '.join(f'target_{name}' for name in TARGETS)}), or the n-body keys {', '.join(NBODY)}{unknown}"
        )
    for name in names:
        # a misspelt key would be left out in silence; other arrays are the user's own business
        meant = nearest(name, [own for own in OWN if own not in names]) if name not in arrays else ""
        if meant:
            raise CovariumError(f"{path}: '{name}' is no key of tokens{meant} Rename it, or take it out")
    return _samples(path, arrays, limit)


def _nbody(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The published n-body keys as our own."""
    shape = arrays["x_initial"].shape
    for name in NBODY:
        expected = shape[:2] if name == "m" else shape
        if len(shape) != 3 or shape[2] != 3 or arrays[name].shape != expected:
            raise CovariumError(
                f"{path}: '{name}' has shape {list(arrays[name].shape)}; expected m [samples, bodies] and the others "
                f"[samples, bodies, 3], 'x_initial' has {list(shape)}"
            )
    return {
        "positions": arrays["x_initial"],
        "vectors": arrays["v_initial"][..., None, :],
        "scalars": arrays["m"][..., None],
        "target_positions": arrays["x_final"],
    }


def _samples(path: Path, arrays: Mapping[str, np.ndarray], limit: int | None) -> list[TokenSample]:
    """Samples from arrays [B, N, …] or packed ones [N, …] with counts."""
    positions = arrays["positions"]
    packed = "counts" in arrays
    if positions.ndim != (2 if packed else 3) or positions.shape[-1] != 3:
        expected = "[tokens, 3] beside 'counts'" if packed else "[samples, tokens, 3] (or packed, with 'counts')"
        raise CovariumError(f"{path}: 'positions' has shape {list(positions.shape)}, expected {expected}")
    lead = positions.shape[:-1]
    counts = arrays["counts"] if packed else np.full(lead[0], lead[1])
    whole = counts.ndim == 1 and counts.dtype.kind in "iu"
    if not whole or counts.sum() != len(positions.reshape(-1, 3)) or (counts < 1).any():
        raise CovariumError(
            f"{path}: 'counts' must be positive whole numbers [samples] that add up to {lead[0]}, the tokens of "
            f"'positions'; it is {counts.dtype} {list(counts.shape)} with the sum {counts.sum():g}"
            if packed
            else f"{path}: 'positions' has shape {list(positions.shape)}; every sample needs at least one token"
        )
    flat = _flat(path, arrays, lead)
    ends = np.cumsum(counts)
    samples = []
    for index, (start, end) in enumerate(zip(ends - counts, ends, strict=True)):
        if limit is not None and index >= limit:
            break
        part = {name: array[start:end] for name, array in flat.items()}
        targets = {name: part[f"target_{name}"] for name in TARGETS if f"target_{name}" in part}
        samples.append(TokenSample(part["positions"], part["vectors"], part["scalars"], targets, str(path), index))
    return samples


def _flat(path: Path, arrays: Mapping[str, np.ndarray], lead: tuple[int, ...]) -> dict[str, np.ndarray]:
    """All arrays as [N, …] float64 over the tokens of all samples; missing vectors and scalars with no entries."""
    tails = {"positions": (3,), "vectors": (None, 3), "scalars": (None,)}
    tails |= {"target_positions": (3,), "target_vectors": (None, 3), "target_scalars": (None,)}
    total = int(np.prod(lead))
    flat = {"vectors": np.zeros((total, 0, 3)), "scalars": np.zeros((total, 0))}
    for name, tail in tails.items():
        array = arrays.get(name)
        if array is None:
            continue
        rest = array.shape[len(lead) :]
        fits = len(rest) == len(tail) and all(b is None or a == b for a, b in zip(rest, tail, strict=True))
        if array.shape[: len(lead)] != lead or not fits:
            raise CovariumError(
                f"{path}: '{name}' has shape {list(array.shape)}, expected "
                f"{[*lead, *('n' if t is None else t for t in tail)]}"
            )
        flat[name] = array.reshape(total, *rest).astype(np.float64)
    return flat


def _arteries(path: Path, limit: int | None) -> Iterator[TokenSample]:
    """Vertices with their normals and distances from the inlet along the surface; the target is the shear stress."""
    with h5py.File(path, "r") as file:
        refuse_other_files(file, str(path))
        for index, name in enumerate(islice(sorted(file), limit)):
            refuse_other_files(file[name], str(path))
            yield _artery(file[name], f"{path}: '{name}'", str(path), index)


def _artery(group: Any, where: str, source: str, index: int) -> TokenSample:  # noqa: ANN401 - h5py has no types
    keys = sorted(group) if isinstance(group, h5py.Group) else []
    inlet = next((key for key in ("inlet_idcs", "inlet_idx") if key in keys), None)
    if inlet is None or not {"pos", "face", "wss"} <= set(keys):
        raise CovariumError(f"{where} has {', '.join(keys) or 'nothing'}; expected pos, face, wss and inlet_idcs")
    positions, shear = (_array(group, key, "fiu", where) for key in ("pos", "wss"))
    faces, starts = (_array(group, key, "iu", where).astype(np.int64) for key in ("face", inlet))
    n = len(positions) if positions.ndim else 0
    if positions.shape != (n, 3) or shear.shape != (n, 3) or faces.ndim != 2 or faces.shape[1] != 3:
        shapes = ", ".join(f"{key} {list(group[key].shape)}" for key in ("pos", "face", "wss"))
        raise CovariumError(f"{where} has {shapes}; expected pos and wss [vertices, 3], face [triangles, 3]")
    for key, indices in (("face", faces), (inlet, starts)):
        if indices.size == 0 or indices.min() < 0 or indices.max() >= n:
            found = f"{indices.min()} to {indices.max()}" if indices.size else "nothing"
            raise CovariumError(f"{where}: '{key}' holds {found}; expected indices of vertices, 0 to {n - 1}")
    try:
        return surface_sample(
            positions.astype(np.float64), faces, starts.ravel(), shear.astype(np.float64), source, index
        )
    except CovariumError as error:
        raise CovariumError(f"{where}: {error}") from error


def _array(group: Any, key: str, kinds: str, where: str) -> np.ndarray:  # noqa: ANN401 - h5py has no types
    array = np.asarray(group[key])
    if array.dtype.kind not in kinds:
        raise CovariumError(
            f"{where}: '{key}' holds {array.dtype}, expected {'real' if 'f' in kinds else 'whole'} numbers"
        )
    return array


def surface_sample(
    positions: np.ndarray, faces: np.ndarray, inlet: np.ndarray, shear: np.ndarray, source: str = "", index: int = 0
) -> TokenSample:
    """A mesh as tokens: vertices [n, 3] with their normals, and distance from the inlet along edges; target the shear
    stress.

    Args:
        positions: [n, 3].
        faces: [F, 3] indices, alike oriented.
        inlet: indices of the vertices at the inlet.
        shear: [n, 3].
        source, index: for messages.
    """
    normals = vertex_normals(positions, faces)
    distance = surface_distance(positions, faces, inlet)
    return TokenSample(positions, normals[:, None], distance[:, None], {"vectors": shear[:, None]}, source, index)


def vertex_normals(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[n, 3] unit normals, the mean of the faces around each vertex weighted by area."""
    a, b, c = (positions[faces[:, k]] for k in range(3))
    areas = np.cross(b - a, c - a)
    total = np.zeros_like(positions)
    for k in range(3):
        np.add.at(total, faces[:, k], areas)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return total / np.where(length > 0, length, 1.0)


def surface_distance(positions: np.ndarray, faces: np.ndarray, start: np.ndarray) -> np.ndarray:
    """[n] length of the shortest way along edges to the nearest of the ``start`` vertices.

    Raises:
        CovariumError: a vertex is not connected with any of them.
    """
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ends = np.unique(np.sort(ends, axis=1), axis=0)
    lengths = np.linalg.norm(positions[ends[:, 0]] - positions[ends[:, 1]], axis=1)
    graph = coo_matrix((lengths, (ends[:, 0], ends[:, 1])), shape=(len(positions), len(positions)))
    distance = dijkstra(graph.tocsr(), directed=False, indices=start, min_only=True)
    if not np.isfinite(distance).all():
        vertex = int(np.argmin(np.isfinite(distance)))
        raise CovariumError(f"vertex {vertex} of the surface is not connected with the inlet")
    return distance


def _refuse_not_finite(sample: TokenSample) -> None:
    arrays = {"positions": sample.positions, "vectors": sample.vectors, "scalars": sample.scalars}
    arrays |= {f"target {name}": target for name, target in sample.targets.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            token = int(np.argwhere(~np.isfinite(array))[0, 0])
            raise CovariumError(
                f"{sample.where}: {name} of token {token} is not finite; leave the sample out or mend it"
            )

"""Damaged files of every kind: refused by one exception, or read as frames that are finite and valid; nothing else.

Each case is damaged in its own way by a fixed seed; a case that fails says its seed. The long version is marked slow.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import resource
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase.constraints import FixAtoms
from mutations import limited, mutated
from sound import crystals, molecules

from covarium import checkpoint
from covarium.config import RunConfig, build, read_yaml
from covarium.data import Frame, read, read_structures
from covarium.data.convert import convert
from covarium.data.survey import Survey
from covarium.data.tokens import read_tokens, token_file
from covarium.errors import CovariumError
from covarium.models import EquiformerV2
from covarium.tasks import Potential
from covarium.workflows.doctor import TINY
from covarium.workflows.loaded import load

VASP = Path(ase.__file__).parent / "test" / "testdata" / "vasp"
SECONDS = 20  # of one case, on a machine that is busy
GROWTH = 600 * 2**20  # bytes of memory over all cases together
CONFIG = b"""# what a run was told
data: {train: [a.xyz], keys: {energy: REF_energy}, units: {energy: Hartree}, limit: 10, valid_part: 0.1}
model:
  name: equiformer_v2
  lmax: 3
  cutoff: 5.0
task:
  forces: gradient
  terms:
    energy: {loss: mae, weight: 1.0}
    forces: {loss: l2, weight: 10}
  references: {H: -13.6, O: -2041.0}
training: {lr: 1e-3, epochs: 10, betas: [0.9, 0.999]}
seed: 0
"""


def written(folder: Path, name: str, frames: list) -> bytes:
    ase.io.write(folder / name, frames)
    return (folder / name).read_bytes()


def arrays() -> dict[str, np.ndarray]:
    water = [atoms for atoms in molecules(12) if len(atoms) == 3]
    return {
        "z": water[0].numbers,
        "R": np.array([atoms.positions for atoms in water]),
        "E": np.array([atoms.get_potential_energy() for atoms in water]),
        "F": np.array([atoms.get_forces() for atoms in water]),
    }


def packed(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Sound files by name."""
    folder = tmp_path_factory.mktemp("corpus")
    small, periodic = molecules(8)[3:], crystals(4)
    for atoms in small:
        atoms.info["charge"] = 0
    periodic[0].set_constraint(FixAtoms([0]))
    files = {name: written(folder, name, small) for name in ("a.extxyz", "a.xyz", "a.traj", "a.db", "a.json")}
    files |= {name: written(folder, name, periodic) for name in ("c.extxyz", "c.traj")}
    out = io.BytesIO()
    np.savez(out, **arrays())
    torch.manual_seed(0)
    checkpoint.save(folder / "m.safetensors", Potential(EquiformerV2(TINY), references={1: 0.0}), {"run": {}})
    return files | {
        "a.npz": out.getvalue(),
        "OUTCAR": (VASP / "OUTCAR_example_1").read_bytes(),
        "vasprun.xml": (VASP / "vasprun_pstress.xml").read_bytes(),
        "run.yaml": CONFIG,
        "m.safetensors": (folder / "m.safetensors").read_bytes(),
    }


def sound(frame: Frame) -> bool:
    values = [frame.positions, frame.cell, *frame.labels.values(), frame.charge, frame.spin]
    return all(np.isfinite(value).all() for value in values) and 1 <= frame.numbers.min() and frame.numbers.max() <= 118


def read_labelled(path: Path) -> None:
    assert all(map(sound, read([path], need=["energy"]).frames))


def read_bare(path: Path) -> None:
    for structure in read_structures([path]):
        assert len(structure.atoms.numbers) == len(structure.atoms.positions)


def read_all(path: Path) -> None:
    survey = Survey()
    survey.read(path)
    assert all(np.isfinite(survey.columns.fingerprints().ravel()))


def read_config(path: Path) -> None:
    build(RunConfig, read_yaml(path))


def read_samples(path: Path) -> None:
    assert all(np.isfinite(sample.positions).all() for sample in read_tokens([path]))


DATA = (read_labelled, read_bare, read_all)
READERS: dict[str, tuple[Callable[[Path], None], ...]] = {"run.yaml": (read_config,), "m.safetensors": (load,)}


def mutate_and_read(path: Path, original: bytes, cases: int, seed: int, wrap: Callable[[bytes], bytes]) -> int:
    """How many of the cases were read."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = np.random.default_rng(seed)
    done = 0
    for case in range(cases):
        path.write_bytes(wrap(mutated(original, rng)))
        # ASE warns of much that is odd
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for reader in READERS.get(path.name, DATA):
                try:
                    with limited(SECONDS):
                        reader(path)
                    done += 1
                except CovariumError as error:
                    assert str(error)
                except BaseException as error:
                    raise AssertionError(f"case {case} of seed {seed}: {reader.__name__} raised {error!r}") from error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < GROWTH, f"{grown / 1024:.0f} MiB more memory"
    return done


CASES = {
    "a.extxyz": 150, "a.xyz": 60, "c.extxyz": 150, "a.traj": 100, "c.traj": 150, "a.db": 60, "a.json": 100,
    "a.npz": 100, "OUTCAR": 30, "vasprun.xml": 60, "run.yaml": 400, "m.safetensors": 200,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_damaged_files(name: str, corpus: dict[str, bytes], tmp_path: Path) -> None:
    done = mutate_and_read(tmp_path / name, corpus[name], CASES[name], 1, bytes)
    # a checksum finds every damage, and a damaged number at least sometimes leaves a valid file
    assert done <= 4 if name == "m.safetensors" else done > 0


@pytest.mark.parametrize(("suffix", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress), (".bz2", bz2.compress)])
def test_damage_inside_and_outside_of_compression(
    suffix: str, pack: Callable[[bytes], bytes], corpus: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / f"c.extxyz{suffix}"
    assert mutate_and_read(path, corpus["c.extxyz"], 40, 2, pack) > 0
    mutate_and_read(path, pack(corpus["c.extxyz"]), 60, 3, bytes)


def test_damaged_arrays_under_sound_checksums(tmp_path: Path) -> None:
    """The zip's own checksums would hide what a wrong header of an array does."""
    members = {}
    for name, array in arrays().items():
        out = io.BytesIO()
        np.save(out, array)
        members[f"{name}.npy"] = out.getvalue()
    rng = np.random.default_rng(4)

    def one_damaged(data: bytes) -> bytes:
        name = ["R.npy", "E.npy", "F.npy", "z.npy"][int(rng.integers(4))]
        return packed(members | {name: mutated(members[name], rng)})

    mutate_and_read(tmp_path / "a.npz", b"", 150, 5, one_damaged)


def token_arrays(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    if kind == "n-body":
        return {"m": np.ones((6, 4)), **{x: rng.normal(size=(6, 4, 3)) for x in ("x_initial", "v_initial", "x_final")}}
    return {
        "positions": rng.normal(size=(12, 3)), "vectors": rng.normal(size=(12, 2, 3)),
        "target_scalars": rng.normal(size=(12, 1)), "counts": np.array([5, 4, 3]),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["own", "n-body"])
def test_damaged_tokens(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the archive, and of its arrays under sound checksums."""
    path = tmp_path / "tokens.npz"
    members = {}
    for name, array in token_arrays(kind).items():
        out = io.BytesIO()
        np.save(out, array)
        members[f"{name}.npy"] = out.getvalue()
    rng = np.random.default_rng(7)

    def inside(_: bytes) -> bytes:
        name = list(members)[int(rng.integers(len(members)))]
        return packed(members | {name: mutated(members[name], rng)})

    monkeypatch.setitem(READERS, path.name, (read_samples, token_file))
    assert mutate_and_read(path, packed(members), 200, 8, bytes) > 0
    assert mutate_and_read(path, b"", 300, 9, inside) > 0


def hdf5(kind: str, path: Path) -> bytes:
    """ANI's layout, arteries, or our own columns."""
    waters = [atoms for atoms in molecules(12) if len(atoms) == 3]
    if kind == "own":
        ase.io.write(path.with_name("a.extxyz"), waters)
        convert(path.with_name("a.extxyz"), path)
        return path.read_bytes()
    with h5py.File(path, "w") as file:
        if kind == "ani":
            group = file.create_group("mol/a")
            group["coordinates"], group["species"] = arrays()["R"], arrays()["z"]
            group["energies"], group["forces"] = arrays()["E"], arrays()["F"]
        else:
            group = file.create_group("sample")
            group["pos"], group["wss"] = np.eye(4, 3), np.ones((4, 3))
            group["face"], group["inlet_idcs"] = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1]]), np.array([0])
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["ani", "own", "arteries"])
def test_damaged_hdf5(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library may end its process or never come back; ours goes on."""
    monkeypatch.setenv("COVARIUM_READ_TIMEOUT", "3")
    path = tmp_path / f"{kind}.h5"
    original = hdf5(kind, path)
    monkeypatch.setitem(READERS, path.name, (read_samples, token_file) if kind == "arteries" else (read_bare,))
    mutate_and_read(path, original, 40, 10, bytes)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_damaged_files(name: str, corpus: dict[str, bytes], tmp_path: Path) -> None:
    for seed in range(100, 110):
        mutate_and_read(tmp_path / name, corpus[name], CASES[name], seed, bytes)

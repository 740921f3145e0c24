"""Damaged files of every kind: refused by one exception, or read as frames that are finite and valid; nothing else.

Each case is damaged in its own way by a fixed seed; a case that fails says its seed. The long version is marked slow.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import resource
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.constraints import FixAtoms
from mutations import limited, mutated

from covarium import checkpoint
from covarium.config import RunConfig, build, read_yaml
from covarium.data import Frame, read, read_structures
from covarium.data.survey import Survey
from covarium.errors import CovariumError
from covarium.models import EquiformerV2
from covarium.tasks import Potential
from covarium.workflows.doctor import TINY
from covarium.workflows.loaded import load

sys.path.insert(0, str(Path(__file__).parent / "data"))
from sound import crystals, molecules

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


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_damaged_files(name: str, corpus: dict[str, bytes], tmp_path: Path) -> None:
    for seed in range(100, 110):
        mutate_and_read(tmp_path / name, corpus[name], CASES[name], seed, bytes)

"""The official files of published data sets, as their authors laid them out, to records of named parts."""

from __future__ import annotations

import lzma
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from covarium.data.archives import DAMAGE, contents, unpack
from covarium.data.formats import stream
from covarium.data.hdf5_files import MOLECULE, STRUCTURE, hdf5_records
from covarium.data.processes import apart
from covarium.data.record import Damage, Record, from_values
from covarium.data.sets import DEEPMD_ARRAYS, DataSet
from covarium.errors import CovariumError
from covarium.units import HARTREE

SEED = 1  # of the splits of Equiformer and ET


@dataclass(frozen=True)
class Job:
    """What a layout works on.

    Attributes:
        card: the set.
        files: name of a source → where it is.
        scratch: folder for what has to be unpacked.
        split: which of the official splits, from 1.
        local: whether one of the files is a copy that nobody downloaded.
    """

    card: DataSet
    files: Mapping[str, Path]
    scratch: Path
    split: int
    local: bool = False

    @property
    def paths(self) -> list[Path]:
        return [self.files[source.name] for source in self.card.sources]

    def refuse_other(self, count: int) -> None:
        """
        Raises:
            CovariumError: copies that hold another number of structures than the official files, where it is known.
        """
        if self.local and self.card.frames not in (None, count):
            path = self.paths[0]
            raise CovariumError(
                f"{path} is a local copy with {count:,} structures, {self.card.name} has {self.card.frames:,}: it is "
                "another file or a part of it, of which the published split means nothing. Remove it, and the official "
                f"file is downloaded; a choice of your own needs no name, covarium train FILE"
            )


@contextmanager
def _official(path: Path) -> Iterator[None]:
    """
    Raises:
        CovariumError: a file that cannot be read as what it should be.
    """
    try:
        yield
    except (ValueError, KeyError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        reason = str(error) or type(error).__name__
        begins = path.read_bytes()[:200] if path.suffix == ".npz" and not zipfile.is_zipfile(path) else b""
        if begins:  # numpy takes it for a pickle, and says so
            page = begins.lstrip().startswith(b"<")
            reason = "it is no npz archive" + (", but a page of the web" if page else "")
        raise CovariumError(f"{path} is not the official file, or damaged: {reason}; remove it") from error


Parts = Iterator[tuple[str, Record]]


def permuted(count: int, sizes: tuple[int, int]) -> list[str]:
    """The part of each structure: training, validation, test by a permutation of all (Thölke 2022 and Liao 2023, code).

    Raises:
        CovariumError: there are too few.
    """
    train, valid = sizes
    if count <= train + valid:
        raise CovariumError(f"{count} structures cannot be split into {train} for training, {valid} for validation")
    order = np.random.default_rng(SEED).permutation(count)
    parts = np.full(count, "test", dtype="<U5")
    parts[order[:train]] = "train"
    parts[order[train : train + valid]] = "valid"
    return [str(part) for part in parts]


def _permutation(job: Job) -> Parts:
    """One npz with z, R, E, F: MD17 and MD22."""
    (path,) = job.paths
    with _official(path), np.load(path, allow_pickle=False) as arrays:
        count = len(arrays["E"])
    job.refuse_other(count)
    parts = permuted(count, job.card.sizes)
    yield from zip(parts, stream(path, {}), strict=True)


def _parts(job: Job) -> Parts:
    """A zip with an npz for training and one for test: MD17 with coupled-cluster labels."""
    unpacked = unpack(job.paths[0], job.scratch, "*-train.npz", "*-test.npz")
    read = {path: list(stream(path, {})) for path in sorted(unpacked, reverse=True)}
    job.refuse_other(sum(map(len, read.values())))
    for path, records in read.items():
        first_valid = len(records) - job.card.sizes[1]
        for k, record in enumerate(records):
            yield "test" if path.name.endswith("-test.npz") else "train" if k < first_valid else "valid", record


def _rmd17(job: Job) -> Parts:
    """npz_data/rmd17_NAME.npz and splits/index_{train,test}_0K.csv, of all molecules in one archive."""
    names = [f"index_{part}_0{job.split}.csv" for part in ("train", "test")]
    file = f"rmd17_{job.card.member}.npz"
    unpack(job.paths[0], job.scratch, f"*npz_data/{file}", *(f"*splits/{name}" for name in names))
    missing = [name for name in (file, *names) if not (job.scratch / name).is_file()]
    if missing:
        raise CovariumError(f"{job.paths[0]} has no {missing[0]}; it is not the official archive")
    with _official(job.paths[0]), np.load(job.scratch / file, allow_pickle=False) as arrays:
        job.refuse_other(len(arrays["energies"]))
    train, test = (np.loadtxt(job.scratch / name).astype(np.int64).ravel() for name in names)
    part_of = dict.fromkeys(test.tolist(), "test")
    part_of |= dict.fromkeys(train[: job.card.sizes[0]].tolist(), "train")
    part_of |= dict.fromkeys(train[job.card.sizes[0] :].tolist(), "valid")
    for record in stream(job.scratch / file, {}):
        if record.index in part_of:
            yield part_of[record.index], record


QM9_VALUES = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv")
QM9_UNITS: Mapping[str, str] = MappingProxyType(
    {
        "A": "GHz", "B": "GHz", "C": "GHz", "mu": "D", "alpha": "a0^3", "homo": "eV", "lumo": "eV", "gap": "eV",
        "r2": "a0^2", "zpve": "eV", "u0": "eV", "u298": "eV", "h298": "eV", "g298": "eV", "cv": "cal/mol/K",
    }
)  # fmt: skip
ATOMREF = ("zpve", "u0", "u298", "h298", "g298", "cv")  # columns of atomref.txt behind the element


def qm9_molecule(text: str, source: str, index: int) -> Record:
    """One file of QM9: atoms, ``gdb ID`` and 15 values, x y z charge, frequencies, SMILES, InChI; numbers as 1.2*^-5.

    Energies become eV; units stand beside the values.

    Raises:
        CovariumError: it is no such file.
    """
    lines = text.replace("*^", "e").splitlines()
    try:
        count = int(lines[0])
        words = lines[1].split()
        numbers = [float(word) for word in words[2 : 2 + len(QM9_VALUES)]]
        rows = [line.split() for line in lines[2 : 2 + count]]
        values: dict[str, Any] = {"gdb_id": int(words[1])}
        for name, number in zip(QM9_VALUES, numbers, strict=True):
            values[name] = number * (HARTREE if QM9_UNITS[name] == "eV" else 1.0)
            values[f"{name}_unit"] = QM9_UNITS[name]
        values["smiles"] = lines[3 + count].split()[0]
        species = np.array([atomic_numbers[row[0]] for row in rows])
        positions = np.array([[float(x) for x in row[1:4]] for row in rows])
        if len(rows) != count or positions.shape != (count, 3):
            raise ValueError(f"{count} atoms are announced")
    except (ValueError, IndexError, KeyError) as error:
        raise CovariumError(f"{source} is not a molecule as QM9 has them: {error}") from error
    return from_values(species, positions, np.zeros((3, 3)), np.zeros(3, bool), values, source, index)


def uncharacterised(path: Path) -> set[int]:
    """Molecules that failed the consistency check: the rows between nine lines of heading and one at the end."""
    rows = path.read_text(encoding="utf-8").splitlines()[9:-1]
    return {int(row.split()[0]) for row in rows if row.split()}


def qm9_references(path: Path) -> dict[str, dict[str, float]]:
    """Target → symbol → energy of the free atom in eV, from atomref.txt, of the targets that have one."""
    found: dict[str, dict[str, float]] = {name: {} for name in ("u0", "u298", "h298", "g298")}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words and words[0] in atomic_numbers and len(words) > len(ATOMREF):
            row = dict(zip(ATOMREF, words[1:], strict=False))
            for name, references in found.items():
                references[words[0]] = float(row[name]) * HARTREE
    if not all(found.values()):
        raise CovariumError(f"{path} has no rows of elements with {', '.join(ATOMREF)}")
    return found


def _qm9(job: Job) -> Parts:
    archive, excluded, _ = job.paths
    left_out = uncharacterised(excluded)
    files: dict[int, tuple[str, bytes]] = {}
    for name, content in contents(archive, "*.xyz"):
        number = re.search(r"_(\d+)\.xyz$", name)
        if number is None:
            raise CovariumError(f"{archive} holds '{name}', expected dsgdb9nsd_000001.xyz and so on")
        if int(number[1]) not in left_out:
            files[int(number[1])] = name, content
    for index, (part, gdb_id) in enumerate(zip(permuted(len(files), job.card.sizes), sorted(files), strict=True)):
        name, content = files.pop(gdb_id)
        yield part, qm9_molecule(content.decode(), f"{archive.name}: {name}", index)


def _hdf5(path: Path, job: Job, extra: Sequence[str] = ()) -> Iterator[Record]:
    """Records of an HDF5 file with labels, what is kept, and ``extra``; those without a label are left out."""
    only = {*job.card.keys.values(), *job.card.keep, *extra}
    for record in apart(hdf5_records, path, path.name, 0, only):
        if isinstance(record, Damage):
            raise CovariumError(f"{path}, frame {record.index}: {record.what}")
        if all(np.isfinite(record.values.get(key, 0.0)).all() for key in (*job.card.keys.values(), *extra[:1])):
            yield record


def _groups(job: Job) -> Parts:
    """ANI-1x: a group for each composition; energies that were not computed are NaN."""
    for record in _hdf5(job.paths[0], job):
        yield "all", record


def _ani1(job: Job) -> Parts:
    """ANI-1: ani_gdb_s01.h5 to s08.h5 in one archive."""
    count = 0
    for path in sorted(unpack(job.paths[0], job.scratch, "*/ani_gdb_s0*.h5", "ani_gdb_s0*.h5")):
        for record in _hdf5(path, job):
            count += 1
            yield "all", record
    job.refuse_other(count)


def _qm7x(job: Job) -> Parts:
    """QM7-X: eight HDF5 files, compressed, and a list of conformers that are there twice."""
    *packed, duplicates = job.paths
    # lines Geom-m1-i1-c2-opt: every structure made from this conformer is another's copy
    twice = {line.strip().rpartition("-")[0] for line in duplicates.read_text(encoding="utf-8").splitlines() if line}
    job.scratch.mkdir(parents=True, exist_ok=True)
    place = job.scratch / "qm7x.h5"
    for path in packed:
        with _official(path), lzma.open(path) as source, place.open("wb") as target:
            shutil.copyfileobj(source, target)
        for record in _hdf5(place, job):
            if record.values[STRUCTURE].rpartition("-")[0] not in twice:
                yield "all", replace(record, source=path.name)
    place.unlink()


CHARGED = re.compile(r"\[[^\]]*?(\++|-+)(\d*)(?::\d+)?\]")  # an atom [NH3+:4], [O-], [Ca+2], [Fe++]


def formal_charge(smiles: str) -> int:
    """The sum of the charges that a SMILES string gives its atoms."""
    total = 0
    for signs, number in CHARGED.findall(smiles):
        total += (1 if signs[0] == "+" else -1) * (int(number) if number else len(signs))
    return total


def _spice(job: Job) -> Parts:
    """SPICE: gradients in Hartree per Bohr; the charge is that of the SMILES string."""
    for record in _hdf5(job.paths[0], job, ("dft_total_gradient", "smiles")):
        values = dict(record.values)
        values["forces"] = -np.asarray(values.pop("dft_total_gradient"), dtype=np.float64)
        values["formal_charge"] = formal_charge(str(values.pop("smiles")))
        yield "all", replace(record, values=values)


def _3bpa(job: Job) -> Parts:
    """extxyz files, each a part of its own; the isolated atoms belong to both training files."""
    *files, atoms = job.paths
    isolated = list(stream(atoms, {}))
    for source, path in zip(job.card.sources, files, strict=False):
        part = source.name.removeprefix("3bpa_").removesuffix(".xyz")
        for record in [*(isolated if part.startswith("train") else []), *stream(path, {})]:
            yield part, record


def _deepmd(job: Job) -> Parts:
    """DeePMD-kit: type.raw, and set.NNN/{box,coord,energy,force}.npy [frames, …] of each system."""
    symbols = job.card.member.split()
    systems: dict[str, dict[str, Path]] = {}
    for source in job.card.sources:
        _, first, second, file = source.name.split("_", 3)  # water_data_0_set.000_box.npy
        systems.setdefault(f"{first}_{second}", {})[file] = job.files[source.name]
    index = 0
    for system, files in systems.items():
        species = np.array([atomic_numbers[symbols[int(k)]] for k in files["type.raw"].read_text().split()])
        for folder in sorted({name.rpartition("_")[0] for name in files if name.startswith("set.")}):
            box, coord, energy, force = (_array(files[f"{folder}_{name}.npy"]) for name in DEEPMD_ARRAYS)
            n = len(species)
            if coord.shape != (len(energy), 3 * n) or force.shape != coord.shape or box.shape != (len(energy), 9):
                raise CovariumError(f"{system}/{folder} does not have {n} atoms in each of {len(energy)} frames")
            for k in range(len(energy)):
                values = {"energy": float(np.ravel(energy)[k]), "forces": force[k].reshape(n, 3), "system": system}
                record = from_values(
                    species, coord[k].reshape(n, 3), box[k].reshape(3, 3), np.ones(3, bool), values, system, index
                )
                yield "valid" if system == "data_3" else "train", record
                index += 1
    job.refuse_other(index)


def _array(path: Path) -> np.ndarray:
    with _official(path):
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)


def _oc20(job: Job) -> Parts:
    """OC20 S2EF: N.extxyz.xz and N.txt.xz with ``system,frame,reference energy`` of each; energies become adsorption
    energies, as the published models are trained on (Chanussot 2021)."""
    unpacked = unpack(job.paths[0], job.scratch, "*.extxyz.xz", "*.txt.xz")
    for path in sorted((p for p in unpacked if p.name.endswith(".extxyz.xz")), key=lambda p: (len(p.name), p.name)):
        table = path.with_name(path.name.replace(".extxyz.xz", ".txt.xz"))
        if table not in unpacked:
            raise CovariumError(f"{job.paths[0]} has {path.name} without {table.name}; it is not the official archive")
        with _official(job.paths[0]), lzma.open(table, "rt") as lines:
            rows = [line.split(",") for line in lines.read().splitlines() if line.strip()]
        records = list(stream(path, {}))
        if len(rows) != len(records):
            raise CovariumError(f"{table.name} has {len(rows)} rows for {len(records)} structures of {path.name}")
        for record, (system, frame, reference) in zip(records, rows, strict=True):
            values = {**record.values, "sid": system, "fid": frame, "reference_energy": float(reference)}
            values["energy"] = float(record.values["energy"]) - float(reference)
            yield job.card.member, replace(record, values=values)
        path.unlink()
        table.unlink()


def _extxyz(job: Job) -> Parts:
    """Extended XYZ files in one archive: MPtrj; structures of one material stay together."""
    for path in sorted(unpack(job.paths[0], job.scratch, "*.extxyz")):
        for record in stream(path, {}):
            yield "all", replace(record, values={**record.values, MOLECULE: path.stem})
        path.unlink()


def _aselmdb(job: Job) -> Parts:
    """Rows of ASE in LMDB, an archive for training and one for validation: OMat24."""
    for part, archive in zip(("train", "valid"), job.paths, strict=True):
        folder = job.scratch / part
        unpack(archive, folder, "*.aselmdb")
        for record in stream(folder, {}):
            yield part, record
        shutil.rmtree(folder)


LAYOUTS: Mapping[str, Callable[[Job], Parts]] = MappingProxyType(
    {
        "permutation": _permutation, "parts": _parts, "rmd17": _rmd17, "qm9": _qm9, "groups": _groups, "ani1": _ani1,
        "qm7x": _qm7x, "spice": _spice, "3bpa": _3bpa, "deepmd": _deepmd, "oc20": _oc20, "extxyz": _extxyz,
        "aselmdb": _aselmdb,
    }
)  # fmt: skip

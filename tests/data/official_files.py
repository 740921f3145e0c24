"""Small files in the layouts in which the authors of published sets keep theirs; and a server for them."""

from __future__ import annotations

import io
import lzma
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ase.io
import h5py
import lmdb
import numpy as np
from ase.data import chemical_symbols
from spring_waters import springs, waters

from covarium.units import BOHR, HARTREE, KCAL_PER_MOL

QM9_ROWS = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv")


def labelled(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, energies, forces of a water in eV and Å whose forces are the derivative of its energies."""
    images = waters(count, seed=seed)
    labels = [springs(atoms.positions) for atoms in images]
    positions = np.array([atoms.positions for atoms in images])
    return positions, np.array([energy for energy, _ in labels]), np.array([forces for _, forces in labels])


def tar(path: Path, files: dict[str, bytes], mode: str) -> Path:
    with tarfile.open(path, f"w:{mode}" if mode else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def md17(path: Path, count: int) -> np.ndarray:
    """z, R, E [n, 1], F in kcal/mol and Å, with the texts that sGDML writes; returns the energies in eV."""
    positions, energies, forces = labelled(count)
    path.write_bytes(
        npz(z=np.array([8, 1, 1], np.uint8), R=positions, E=energies[:, None] / KCAL_PER_MOL, F=forces / KCAL_PER_MOL,
            name=np.array("water"), theory=np.array("springs"), md5=np.array("0" * 32))
    )  # fmt: skip
    return energies


def ccsd(path: Path) -> None:
    positions, energies, forces = labelled(90)
    parts = {"train": slice(0, 70), "test": slice(70, 90)}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/._water_ccsd_t-train.npz", b"junk")
        for part, rows in parts.items():
            arrays = {"z": np.array([8, 1, 1]), "R": positions[rows], "E": energies[rows, None] / KCAL_PER_MOL,
                      "F": forces[rows] / KCAL_PER_MOL}  # fmt: skip
            archive.writestr(f"water_ccsd_t-{part}.npz", npz(**arrays))


def rmd17(path: Path, count: int = 300) -> tuple[np.ndarray, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """The archive with two molecules and five splits of 100 and 100; returns energies in eV and the splits."""
    positions, energies, forces = labelled(count)
    arrays = dict(nuclear_charges=np.array([8, 1, 1]), coords=positions, energies=energies / KCAL_PER_MOL,
                  forces=forces / KCAL_PER_MOL, old_indices=np.arange(count) * 7, old_energies=energies,
                  old_forces=forces)  # fmt: skip
    files = {f"rmd17/npz_data/rmd17_{name}.npz": npz(**arrays) for name in ("aspirin", "uracil")}
    rng, splits = np.random.default_rng(3), {}
    for k in range(1, 6):
        order = rng.permutation(count)
        splits[k] = order[:100], order[100:200]
        for part, rows in zip(("train", "test"), splits[k], strict=True):
            files[f"rmd17/splits/index_{part}_0{k}.csv"] = "\n".join(map(str, rows)).encode()
    tar(path, {"rmd17/readme.txt": b"words", **files}, "bz2")
    return energies, splits


def qm9(folder: Path, molecules: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]], excluded: list[int]) -> None:
    """Number → (elements, positions, 15 values in atomic units): archive, uncharacterized.txt, atomref.txt."""
    files = {}
    for number, (elements, positions, values) in molecules.items():
        lines = [str(len(elements)), f"gdb {number}\t" + "\t".join(_odd(value) for value in values)]
        for z, place in zip(elements, positions, strict=True):
            lines.append("\t".join([chemical_symbols[z], *(_odd(x) for x in place), "-0.1*^-2"]))
        lines += ["100.0\t200.0", "C\tC", "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4", ""]
        files[f"dsgdb9nsd_{number:06d}.xyz"] = "\n".join(lines).encode()
    tar(folder / "dsgdb9nsd.xyz.tar.bz2", files, "bz2")
    head = ["-" * 20] + ["words"] * 8
    rows = [f"{number:8d} C        CC     0.1" for number in excluded]
    (folder / "uncharacterized.txt").write_text("\n".join([*head, *rows, "-" * 20]) + "\n")
    table = ["", "Ele-    ZPVE         U (0 K)", "ment", "", "====="]
    table += [f"{x}\t0.0\t{u:.6f}\t{u + 0.001:.6f}\t{u + 0.002:.6f}\t{u - 0.01:.6f}\t2.981" for x, u in ATOMS.items()]
    (folder / "atomref.txt").write_text("\n".join([*table, "====="]) + "\n")


ATOMS = {"H": -0.500273, "C": -37.846772, "N": -54.583861, "O": -75.064579, "F": -99.718730}  # Hartree


def _odd(value: float) -> str:
    """As Mathematica writes small numbers."""
    return f"{value:.10g}".replace("e", "*^") if abs(value) < 1e-4 else repr(float(value))


def ani1(path: Path) -> dict[str, np.ndarray]:
    """Two of the eight files, with the higher conformers that are not part of the set; energies in eV by group."""
    files, energies = {}, {}
    for k in (1, 2):
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            for g in range(2):
                positions, values, _ = labelled(4, seed=10 * k + g)
                group = file.create_group(f"gdb11_s0{k}/gdb11_s0{k}-{g}")
                group["coordinates"], group["energies"] = positions.astype(np.float32), values / HARTREE
                group["coordinatesHE"], group["energiesHE"] = positions[:2].astype(np.float32), values[:2] + 100
                group["species"], group["smiles"] = np.array([b"O", b"H", b"H"]), np.array([b"O", b"(", b"H", b")"])
                energies[f"gdb11_s0{k}/gdb11_s0{k}-{g}"] = values
        files[f"ANI-1_release/ani_gdb_s0{k}.h5"] = content.getvalue()
    files["ANI-1_release/readers/example_data_sampler.py"] = b"raise SystemExit('this must not run')"
    tar(path, files, "gz")
    return energies


def ani1x(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """DFT labels of all, coupled-cluster energies of the first half of each group; both in eV."""
    dft, cc = [], []
    with h5py.File(path, "w") as file:
        for g in range(2):
            positions, energies, forces = labelled(6, seed=g)
            group = file.create_group(f"H2O{g}")
            half = np.where(np.arange(6) < 3, energies + 1.0, np.nan)
            group["atomic_numbers"], group["coordinates"] = np.array([8, 1, 1], np.uint8), positions
            group["wb97x_dz.energy"], group["wb97x_dz.forces"] = energies / HARTREE, forces / HARTREE
            group["ccsd(t)_cbs.energy"], group["hf_dz.energy"] = half / HARTREE, energies - 9
            dft.append(energies)
            cc.append(half[:3])
    return np.concatenate(dft), np.concatenate(cc)


def qm7x(path: Path, duplicates: Path) -> None:
    """Two molecules with two conformers of two structures each, the second conformer of the first listed as a copy."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for m in range(2):
            for c in (1, 2):
                positions, energies, forces = labelled(2, seed=10 * m + c)
                for k, step in enumerate(("opt", "d17")):
                    group = file.create_group(f"{m}/Geom-m{m}-i1-c{c}-{step}")
                    group["atNUM"], group["atXYZ"] = np.array([8, 1, 1]), positions[k]
                    group["ePBE0+MBD"], group["totFOR"] = energies[k : k + 1], forces[k]
                    group["HLgap"], group["hCHG"] = [7.0], np.zeros(3)
    path.write_bytes(lzma.compress(content.getvalue()))
    duplicates.write_text("Geom-m0-i1-c2-opt\n")


def spice(path: Path) -> tuple[np.ndarray, np.ndarray]:
    energies, forces = [], []
    with h5py.File(path, "w") as file:
        for g, smiles in enumerate(("[O:1]([H:2])[H:3]", "[H:2][OH+:1][H:3]")):
            positions, values, pulls = labelled(4, seed=g)
            group = file.create_group(f"molecule {g}")
            group["atomic_numbers"], group["conformations"] = np.array([8, 1, 1], np.int16), positions / BOHR
            group["dft_total_energy"], group["dft_total_gradient"] = values / HARTREE, -pulls * BOHR / HARTREE
            group["formation_energy"], group["mbis_charges"] = values + 3, np.zeros((4, 3, 1))
            group["smiles"], group["subset"] = np.array([smiles], object), np.array(["SPICE Dipeptides v1.3"], object)
            energies.append(values)
            forces.append(pulls)
    return np.concatenate(energies), np.concatenate(forces)


def water(folder: Path) -> np.ndarray:
    """Five sets of two frames, as the example of DeePMD-kit has them, named as they are kept here."""
    all_energies = []
    for k, (system, sets) in enumerate({"data_0": 1, "data_1": 2, "data_2": 1, "data_3": 1}.items()):
        (folder / f"water_{system}_type.raw").write_text("0\n1\n1\n")
        for s in range(sets):
            positions, energies, forces = labelled(2, seed=10 * k + s)
            arrays = {"box": np.tile(np.eye(3).ravel() * 12, (2, 1)), "coord": positions.reshape(2, 9),
                      "energy": energies, "force": forces.reshape(2, 9)}  # fmt: skip
            for name, array in arrays.items():
                np.save(folder / f"water_{system}_set.{s:03d}_{name}.npy", array.astype(np.float32))
            all_energies.append(energies.astype(np.float32))
    return np.concatenate(all_energies)


def oc20(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Two pairs of structures and table; total and reference energies."""
    files, totals, references = {}, [], []
    for k in range(2):
        images = waters(3, seed=k)
        text = io.StringIO()
        lines = []
        for i, atoms in enumerate(images):
            energy, forces = springs(atoms.positions)
            atoms.cell, atoms.pbc = np.eye(3) * 12, True
            atoms.calc = None
            atoms.info = {"energy": energy - 100.0, "free_energy": energy - 100.0}
            atoms.arrays["forces"], atoms.arrays["move_mask"] = forces, np.array([False, True, True])
            atoms.set_tags([0, 2, 2])
            totals.append(energy - 100.0)
            references.append(-90.0 - k - i)
            lines.append(f"random{k}{i},frame{i},{references[-1]}")
        ase.io.write(text, images, format="extxyz")
        files[f"s2ef_train_200K/s2ef_train_200K/{k}.extxyz.xz"] = lzma.compress(text.getvalue().encode())
        files[f"s2ef_train_200K/s2ef_train_200K/{k}.txt.xz"] = lzma.compress("\n".join(lines).encode())
    tar(path, {"s2ef_train_200K/README": b"words", **files}, "")
    return np.array(totals), np.array(references)


def mptrj(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(2):
            images = waters(3, seed=k)
            for atoms in images:
                energy, forces = springs(atoms.positions)
                atoms.cell, atoms.pbc = np.eye(3) * 12, True
                atoms.calc = None
                atoms.info, atoms.arrays["forces"] = {"energy": energy, "material_id": f"mp-{k}"}, forces
            text = io.StringIO()
            ase.io.write(text, images, format="extxyz")
            archive.writestr(f"mp-{k}.extxyz", text.getvalue())


def aselmdb(path: Path, seed: int, scratch: Path) -> None:
    """A shard as fairchem keeps them, in an archive."""
    from covarium.data.convert import convert

    images = waters(4, seed=seed)
    for atoms in images:
        energy, forces = springs(atoms.positions)
        atoms.calc = None
        atoms.info, atoms.arrays["forces"] = {"energy": energy}, forces
    ase.io.write(scratch / f"{seed}.extxyz", images, format="extxyz")
    convert(scratch / f"{seed}.extxyz", scratch / f"data{seed}.aselmdb")
    with lmdb.open(str(scratch / f"data{seed}.aselmdb"), subdir=False, readonly=True, lock=False) as shard:
        assert shard.stat()["entries"] == 6  # four structures, nextid, metadata
    tar(path, {"rattled/data.0000.aselmdb": (scratch / f"data{seed}.aselmdb").read_bytes()}, "gz")


class Server:
    """Serves the bytes in ``files``, and keeps what was asked.

    Attributes:
        files: path → content.
        ranges: whether it answers a request for a part with a part.
        cut: close the connection after so many bytes of each answer.
        tag: the version of its files.
        asked: (path, Range header or empty).
        url: of the server.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.cut: int | None = None
        self.tag = '"one"'
        self.asked: list[tuple[str, str]] = []
        self.url = ""


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            server.asked.append((self.path, wanted))
            content = server.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = 0
            same = self.headers.get("If-Range", server.tag) == server.tag
            if wanted and server.ranges and same:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", server.tag)
            self.end_headers()
            end = len(content) if server.cut is None else start + server.cut
            self.wfile.write(content[start:end])

        def log_message(self, *_: object) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()

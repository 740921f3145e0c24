"""The workloads: structures, our models at the published sizes, losses, and what is asked for."""

from __future__ import annotations

import io
import lzma
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.singlepoint import SinglePointCalculator

from peers.subject import Terms

# Å; a conformer of aspirin, atoms as in rMD17
ASPIRIN_ELEMENTS = [6] * 7 + [8] * 3 + [6] * 2 + [8] + [1] * 8
ASPIRIN = [
    [2.010, -1.185, -0.020], [1.214, 1.294, -0.664], [2.946, -0.435, -0.737], [2.454, 0.731, -1.205],
    [-2.798, 2.465, 0.398], [0.643, -0.823, 0.288], [0.340, 0.525, 0.007], [-1.382, -1.619, 1.394],
    [-1.677, 1.393, -1.463], [0.214, -3.050, 0.525], [-0.294, -1.785, 0.862], [-1.716, 1.656, -0.309],
    [-0.823, 1.121, 0.600], [-0.178, -3.733, 1.045], [2.367, -2.093, 0.436], [0.927, 2.299, -0.925],
    [3.915, -0.867, -0.966], [3.131, 1.488, -1.685], [-2.616, 3.474, 0.550], [-3.755, 2.570, -0.163],
    [-2.767, 1.961, 1.420],
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """
    Attributes:
        title: of the table.
        model: name in ``MODELS``.
        config: our sizes and switches, those of the publication.
        structures: what is computed.
        forces: rule.
        terms: of the loss.
        peer: module of this folder, and the environment of that name.
        targets: ratio asked for and hoped for: energy and forces, training, training in tiles.
        memory: that the tiled step may take, as a part of the peer's training step.
        proven: the peer is checked against stored numbers.
        stands_in: the peer is another model on the slab, timed as it was when its ratio to this one was recorded.
        factor: what its seconds are multiplied by then, inference and training.
        peer_memory: bytes of the training step of what it stands for, as recorded.
    """

    title: str
    model: str
    config: Callable[[], Any]
    structures: Callable[[Path | None], list[Atoms]]
    forces: str
    terms: Terms
    peer: str
    targets: tuple[tuple[float, float], ...] = ()
    memory: float = 0.2
    proven: bool = False
    stands_in: bool = False
    factor: tuple[float, float] = (1.0, 1.0)
    peer_memory: float = 0.0


def slab(_: Path | None = None) -> list[Atoms]:
    """72 copper atoms with acetylene, displaced at random."""
    atoms = fcc111("Cu", (3, 4, 6), a=3.61, vacuum=8.0)
    acetylene = Atoms("C2H2", [[-0.6, 0, 0], [0.6, 0, 0], [-1.66, 0, 0], [1.66, 0, 0]])
    acetylene.translate([3.8, 3.3, atoms.positions[:, 2].max() + 2.0])
    atoms += acetylene
    atoms.pbc = True
    return [shaken(atoms, 0)]


def crystal(_: Path | None = None) -> list[Atoms]:
    """64 silicon atoms."""
    return [shaken(bulk("Si", cubic=True) * (2, 2, 2), 0)]


def aspirin(_: Path | None = None) -> list[Atoms]:
    """Eight molecules, each displaced at random."""
    return [shaken(Atoms(ASPIRIN_ELEMENTS, ASPIRIN), seed) for seed in range(8)]


def water(data: Path | None) -> list[Atoms]:
    """64 molecules: the first frame of the data, else one made up at the same density."""
    path = None if data is None else data / "water_deepmd/water_192atoms.extxyz.xz"
    if path is None or not path.is_file():
        from covarium.workflows.scaling import water as made_up

        return [shaken(made_up(192), 0)]
    atoms: Any = ase.io.read(io.StringIO(lzma.decompress(path.read_bytes()).decode()), "0", format="extxyz")
    return [shaken(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True), 0, 0.0)]


def shaken(atoms: Atoms, seed: int, length: float = 0.05) -> Atoms:
    """Displaced by so much, Å, in float32, with labels of no meaning."""
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(0, length, atoms.positions.shape)
    atoms.positions = atoms.positions.astype(np.float32)
    forces = rng.normal(0, 1, atoms.positions.shape)
    stress = rng.normal(0, 0.01, 6) if atoms.pbc.all() else None
    atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=forces, stress=stress)
    return atoms


def published(recipe: str, **changes: Any) -> Callable[[], Any]:  # noqa: ANN401 - fields of a Config
    """The model of a recipe."""

    def made() -> Any:  # noqa: ANN401 - a Config
        from covarium.config import build
        from covarium.models import MODELS
        from covarium.workflows.configuring import configure

        fields = dict(configure(recipe=recipe).model)
        return build(MODELS[fields.pop("name")][1], fields | changes, "model")

    return made


def default(model: str) -> Callable[[], Any]:
    """The model at its default size."""

    def made() -> Any:  # noqa: ANN401 - a Config
        from covarium.models import MODELS

        return MODELS[model][1]()

    return made


OC20: Terms = {"energy": ("mae", 4.0), "forces": ("l2", 100.0)}
OMAT: Terms = {"energy": ("mae", 20.0), "forces": ("l2", 20.0), "stress": ("mae", 5.0)}
MD17: Terms = {"energy": ("mae", 1.0), "forces": ("l2", 80.0)}
ET: Terms = {"energy": ("mse", 0.01), "forces": ("mse", 0.8)}
COMMON: Terms = {"energy": ("mae", 1.0), "forces": ("l2", 1.0)}
GRADIENT = {
    "force_head": "none",
    "stress_head": False,
    "denoising": False,
    "attn_weights_drop": 0.0,
    "drop_path_rate": 0.0,
}

ROWS: Mapping[str, Row] = {
    "equiformer_v2": Row(
        "EquiformerV2 31M, slab of 76 atoms, 1520 edges", "equiformer_v2", published("oc20-31m"), slab, "direct", OC20,
        "fairchem_v2", ((2.5, 3.5), (2.3, 3.0), (1.8, 2.3)),
    ),
    "equiformer_v3": Row(
        "EquiformerV3 OC20 N8 L6, same slab", "equiformer_v3", published("oc20-2m-v3"), slab, "direct", OC20,
        "fairchem_v2", ((2.5, 3.5), (2.4, 3.0), (1.9, 2.4)), stands_in=True, factor=(1.9, 1.5),
        peer_memory=6.84e9,
    ),
    "equiformer_v3_omat": Row(
        "EquiformerV3 OMat L4 gradient, crystal of 64 atoms", "equiformer_v3", published("omat24-v3", **GRADIENT),
        crystal, "gradient", OMAT, "fairchem_v2", ((2.3, 3.0), (2.2, 2.8), (1.6, 2.0)), stands_in=True,
        factor=(1.9, 1.65), peer_memory=10.7e9,
    ),
    "equiformer": Row(
        "Equiformer L2, aspirin × 8", "equiformer", published("equiformer-md17-l2"), aspirin, "gradient", MD17,
        "equiformer_e3nn", ((6.0, 10.0), (5.0, 8.0), (4.0, 6.0)), proven=True,
    ),
    "torchmd_et": Row(
        "TorchMD-NET ET, aspirin × 8", "torchmd_et", published("torchmd-et-md17"), aspirin, "gradient", ET,
        "torchmd", ((1.6, 2.2), (1.5, 2.0), (1.2, 1.6)), memory=0.5,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Beside:
    """A system on which our models at their default sizes stand beside other potentials."""

    title: str
    ours: Mapping[str, Row]
    peers: Mapping[str, str]
    names: Mapping[str, str]


MODELS = {
    "equiformer_v2": "EquiformerV2", "equiformer_v3": "EquiformerV3", "equiformer": "Equiformer",
    "torchmd_et": "TorchMD-NET ET",
}  # fmt: skip
POTENTIALS = {"mace": "MACE 32x0e+32x1o", "nequip": "NequIP, 4 layers, l ≤ 1, 32 features"}
SYSTEMS = {"water": ("water, 192 atoms", water), "aspirin": ("aspirin × 8", aspirin)}
BESIDE: Mapping[str, Beside] = {
    name: Beside(
        title,
        {m: Row(title, m, default(m), made, "gradient", COMMON, "mace") for m in MODELS},
        POTENTIALS,
        MODELS | POTENTIALS,
    )
    for name, (title, made) in SYSTEMS.items()
}


def row_of(name: str) -> Row:
    """Of a row of either table; ``water-torchmd_et`` is our model in the second one."""
    if name in ROWS:
        return ROWS[name]
    system, _, model = name.partition("-")
    return BESIDE[system].ours[model]

"""Files of samples whose physics is exact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from covarium.data.tokens import surface_sample
from covarium.errors import CovariumError
from covarium.files import replace_file
from covarium.physics.gravity import NBody, draw
from covarium.physics.tubes import draw_tube


def write_nbody(path: Path, settings: NBody, samples: int, seed: int, *, shifted: bool = False) -> None:
    """Systems before and after, under the keys of the published data: m, x_initial, v_initial, x_final.

    Args:
        path: npz file.
        settings: of the systems.
        samples: how many.
        seed: of the draw.
        shifted: from the shifted domain.

    Raises:
        CovariumError: the name of the file does not end in .npz.
    """
    _refuse_other_names(path)
    before, after = draw(settings, samples, np.random.default_rng(seed), shifted=shifted)
    arrays = {"m": before.masses, "x_initial": before.positions, "v_initial": before.velocities}
    _write(path, arrays | {"x_final": after.positions})


def write_tubes(path: Path, samples: int, rings: int, around: int, seed: int) -> None:
    """Vertices with normals, distance from the inlet along the surface and μQ; the target is the shear stress.

    Args:
        path: npz file.
        samples: how many tubes.
        rings, around: vertices of each.
        seed: of the draw.

    Raises:
        CovariumError: the name of the file does not end in .npz.
    """
    _refuse_other_names(path)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(samples):
        tube = draw_tube(rng)
        wall = tube.wall(rings, around)
        sample = surface_sample(wall.positions, wall.faces, wall.inlet, wall.shear)
        flow = np.full((len(wall.positions), 1), tube.flow)
        found.append((sample, np.concatenate([sample.scalars, flow], axis=1)))
    arrays = {
        "positions": np.stack([sample.positions for sample, _ in found]),
        "vectors": np.stack([sample.vectors for sample, _ in found]),
        "scalars": np.stack([scalars for _, scalars in found]),
        "target_vectors": np.stack([sample.targets["vectors"] for sample, _ in found]),
    }
    _write(path, arrays)


def _refuse_other_names(path: Path) -> None:
    """Before the samples are drawn: files are told apart by their names."""
    if path.suffix != ".npz":
        raise CovariumError(f"{path}: samples of tokens are written as npz; name it {path.stem or 'tokens'}.npz")


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    def save(place: Path) -> None:
        with place.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, save)

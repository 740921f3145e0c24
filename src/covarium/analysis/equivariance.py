"""Symmetries of a predictor, measured: the group a model declares, translations, permutations, lattice vectors.

``check_equivariance`` knows no kind of system: a system and a prediction carry their own group action ``transform(g)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from covarium.algebra.rotations import random_rotations
from covarium.analysis.check import AnyProbe, Check, largest
from covarium.data import Frame
from covarium.errors import CovariumError, nearest
from covarium.tasks import Prediction

Sampler = Callable[[int, torch.Generator], Iterable[Any]]


class Transformable(Protocol):
    """A system or a prediction: it knows what an element of its group makes of it."""

    def transform(self, g: Any, /) -> Any: ...  # noqa: ANN401 - an element of its group; the same kind of object


@dataclass(frozen=True)
class Deviation:
    """Largest difference of one output over all samples; ``relative`` to the largest magnitude of that output."""

    absolute: float
    relative: float


def rotations(count: int, generator: torch.Generator) -> Tensor:
    """[count, 3, 3] uniform on SO(3)."""
    return random_rotations(count, generator)


def rotations_and_mirrors(count: int, generator: torch.Generator) -> Tensor:
    """[count, 3, 3] on O(3); every second one is improper."""
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(count)[:count]
    return random_rotations(count, generator) * signs[:, None, None]


# Translations are checked apart, since they need no group element to act on the outputs.
GROUPS: Mapping[str, Sampler] = {
    "SO(3)": rotations,
    "SE(3)": rotations,
    "O(3)": rotations_and_mirrors,
    "E(3)": rotations_and_mirrors,
}


def check_equivariance(
    predict: Callable[[Any], Transformable],
    system: Transformable,
    group: str | Sampler,
    samples: int = 20,
    seed: int = 0,
    floor: float = 0.0,
) -> dict[str, Deviation]:
    """How far predict(g·system) is from g·predict(system), for random elements g.

    Args:
        predict: from a system to a dataclass of tensors (fields that are None are left out).
        system: what to predict for.
        group: a name in ``GROUPS``, or a function (count, generator) → elements, e.g. stacked on the first axis.
        samples: number of elements.
        seed: of the elements.
        floor: as for ``deviations``.

    Returns:
        The largest deviation per output.

    Raises:
        CovariumError: the group is unknown.
    """
    if isinstance(group, str) and group not in GROUPS:
        raise CovariumError(f"group '{group}' is unknown{nearest(group, GROUPS)}; allowed: {', '.join(GROUPS)}")
    sampler = GROUPS[group] if isinstance(group, str) else group
    reference = predict(system)
    worst: dict[str, Deviation] = {}
    for g in sampler(samples, torch.Generator().manual_seed(seed)):
        found = deviations(predict(system.transform(g)), reference.transform(g), floor)
        worst = {name: _larger(worst.get(name, deviation), deviation) for name, deviation in found.items()}
    return worst


def deviations(one: Any, other: Any, floor: float = 0.0) -> dict[str, Deviation]:  # noqa: ANN401 - any dataclass
    """Largest difference per field of two predictions of the same kind.

    Args:
        one, other: dataclasses of tensors.
        floor: the least magnitude that a relative difference is told of.

    Raises:
        CovariumError: a prediction is not a dataclass.
    """
    if not is_dataclass(one) or not is_dataclass(other):
        raise CovariumError(f"a prediction must be a dataclass of tensors, got {type(one).__name__}")
    found = {}
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, Tensor) and isinstance(b, Tensor) and b.numel():
            absolute = float((a - b).abs().max())
            scale = max(float(b.abs().max()), floor)
            found[field.name] = Deviation(absolute, absolute / scale if scale > 0 else absolute)
    return found


def _larger(one: Deviation, other: Deviation) -> Deviation:
    return Deviation(largest((one.absolute, other.absolute)), largest((one.relative, other.relative)))


def equivariance(
    probe: AnyProbe, frame: Frame, *, level: float = 1e-10, samples: int = 20, seed: int = 0
) -> list[Check]:
    """Relative deviation of energy, forces and stress, or of a property, under the group that the model declares.

    Args:
        probe: of the task.
        frame: where to look; bonds exactly on axes compare special frames of an edge with general ones.
        level: highest relative deviation.
        samples: random elements.
        seed: of the elements.
    """
    group = probe.group
    found = check_equivariance(probe.predict, probe.system([frame]), group, samples, seed, probe.floor)
    return [
        Check(f"{group} {name}", d.relative, level, f"{samples} elements, largest {d.absolute:.1e}")
        for name, d in found.items()
    ]


def two_charts(probe: AnyProbe, frame: Frame, *, level: float = 1e-10) -> Check:
    """Relative deviation when bonds at y = 0, where frames of edges change from one chart to the other, are tilted to
    either side by 1e-3 and 1e-9 rad.

    Args:
        probe: of the task.
        frame: with bonds at y = 0.
        level: highest relative deviation.
    """
    tilts = [
        torch.linalg.matrix_exp(angle * torch.linalg.cross(torch.eye(3).double(), axis.expand(3, 3)))
        for axis in torch.eye(3).double()[[0, 2]]
        for angle in (-1e-3, -1e-9, 1e-9, 1e-3)
    ]
    found = check_equivariance(probe.predict, probe.system([frame]), lambda _, __: tilts, floor=probe.floor)
    value = largest(d.relative for d in found.values())
    return Check("two charts: bonds through y = 0", value, level, f"tilted by up to 0.001 rad, {len(tilts)} times")


def inversion(probe: AnyProbe, frame: Frame) -> Check:
    """Relative change of the forces and energy under r → −r: a number to know, not a fault, of an SE(3) model."""
    group = probe.group
    found = check_equivariance(
        probe.predict, probe.system([frame]), lambda n, _: -torch.eye(3).expand(n, 3, 3), 1, floor=probe.floor
    )
    value = largest(d.relative for d in found.values())
    if group in ("SE(3)", "SO(3)"):
        return Check("inversion", value, None, f"the model is {group}: it may tell a molecule from its mirror image")
    return Check("inversion", value, 1e-10)


def translation(probe: AnyProbe, frame: Frame, *, level: float = 1e-10, seed: int = 0) -> Check:
    """Shift every atom by the same random vector of about 10 Å."""
    shift = np.random.default_rng(seed).normal(size=3) * 6
    moved = replace(frame, positions=frame.positions + shift)
    return _same("translation", probe, frame, moved, level, f"by {np.linalg.norm(shift):.1f} Å")


def permutation(probe: AnyProbe, frame: Frame, *, level: float = 1e-10, seed: int = 0) -> Check:
    """Number the atoms in another order."""
    order = np.random.default_rng(seed).permutation(len(frame.numbers))
    arrays = {name: getattr(frame, name)[order] for name in ("numbers", "positions", "fixed", "tags")}
    moved = replace(frame, **arrays)
    return _same("permutation", probe, frame, moved, level, "", order)


def lattice_wraps(probe: AnyProbe, frame: Frame, *, level: float = 1e-10, seed: int = 0) -> Check:
    """Move every atom by random lattice vectors, up to two each way, along the periodic directions.

    Raises:
        CovariumError: the frame is not periodic.
    """
    if not frame.pbc.any():
        raise CovariumError("lattice wraps need a periodic frame, got pbc = False in all directions")
    shifts = np.random.default_rng(seed).integers(-2, 3, size=(len(frame.numbers), 3)) * frame.pbc
    moved = replace(frame, positions=frame.positions + shifts @ frame.cell)
    return _same("lattice wraps", probe, frame, moved, level, "")


def _same(
    name: str, probe: AnyProbe, frame: Frame, moved: Frame, level: float, note: str, order: np.ndarray | None = None
) -> Check:
    """Relative deviation between the answers for ``frame`` (its atoms taken in ``order``) and ``moved``."""
    expected = probe(frame)
    if order is not None and isinstance(expected, Prediction):
        index = torch.as_tensor(order, device=probe.device)
        forces = None if expected.forces is None else expected.forces[index]
        expected = replace(expected, atom_energy=expected.atom_energy[index], forces=forces)
    found = deviations(probe(moved), expected, probe.floor)
    return Check(name, largest(d.relative for d in found.values()), level, note)

"""Does a potential answer for a structure alone: batches, copies, isolated atoms, repeats, precision?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch

from covarium.analysis.check import AnyProbe, Check, Probe, PropertyProbe, largest, structure
from covarium.analysis.equivariance import deviations
from covarium.data import Frame
from covarium.errors import CovariumError
from covarium.tasks import Prediction

FAR = 40.0  # Å between what must not see each other, beyond the cutoff


def batch_equals_single(probe: AnyProbe, frames: Sequence[Frame], *, level: float = 1e-10) -> Check:
    """Relative deviation between frames predicted together and one by one."""
    together = probe.predict(probe.system(frames))
    alone = [probe.predict(probe.system([f])) for f in frames]
    # stress exists in a batch only when every structure has a volume
    known = [field.name for field in fields(together) if getattr(together, field.name) is not None]
    joined = {name: torch.cat([getattr(p, name) for p in alone]) for name in known}
    value = largest(d.relative for d in deviations(together, type(together)(**joined), probe.floor).values())
    return Check("batch = single", value, level, f"{len(frames)} structures")


def no_gradient_across(probe: AnyProbe, frames: Sequence[Frame]) -> Check:
    """Largest |dE_a/dr_b|, or of a property, for structures a ≠ b of one batch; must be exactly zero."""
    system = probe.system(frames)
    positions = system.positions.clone().requires_grad_()
    with torch.enable_grad():
        values = probe.differentiable(replace(system, positions=positions))
        worst = 0.0
        for a in range(len(frames)):
            (gradient,) = torch.autograd.grad(
                values[a], positions, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            outside = gradient[system.batch != a].abs()
            worst = largest([worst, *outside.flatten().tolist()])
    return Check("gradient across structures", worst, 0.0, f"{len(frames)} structures")


def supercell(probe: Probe, frame: Frame, *, level: float = 1e-10) -> Check:
    """A 2×2×2 supercell has eight times the energy and the same forces; relative deviation.

    Raises:
        CovariumError: the frame is not periodic in three directions.
    """
    if not frame.pbc.all():
        raise CovariumError(f"a supercell needs three periodic directions, got pbc = {frame.pbc.tolist()}")
    corners = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    big = structure(
        np.tile(frame.numbers, 8).tolist(),
        np.concatenate([frame.positions + corner @ frame.cell for corner in corners]),
        2 * frame.cell,
    )
    same = replace(big, charge=8 * frame.charge, spin=8 * frame.spin, tags=np.tile(frame.tags, 8))
    one, eight = probe(frame), probe(same)
    expected = Prediction(
        energy=8 * one.energy,
        atom_energy=one.atom_energy.repeat(8),
        forces=None if one.forces is None else one.forces.repeat(8, 1),
        stress=one.stress,
    )
    value = largest(d.relative for d in deviations(eight, expected).values())
    return Check("extensive: 2×2×2 supercell", value, level)


def far_apart(probe: Probe, one: Frame, other: Frame, *, level: float = 1e-10) -> Check:
    """Two structures far from each other have the sum of their energies and their own forces; relative deviation.

    Raises:
        CovariumError: a frame is periodic.
    """
    if one.pbc.any() or other.pbc.any():
        raise CovariumError("structures far apart must not be periodic; their images would meet")
    gap = np.array([FAR + probe.spec.cutoff + np.ptp(one.positions) + np.ptp(other.positions), 0.0, 0.0])
    both = structure(
        [*one.numbers.tolist(), *other.numbers.tolist()], np.concatenate([one.positions, other.positions + gap])
    )
    a, b, joined = probe(one), probe(other), probe(both)
    expected = Prediction(
        energy=a.energy + b.energy,
        atom_energy=torch.cat([a.atom_energy, b.atom_energy]),
        forces=None if a.forces is None or b.forces is None else torch.cat([a.forces, b.forces]),
    )
    value = largest(d.relative for d in deviations(joined, expected).values())
    return Check("extensive: two structures far apart", value, level, f"at least {FAR:g} Å beyond the cutoff")


def isolated_atoms(probe: Probe) -> tuple[Check, Check]:
    """Largest force on an atom alone, over all elements, which must be exactly zero, and largest energy beyond the
    element reference, which must be finite: a model with tables of elements learns it, so it is told and not judged."""
    frames = [structure([z], np.zeros((1, 3))) for z in probe.elements]
    prediction = probe.predict(probe.system(frames))
    finite = bool(torch.isfinite(prediction.energy).all())
    force = 0.0 if prediction.forces is None else float(prediction.forces.abs().max())
    beyond = float(prediction.energy.abs().max())
    where = f"{len(frames)} elements"
    return (
        Check("force on an isolated atom (eV/Å)", force if finite else float("nan"), 0.0, where),
        Check("isolated atom beyond E0 (eV)", beyond, None, "what the model adds to E0, by its own tables"),
    )


def no_edges(probe: Probe, *, level: float = 1e-10) -> Check:
    """Atoms that have no neighbour at all have the energies of isolated atoms; absolute deviation in eV."""
    positions = np.zeros((len(probe.elements) + 1, 3))
    positions[:, 1] = np.arange(len(positions)) * (probe.spec.cutoff + 1)
    numbers = [*probe.elements, probe.elements[0]]
    alone = probe.energies([structure([z], np.zeros((1, 3))) for z in numbers])
    together = probe.energies([structure(numbers, positions)])
    return Check("graph without edges (eV)", float((together - alone.sum()).abs()), level, f"{len(numbers)} atoms")


def deterministic(probe: AnyProbe, frames: Sequence[Frame]) -> Check:
    """Largest difference between two predictions of the same batch; must be exactly zero."""
    system = probe.system(frames)
    value = largest(d.absolute for d in deviations(probe.predict(system), probe.predict(system)).values())
    return Check("repeat", value, 0.0, "same batch twice")


def single_precision(probe: AnyProbe, frame: Frame, *, level: float = 1e-3) -> Check:
    """Relative deviation in float32 from float64, of forces, or of a property."""
    found = deviations(probe.in_dtype(torch.float32)(frame), probe(frame), probe.floor)
    value, unit = (found["forces"], "eV/Å") if "forces" in found else (found["value"], probe.words.unit)
    return Check("float32 against float64", value.relative, level, f"largest difference {value.absolute:.1e} {unit}")


def isolated_values(probe: PropertyProbe) -> Check:
    """Of an atom alone: a vector has no direction to take, and nothing depends on where the atom is; the largest
    component of vectors and of slopes, over all elements."""
    frames = [structure([z], np.zeros((1, 3))) for z in probe.elements]
    values = probe.predict(probe.system(frames)).value
    _, slope = probe.with_slope(frames)
    assert slope is not None
    beyond = [float(slope.abs().max()), *([float(values.abs().max())] if values.ndim == 2 else [])]
    value = largest(beyond) if bool(torch.isfinite(values).all()) else float("nan")
    note = "vectors and slopes" if values.ndim == 2 else f"slopes; values ≤ {float(values.abs().max()):.3g}"
    return Check("isolated atom (scale, scale/Å)", value, 1e-10, note)

"""Is the energy smooth, and are forces and stress its derivatives? Finite differences and atoms dragged across borders.

Levels are those a conservative float64 potential can be held to; energies in eV, lengths in Å.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from covarium.analysis.check import AnyProbe, Check, Probe, PropertyProbe, largest, structure
from covarium.data import Frame
from covarium.errors import CovariumError

# fourth-order central difference: f' ≈ Σ c f(x + k h) / h
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # of symmetric strain components


def finite_difference_forces(
    probe: AnyProbe, frame: Frame, *, h: float = 1e-4, level: float = 1e-6, components: int = 60, seed: int = 0
) -> Check:
    """Largest |F + dE/dr| in eV/Å, or |slope + dy/dr| of a property, over the components of the frame, or over a random
    ``components`` of them.

    Direct forces are reported without a level, since they are not meant to be a derivative; so is the length of a
    vector that vanishes, which has none.
    """
    _, predicted = probe.with_slope([frame])
    if predicted is None:
        raise CovariumError("the potential predicts no forces to compare with finite differences")
    size = frame.positions.size
    rng = np.random.default_rng(seed)
    chosen = np.arange(size) if size <= components else np.sort(rng.choice(size, components, replace=False))

    def moved(component: int, step: float) -> Frame:
        positions = frame.positions.copy()
        positions.reshape(-1)[component] += step
        return replace(frame, positions=positions)

    slope = _derivative(probe, moved, chosen.tolist(), h)
    error = (predicted.double().cpu().reshape(-1)[chosen] + slope).abs().max()
    note = f"{len(chosen)} components, 5 points, h = {h:g} Å"
    if not probe.conservative:
        return Check(probe.words.derivative, float(error), None, "direct forces are not a derivative; " + note)
    if isinstance(probe, PropertyProbe) and probe.near_cusp(frame):
        return Check(
            probe.words.derivative, float(error), None, "a length has no slope where its vector vanishes; " + note
        )
    return Check(probe.words.derivative, float(error), level, note)


def finite_difference_stress(probe: Probe, frame: Frame, *, h: float = 1e-4, level: float = 1e-7) -> Check:
    """Largest |σ − (dE/dε)/V| in eV/Å³ over symmetric strains, and |σ − σᵀ|.

    Raises:
        CovariumError: the frame is not periodic in three directions, or the forces are direct.
    """
    predicted = probe(frame).stress
    if predicted is None:
        raise CovariumError("stress needs three periodic directions and forces by gradient")
    stress = predicted[0].double().cpu()

    def strained(pair: int, step: float) -> Frame:
        strain = np.zeros((3, 3))
        a, b = PAIRS[pair]
        strain[a, b] += step / 2
        strain[b, a] += step / 2
        return replace(frame, positions=frame.positions @ (np.eye(3) + strain), cell=frame.cell @ (np.eye(3) + strain))

    volume = abs(float(np.linalg.det(frame.cell)))
    slope = _derivative(probe, strained, range(6), h) / volume
    # with ε_ab = ε_ba = s/2, dE/ds = V σ_ab on and off the diagonal
    errors = [float((stress[a, b] - slope[k]).abs()) for k, (a, b) in enumerate(PAIRS)]
    value = largest([*errors, float((stress - stress.T).abs().max())])
    return Check("stress = dE/dε / V (eV/Å³)", value, level, f"6 strains, 5 points, h = {h:g}")


def _derivative(
    probe: AnyProbe, moved: Callable[[int, float], Frame], coordinates: Sequence[int], h: float
) -> torch.Tensor:
    """[len(coordinates)] dE/dx, all displaced frames in batches."""
    frames = [moved(c, k * h) for c in coordinates for k, _ in STENCIL]
    weights = torch.tensor([w for _, w in STENCIL], dtype=torch.float64)
    return probe.energies(frames).view(-1, len(STENCIL)) @ weights / h


def cutoff_jump(
    probe: AnyProbe, *, h: float = 1e-5, energy_level: float = 1e-9, force_level: float = 1e-7
) -> tuple[Check, Check]:
    """Jump of energy (eV) and forces (eV/Å) where an atom passes through the cutoff of another.

    Two scenes: a pair alone, and an atom that leaves a pair behind (so that a softmax loses one neighbour of two). The
    difference between r_c − s and r_c + s is taken at s = h and h/10; what is left of it at s → 0, by linear
    extrapolation, is the jump. A function that is merely steep leaves nothing.
    """
    cutoff = probe.spec.cutoff
    z = [int(probe.elements[i % len(probe.elements)]) for i in range(3)]
    along, across = np.array([2.0, 1.0, 2.0]) / 3, np.array([1.0, 2.0, -2.0]) / 3

    def pair(s: float) -> Frame:
        return structure(z[:2], np.stack([0 * along, (cutoff + s) * along]))

    def leaving(s: float) -> Frame:
        return structure(z, np.stack([0 * along, 0.5 * cutoff * across, (cutoff + s) * along]))

    return _jumps(probe, "cutoff", (pair, leaving), h, energy_level, force_level)


def rule_jump(
    probe: AnyProbe, *, h: float = 1e-5, energy_level: float = 1e-9, force_level: float = 1e-7
) -> tuple[Check, Check]:
    """Jump of energy and forces where the k-th and the (k + 1)-th neighbour of an atom change places.

    Raises:
        CovariumError: the model's neighbour rule keeps all neighbours.
    """
    k = probe.spec.max_neighbours
    if probe.spec.rule == "all" or k is None:
        raise CovariumError("the neighbour rule is 'all': no neighbours change places")
    # points of a Fibonacci spiral; the last two of k + 1 are the ones that compete
    index = np.arange(k + 1) + 0.5
    height, angle = 1 - 2 * index / (k + 1), np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - height**2)
    directions = np.stack([ring * np.cos(angle), height, ring * np.sin(angle)], axis=1)
    directions = directions[np.random.default_rng(0).permutation(k + 1)]
    numbers = [int(probe.elements[i % len(probe.elements)]) for i in range(k + 2)]

    def swap(s: float) -> Frame:
        lengths = probe.spec.cutoff * np.linspace(0.5, 0.7, k + 1)
        lengths[-2:] = 0.75 * probe.spec.cutoff
        lengths[-1] += s
        return structure(numbers, np.concatenate([np.zeros((1, 3)), directions * lengths[:, None]]))

    return _jumps(probe, f"{probe.spec.rule} {k} neighbours", (swap,), h, energy_level, force_level)


def _jumps(
    probe: AnyProbe,
    where: str,
    scenes: Sequence[Callable[[float], Frame]],
    h: float,
    energy_level: float,
    force_level: float,
) -> tuple[Check, Check]:
    """Limits of the differences across s = 0, the largest over the scenes."""
    limits, seen = np.zeros((len(scenes), 2)), np.zeros((len(scenes), 2, 2))
    for n, scene in enumerate(scenes):
        for m, s in enumerate((h, h / 10)):
            (below, pull), (above, push) = probe.with_slope([scene(-s)]), probe.with_slope([scene(s)])
            seen[n, 0, m] = float((above - below).abs())
            if pull is not None and push is not None:
                seen[n, 1, m] = float((push - pull).abs().max())
        limits[n] = np.abs(10 * seen[n, :, 1] - seen[n, :, 0]) / 9
    checks = []
    words = probe.words
    rows = ((words.value, words.unit, energy_level), (words.slope, words.slope_unit, force_level))
    for q, (name, unit, level) in enumerate(rows):
        wide, narrow = seen[:, q].max(axis=0)
        note = f"difference {wide:.1e} at ±{h:g} Å, {narrow:.1e} at ±{h / 10:g} Å"
        checks.append(Check(f"{name} jump at {where} ({unit})", float(limits[:, q].max()), level, note))
    return checks[0], checks[1]


def short_distances(probe: AnyProbe, *, shortest: float = 0.3, points: int = 60) -> Check:
    """Number of distances of a pair, from ``shortest`` Å to the cutoff, where energy or forces are not finite."""
    z = [int(probe.elements[0]), int(probe.elements[-1])]
    distances = np.linspace(shortest, probe.spec.cutoff, points)
    frames = [structure(z, np.array([[0.0, 0.0, 0.0], [0.0, r, 0.0]])) for r in distances]
    values, slopes = probe.with_slope(frames)
    finite = torch.isfinite(values)
    if slopes is not None:
        finite &= torch.isfinite(slopes).all(1).view(points, 2).all(1)
    bad = np.flatnonzero(~finite.cpu().numpy())
    note = f"first at {distances[bad[0]]:.3f} Å" if len(bad) else f"pair from {shortest} Å to the cutoff"
    return Check("not finite at short distances", float(len(bad)), 0.0, note)

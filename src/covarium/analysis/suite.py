"""All checks of a potential or a property in one list: what a contract test asserts and a user reads as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from covarium.analysis import conservation, consistency, equivariance, smoothness
from covarium.analysis.check import (
    Check,
    Probe,
    PropertyProbe,
    axes_star,
    cluster,
    crystal,
    flat,
    straight_row,
    typical_spacing,
)  # fmt: skip
from covarium.data import Frame
from covarium.tasks import Potential, Property


def check_potential(
    potential: Potential,
    frames: Sequence[Frame] = (),
    *,
    spacing: float | None = None,
    equivariance_level: float = 1e-10,
) -> Iterator[Check]:
    """Every check that fits the potential, one by one, in float64 (one compares float32 with it).

    Args:
        potential: left as it is; a copy is checked.
        frames: real structures to look at beside the built-in ones, which are made of the potential's elements.
        spacing: bond length of the built-in structures in Å; by default from covalent radii.
        equivariance_level: highest relative deviation under the model's group; S² grids that alias need a larger one.

    Raises:
        CovariumError: the frames hold an element, charge or spin that the potential does not admit.
    """
    probe = Probe(potential)
    elements = probe.elements
    distance = typical_spacing(elements, probe.spec.cutoff) if spacing is None else spacing
    star, row = axes_star(elements, distance), straight_row(elements, distance)
    blob, periodic = cluster(elements, distance), crystal(elements, distance)
    for frame in (star, periodic, *frames):
        yield from equivariance.equivariance(probe, frame, level=equivariance_level)
    yield equivariance.two_charts(probe, flat(elements, distance), level=equivariance_level)
    yield equivariance.inversion(probe, blob)
    yield equivariance.translation(probe, blob)
    yield equivariance.permutation(probe, blob)
    for frame in (star, row, blob, *frames):
        yield smoothness.finite_difference_forces(probe, frame)
    for frame in (periodic, *(f for f in frames if f.pbc.all())):
        yield equivariance.lattice_wraps(probe, frame)
        yield consistency.supercell(probe, frame)
        if probe.conservative:
            yield smoothness.finite_difference_stress(probe, frame)
    yield from smoothness.cutoff_jump(probe)
    if probe.spec.rule != "all":
        yield from smoothness.rule_jump(probe)
    yield smoothness.short_distances(probe)
    yield from conservation.constant_energy(probe, blob)
    together = [star, row, periodic, *frames]
    yield consistency.batch_equals_single(probe, together)
    yield consistency.no_gradient_across(probe, together)
    yield consistency.far_apart(probe, star, blob)
    yield from consistency.isolated_atoms(probe)
    yield consistency.no_edges(probe)
    yield consistency.deterministic(probe, together)
    yield consistency.single_precision(probe, blob)


def check_property(
    task: Property,
    frames: Sequence[Frame] = (),
    *,
    spacing: float | None = None,
    equivariance_level: float = 1e-10,
) -> Iterator[Check]:
    """Every check that fits a property, one by one, in float64 (one compares float32 with it), in units of its scale.

    Args:
        task: left as it is; a copy is checked.
        frames, spacing, equivariance_level: as for ``check_potential``.

    Raises:
        CovariumError: the frames hold an element, charge or spin that the task does not admit, or are periodic where
            the property has no meaning.
    """
    probe = PropertyProbe(task)
    elements = probe.elements
    distance = typical_spacing(elements, probe.spec.cutoff) if spacing is None else spacing
    star, row = axes_star(elements, distance), straight_row(elements, distance)
    blob = cluster(elements, distance)
    solids = [crystal(elements, distance)] if probe.periodic else []
    for frame in (star, blob, *solids, *frames):
        yield from equivariance.equivariance(probe, frame, level=equivariance_level)
    yield equivariance.two_charts(probe, flat(elements, distance), level=equivariance_level)
    yield equivariance.inversion(probe, blob)
    yield equivariance.translation(probe, blob)
    yield equivariance.permutation(probe, blob)
    for frame in (star, row, blob, *frames):
        yield smoothness.finite_difference_forces(probe, frame)
    for frame in (*solids, *(f for f in frames if f.pbc.any())):
        yield equivariance.lattice_wraps(probe, frame)
    yield from smoothness.cutoff_jump(probe)
    if probe.spec.rule != "all":
        yield from smoothness.rule_jump(probe)
    yield smoothness.short_distances(probe)
    together = [star, row, blob, *solids, *frames]
    yield consistency.batch_equals_single(probe, together)
    yield consistency.no_gradient_across(probe, together)
    yield consistency.isolated_values(probe)
    yield consistency.deterministic(probe, together)
    yield consistency.single_precision(probe, blob)

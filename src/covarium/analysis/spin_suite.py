"""All checks of an effective model of spins in one list: what a contract test asserts and a user reads as a table."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from covarium.analysis.check import Check, largest
from covarium.analysis.equivariance import check_equivariance, deviations
from covarium.systems.spin_field import SpinField, lattice_elements
from covarium.tasks.effective_action import ActionPrediction, EffectiveAction

GROUP_SAMPLES = 40


def check_spins(task: EffectiveAction, field: SpinField, *, level: float = 1e-12) -> Iterator[Check]:
    """Every check, one by one, in float64 (one compares float32 with it).

    The constant of the model is taken to be zero, so that an error is one of what depends on the spins: beside a
    constant of hundreds a relative one would vanish.

    Args:
        task: left as it is; a copy is checked.
        field: to look at, on the lattice of the model.
        level: highest relative deviation.
    """
    probe = copy.deepcopy(task).double().eval().requires_grad_(False)
    probe.model.E0.zero_()
    size = field.size
    field = field.to(probe.model.J.device, torch.float64)
    found = check_equivariance(probe.predict, field, lattice_elements(size), GROUP_SAMPLES)
    for name, deviation in found.items():
        yield Check(f"{probe.model.group} {name}", deviation.relative, level, f"{GROUP_SAMPLES} elements")
    whole = probe.predict(field)
    alone = [probe.predict(SpinField(spins[None], size)) for spins in field.spins]
    joined = ActionPrediction(torch.cat([p.log_weight for p in alone]), torch.cat([p.spins for p in alone]), size)
    value = largest(d.relative for d in deviations(joined, whole).values())
    yield Check("batch = single", value, level, f"{field.num_fields} fields")
    value = largest(d.absolute for d in deviations(probe.predict(field), whole).values())
    yield Check("repeat", value, 0.0, "same batch twice")
    half = copy.deepcopy(probe).float().predict(field.to(dtype=torch.float32))
    change = float((half.log_weight.double() - whole.log_weight).abs().max())
    # the terms of the sum may cancel, their rounding does not
    terms = float((probe.model(field).pairs.abs() @ probe.model.J.abs()).max())
    yield Check("float32 against float64", change / terms if terms > 0 else change, 1e-4, "of the sum's terms")

"""What a molecular dynamics run will be, from what was asked and what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from covarium.errors import CovariumError
from covarium.simulation import MDSettings, saved_settings

LENGTH = 1000.0  # fs


def new_settings(atoms: Atoms, given: Mapping[str, Any], time: float | None) -> MDSettings:
    """Settings of a new run: langevin unless given; nve without a temperature keeps the momenta of the structure.

    Args:
        atoms: the structure.
        given: fields of ``MDSettings``, those that were asked for.
        time: fs, instead of ``steps``; None for 1 ps where ``given`` has no steps.

    Raises:
        CovariumError: a value means nothing.
    """
    chosen = {"ensemble": "langevin", "steps": 0, **given}
    if chosen["ensemble"] == "nve" and atoms.has("momenta") and atoms.get_momenta().any():
        chosen.setdefault("temperature", None)
    settings = MDSettings(**chosen)
    return settings if "steps" in given else _lasting(settings, LENGTH if time is None else time)


def resumed_settings(out: Path, given: Mapping[str, Any], time: float | None) -> MDSettings:
    """Settings of the run in ``out``, with another length if one is given.

    Args:
        out: folder of the run.
        given: fields of ``MDSettings`` that were asked for; ``steps`` is the total.
        time: fs in all, instead of ``steps``.

    Raises:
        CovariumError: nothing to resume, or it runs with another value than the one given.
    """
    saved = saved_settings(out)
    for name, value in given.items():
        own = getattr(saved, name)
        if name != "steps" and value != own:
            has = "the momenta of its structure" if own is None else own
            raise CovariumError(
                f"--{name} {value} contradicts the run in {out}, which has {has}; leave it out, or start a run in "
                "another folder"
            )
    if time is not None:
        return _lasting(saved, time)
    return replace(saved, steps=given.get("steps", saved.steps))


def _lasting(settings: MDSettings, time: float) -> MDSettings:
    steps = time / settings.timestep
    if not np.isfinite(steps):
        raise CovariumError(f"timestep {settings.timestep} fs is too short for {time:g} fs")
    return replace(settings, steps=round(steps))

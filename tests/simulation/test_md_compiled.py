"""Compiled dynamics are the uncompiled ones, and are resumed as they began."""

import ase.io
import numpy as np
import pytest
from known_potentials import ARGON, argon_crystal

from covarium.errors import CovariumError
from covarium.simulation import Calculator, MDSettings, md, resume_md, saved_settings
from covarium.tasks import Compiled, Potential


def calculator(compiled):
    potential = Potential(ARGON, references={18: 0.0})
    potential.compiled = Compiled() if compiled else None
    return Calculator(potential)


def positions(out):
    return np.stack([atoms.positions for atoms in ase.io.read(out / "trajectory.extxyz", ":")])


def test_the_same_trajectory_and_an_exact_resume(tmp_path):
    atoms, settings = argon_crystal(repeats=2), MDSettings(steps=300, timestep=2.0, temperature=40.0)
    whole = md(atoms, calculator(True), settings, tmp_path / "compiled")
    md(atoms, calculator(False), settings, tmp_path / "uncompiled")
    assert whole.reason == "finished"
    one, other = (positions(tmp_path / name) for name in ("compiled", "uncompiled"))
    assert np.abs(one - one[0]).max() > 0.1  # it has moved
    assert np.abs(one - other).max() < 1e-8  # what is written has eight decimals

    md(atoms, calculator(True), MDSettings(steps=100, timestep=2.0, temperature=40.0), tmp_path / "parts")
    assert saved_settings(tmp_path / "parts").compiled
    with pytest.raises(CovariumError, match="begun with a potential that was compiled"):
        resume_md(tmp_path / "parts", calculator(False), steps=300)
    resume_md(tmp_path / "parts", calculator(True), steps=300)
    assert (tmp_path / "parts/trajectory.extxyz").read_bytes() == (tmp_path / "compiled/trajectory.extxyz").read_bytes()

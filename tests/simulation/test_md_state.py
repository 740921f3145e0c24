"""The state of a run, damaged or foreign: refused by one exception that names the file and the remedy."""

import zipfile

import numpy as np
import pytest
from known_potentials import argon_calculator, argon_crystal
from mutations import mutated

from covarium.errors import CovariumError
from covarium.simulation import MDSettings, md, resume_md
from covarium.simulation.md import saved_settings
from covarium.simulation.record import load_state, save_state


@pytest.mark.parametrize("sound_checksums", [False, True])
def test_a_damaged_state_is_refused_with_its_name(sound_checksums, tmp_path):
    """Any damage, to the file or to what lies in it under checksums that agree."""
    md(argon_crystal(), argon_calculator(), MDSettings(steps=2, timestep=5.0, temperature=30.0), tmp_path)
    state, rng = tmp_path / "state.npz", np.random.default_rng(0)
    whole = state.read_bytes()
    with zipfile.ZipFile(state) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    settings, refused = saved_settings(tmp_path), 0
    for _ in range(150):
        if sound_checksums:
            chosen = str(rng.choice(list(members)))
            with zipfile.ZipFile(state, "w") as archive:
                for name, data in members.items():
                    archive.writestr(name, mutated(data, rng) if name == chosen else data)
        else:
            state.write_bytes(mutated(whole, rng))
        try:
            assert saved_settings(tmp_path) == settings
        except CovariumError as error:
            refused += 1
            assert str(error).startswith(f"{state} ") and "start again in another folder" in str(error)
    assert refused > (140 if sound_checksums else 100)


@pytest.mark.parametrize(
    "meta",
    [{}, {"settings": 3}, {"rng": {"bit_generator": "absent"}}, {"lengths": {"log": 1}}, {"piston": [1.0]},
     {"step": "x"}, {"settings": {"steps": -1}}],
    ids=str,
)  # fmt: skip
def test_a_state_that_describes_no_run_is_refused(meta, tmp_path):
    md(argon_crystal(), argon_calculator(), MDSettings(steps=2, timestep=5.0, temperature=30.0), tmp_path)
    arrays, known = load_state(tmp_path / "state.npz")
    save_state(tmp_path / "state.npz", arrays, {**known, **meta} if meta else {})
    with pytest.raises(CovariumError, match="describes no run"):
        resume_md(tmp_path, argon_calculator())
    save_state(tmp_path / "state.npz", {**arrays, "momenta": arrays["momenta"][1:]}, known)
    with pytest.raises(CovariumError, match="describes no run"):
        resume_md(tmp_path, argon_calculator())

"""The whole way on one molecule: quantum-chemistry labels, training, errors, relaxation, dynamics, report.

The labels are GFN2-xTB (C. Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019)) by the tblite library: a
semi-empirical method, quick enough to label on the spot. They stand in for the DFT labels of a real project.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixCom
from ase.md.langevin import Langevin

from covarium.analysis import report
from covarium.config import RunConfig
from covarium.errors import CovariumError
from covarium.simulation import Calculator, MDResult, MDSettings, Progress, RelaxResult, RelaxSettings
from covarium.simulation import md as run_md
from covarium.simulation import relax as run_relax
from covarium.simulation.md import read_log, timestep_law
from covarium.units import FS
from covarium.workflows.configuring import configure
from covarium.workflows.inference import Plan
from covarium.workflows.loaded import load, read_structure
from covarium.workflows.reporting import run_sections
from covarium.workflows.simulated import largest_forces
from covarium.workflows.training_run import CONFIG, LOG, Outcome

MOLECULE = "CH3CH2OH"  # ethanol: two rotors, three conformers
TEMPERATURE = 500.0  # K, at which the labelled structures are sampled
SPACING = 10  # fs between labelled structures
HELD_OUT = 0.2  # the last part of the trajectory
METHOD = "GFN2-xTB"
NVE_STEPS = 2000
FMAX = 0.005  # eV/Å


@dataclass(frozen=True)
class Labels:
    """Labelled structures, to learn from and to judge by."""

    train: Path
    test: Path
    frames: int


@dataclass(frozen=True)
class Simulated:
    """What the trained model did: a relaxation, dynamics at constant energy, and the dt² law.

    Attributes:
        relaxed, dynamics: see there.
        law: how much smaller the energy error is at half the time step; 4 for exact forces.
        reference_force: largest force in eV/Å that the labelling method finds in the model's minimum.
    """

    relaxed: RelaxResult
    dynamics: MDResult
    law: float
    reference_force: float

    def findings(self) -> list[tuple[str, str, str]]:
        """What, its value, what to expect."""
        dropped = self.relaxed.energies[0] - self.relaxed.energies[-1]
        drift = "too short" if self.dynamics.drift is None else f"{self.dynamics.drift:+.4f} meV/atom/ps"
        return [
            ("relaxation", f"{self.relaxed.reason} in {self.relaxed.steps} steps, {dropped:.4f} eV lower", ""),
            (f"{METHOD} there", f"largest force {self.reference_force:.3f} eV/Å", "0 if the minima were the same"),
            ("dynamics", f"{self.dynamics.reason}, {self.dynamics.steps} steps of 0.5 fs", ""),
            ("energy drift", drift, "0 for exact forces"),
            ("dt² law", f"{self.law:.2f}", "4 for exact forces: energy error at dt over that at dt/2"),
        ]


def free_folder(out: Path) -> Path:
    """``out``, or the first of ``out-2``, ``out-3``, … that is not in use."""
    number, folder = 1, out
    while folder.exists() and any(folder.iterdir()):
        number += 1
        folder = out.with_name(f"{out.name}-{number}")
    return folder


def make_labels(out: Path, frames: int, seed: int, progress: Callable[[int, int], object]) -> Labels:
    """Sample the molecule by Langevin dynamics and keep energies and forces.

    Args:
        out: folder, made if missing.
        frames: labelled structures.
        seed: of velocities and thermostat.
        progress: called with (structures done, all).

    Raises:
        CovariumError: tblite is not installed.
    """
    with _one_thread():
        labelled = _sample(frames, seed, progress)
    out.mkdir(parents=True, exist_ok=True)
    # held-out frames come later in time, so that they are not neighbours of training frames
    first_held_out = frames - max(1, round(HELD_OUT * frames))
    labels = Labels(out / "train.extxyz", out / "test.extxyz", frames)
    ase.io.write(labels.train, labelled[:first_held_out], format="extxyz")
    ase.io.write(labels.test, labelled[first_held_out:], format="extxyz")
    return labels


def configuration(labels: Labels, time_s: float, threads: int, seed: int) -> RunConfig:
    """What ``covarium train`` would be told."""
    given: dict[str, Any] = {
        "data": {"train": [str(labels.train)], "test": [str(labels.test)]},
        "training": {"time_s": time_s},
        "seed": seed,
        "threads": threads,
        "device": "cpu",
    }
    return configure(given=given)


def simulate(outcome: Outcome, labels: Labels, out: Path, progress: Progress) -> Simulated:
    """Relax a held-out structure, then run it at constant energy, in float64."""
    calculator = load(outcome.model, device="cpu", dtype="float64").calculator()
    start, _ = read_structure(labels.test, 0)
    relaxed = run_relax(start, calculator, RelaxSettings(fmax=FMAX), out / "relax", progress=progress)
    settings = MDSettings(steps=NVE_STEPS, ensemble="nve", timestep=0.5, temperature=300.0)
    dynamics = run_md(start, calculator, settings, out / "md", progress=progress)
    judged = relaxed.atoms.copy()
    with _one_thread():
        judged.calc = _reference()
        force = float(np.linalg.norm(judged.get_forces(), axis=1).max())
    return Simulated(relaxed, dynamics, _law(dynamics, calculator), force)


def write_report(plan: Plan, outcome: Outcome, simulated: Simulated, commands: list[str], path: Path) -> None:
    """Everything in one HTML file."""
    rows = read_log(simulated.dynamics.files["log"])
    atoms = len(simulated.relaxed.atoms)
    config = (outcome.folder / CONFIG).read_text(encoding="utf-8")
    chapters = run_sections(plan, outcome.result, outcome.evaluations, outcome.folder / LOG, config, commands)
    reference = {f"largest {METHOD} force there": f"{simulated.reference_force:.3g} eV/Å"}
    law = {"energy error at half the time step": f"{simulated.law:.2f} times smaller (4 for exact forces)"}
    added = [
        report.relaxation_section(
            np.array(simulated.relaxed.energies), largest_forces(simulated.relaxed), target=FMAX, facts=reference
        ),
        report.dynamics_section(rows["time_fs"], rows["total_ev"], atoms, facts=law),
    ]
    title = f"Covarium demonstration: {MOLECULE} at the level of {METHOD}"
    report.write(path, title, [*chapters[:-2], *added, *chapters[-2:]], subtitle=f"{plan.config.model['name']}")


def _sample(frames: int, seed: int, progress: Callable[[int, int], object]) -> list[Atoms]:
    """Labelled structures along Langevin dynamics."""
    atoms = molecule(MOLECULE)
    atoms.calc = _reference()
    atoms.set_constraint(FixCom())
    rng = np.random.default_rng(seed)
    thermostat = Langevin(atoms, FS, temperature_K=TEMPERATURE, friction=0.02 / FS, rng=rng, fixcm=False)
    thermostat.run(50 * SPACING)  # forget the start
    labelled = []
    for count in range(frames):
        thermostat.run(SPACING)
        frame = Atoms(atoms.numbers, atoms.positions, info={"theory": METHOD})
        forces = atoms.get_forces(apply_constraint=False)
        frame.calc = SinglePointCalculator(frame, energy=atoms.get_potential_energy(), forces=forces)
        labelled.append(frame)
        progress(count + 1, frames)
    return labelled


def _reference() -> Any:  # noqa: ANN401 - tblite has no types
    """The labelling method as an ASE calculator."""
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise CovariumError("the labels need tblite: pip install 'covarium[demo]'") from error
    return TBLite(method=METHOD, verbosity=0)


@contextmanager
def _one_thread() -> Iterator[None]:
    """On a small molecule the threads of the labelling method only wait for each other.

    It shares OpenMP with torch where both load the system's library; where it brings its own, the variable is read.
    """
    before, threads = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _law(dynamics: MDResult, calculator: Calculator) -> float:
    """The dt² law from the last structure of the run, with its momenta."""
    (last,) = ase.io.read(dynamics.files["trajectory"], index="-1:")
    return timestep_law(last, calculator, timestep=0.5, steps=100)

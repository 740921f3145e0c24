"""Molecular dynamics through ASE's integrators, with guards, files that survive a kill, and an exact resume.

nve       velocity Verlet, W. C. Swope et al., J. Chem. Phys. 76, 637 (1982)
langevin  BAOAB, B. Leimkuhler and C. Matthews, J. Chem. Phys. 138, 174102 (2013)
npt       the same with an isotropic Langevin piston, D. Quigley and M. I. J. Probert, J. Chem. Phys. 120, 11432 (2004)

A resumed run is the uninterrupted one to the bit in all three ensembles, wherever the model itself is deterministic:
the state keeps positions, momenta and cell in float64, the random numbers, and the piston's momentum and force.
"""

from __future__ import annotations

import csv
import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.verlet import VelocityVerlet

from covarium.errors import CovariumError, nearest
from covarium.files import held, replace_text
from covarium.simulation.calculator import Calculator, require_stress
from covarium.simulation.guards import Halt, failure, force_warnings, overlap, too_hot
from covarium.simulation.record import Progress, Record, frame, load_state, save_state, unlabelled
from covarium.simulation.velocities import conserved_motions, fixed_atoms, start_velocities, temperature_of
from covarium.units import FS, GPA

ENSEMBLES = ("nve", "langevin", "npt")
ROOM_TEMPERATURE = 300.0  # K, the reference of the temperature guard where nothing moves at the start
STATE_EVERY = 1.0  # s of wall time; replacing a file may cost more than a step, and an older state loses only that time
STATE = "state.npz"
ARRAY = "array."  # before the name of an array in the state
SAME_ENERGY = 1e-4  # eV per atom; beyond it, a state was not written with this potential

Integrator = VelocityVerlet | LangevinBAOAB


@dataclass(frozen=True)
class MDSettings:
    """What to run.

    Attributes:
        steps: number of time steps.
        ensemble: ``nve``, ``langevin`` (constant volume and temperature) or ``npt`` (isotropic).
        timestep: fs.
        temperature: K, of the velocities at the start and of the thermostat; None (nve only) keeps the momenta that
            the structure brings.
        relaxation: fs, time constant of the thermostat; the friction is its inverse.
        pressure: GPa.
        pressure_relaxation: fs, time constant of the piston.
        interval: steps between two saved frames and log rows.
        seed: of the velocities and the thermostat.
        tile, keep, remember: edges that the model works on at a time, that it keeps, and whose products it does, see
            ``AtomModel``; a tile of None leaves them to the model.
        compiled: whether the potential was, as ``md`` notes by itself: a resumed run must add up as it did before.
    """

    steps: int
    ensemble: Literal["nve", "langevin", "npt"] = "nve"
    timestep: float = 0.5
    temperature: float | None = 300.0
    relaxation: float = 100.0
    pressure: float = 0.0
    pressure_relaxation: float = 1000.0
    interval: int = 10
    seed: int = 0
    tile: int | None = None
    keep: int = 0
    remember: int = 0
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.ensemble not in ENSEMBLES:
            hint = nearest(self.ensemble, ENSEMBLES)
            raise CovariumError(f"ensemble '{self.ensemble}' is unknown; allowed: {', '.join(ENSEMBLES)}{hint}")
        for name in ("timestep", "relaxation", "pressure_relaxation"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise CovariumError(f"{name} must be a positive time in fs, got {getattr(self, name)}")
        if self.steps < 0 or self.interval < 1:
            raise CovariumError(f"steps ≥ 0 and interval ≥ 1, got {self.steps} and {self.interval}")
        if self.temperature is None and self.ensemble != "nve":
            raise CovariumError(f"ensemble '{self.ensemble}' needs a temperature in K")
        if self.temperature is not None and not 0.0 <= self.temperature < np.inf:
            raise CovariumError(f"temperature must be ≥ 0 K, got {self.temperature}")
        if not np.isfinite(self.pressure):
            raise CovariumError(f"pressure must be finite, in GPa, got {self.pressure}")


@dataclass(frozen=True)
class MDResult:
    """How a run ended.

    Attributes:
        steps: steps done since the very start.
        reason: ``finished``, or the name of the guard that stopped it: ``overlap``, ``temperature``, ``not_finite``,
            ``out_of_memory``.
        message: one sentence for the user; empty if finished.
        drift: meV/atom/ps, see ``energy_drift``; None outside nve and for fewer than three rows.
        temperature: K, mean over the log; None if nothing was logged.
        files: ``trajectory`` (extxyz), ``log`` (CSV), ``state``, and ``stopped`` (extxyz) if a guard stopped the run.
        warnings: what the user must know of this potential.
    """

    steps: int
    reason: str
    message: str
    drift: float | None
    temperature: float | None
    files: dict[str, Path]
    warnings: tuple[str, ...] = ()


def md(
    atoms: Atoms, calculator: Calculator, settings: MDSettings, out: Path, *, progress: Progress | None = None
) -> MDResult:
    """Run molecular dynamics into a new folder.

    Args:
        atoms: not changed. Fixed atoms stay fixed; masses, arrays, numbers and text of ``info`` are kept, labels not.
        calculator: over the potential.
        settings: what to run.
        out: receives ``trajectory.extxyz``, ``md.csv`` and ``state.npz``, and ``stopped.extxyz`` if a guard stops it.
        progress: called after every step.

    Raises:
        CovariumError: the folder holds a run already; the structure cannot be run as asked (see ``Calculator``; npt
            needs three periodic directions, a stress and no fixed atoms); the disk is full.
    """
    if len(atoms) == 0:
        raise CovariumError("molecular dynamics needs at least one atom, the structure has none")
    settings = replace(settings, compiled=calculator.potential.compiled is not None)
    fixed, rng = fixed_atoms(atoms), np.random.default_rng(settings.seed)
    moving = _bare(atoms, fixed)
    freedom = 3 * int((~fixed).sum())
    if settings.temperature is not None:
        # a thermostat pushes each atom by itself, so that nothing is conserved and all 3N motions are warm
        conserved = settings.ensemble == "nve"
        start_velocities(moving, settings.temperature, rng, conserved=conserved)
        freedom -= conserved_motions(moving) if conserved else 0
    if settings.ensemble == "npt":
        require_stress(calculator.potential, moving, "npt")
        if fixed.any():
            raise CovariumError("npt scales all positions with the cell, so it cannot keep atoms fixed; use langevin")
    start = temperature_of(moving.get_kinetic_energy(), freedom)
    reference = (start if settings.ensemble == "nve" else settings.temperature) or ROOM_TEMPERATURE
    with held(out):
        trajectory, log = Record(out / "trajectory.extxyz"), Record(out / "md.csv")
        return _Run(moving, calculator, settings, rng, out, trajectory, log, freedom, reference).go(progress)


def resume_md(
    out: Path, calculator: Calculator, *, steps: int | None = None, progress: Progress | None = None
) -> MDResult:
    """Go on with the run in ``out`` from its last complete state; what was written after it is cut and made anew.

    Args:
        out: folder of the run.
        calculator: over the same potential.
        steps: total number of steps; None keeps the number that was asked for.
        progress: called after every step.

    Raises:
        CovariumError: nothing to resume, damaged files, or another potential.
    """
    saved = _saved(out)
    settings, atoms, meta = saved.settings, saved.atoms, saved.meta
    if steps is not None:
        settings = replace(settings, steps=steps)
    if settings.compiled != (calculator.potential.compiled is not None):
        ran, asked = ("compiled", "one") if settings.compiled else ("not compiled", "none")
        raise CovariumError(f"{out} was begun with a potential that was {ran}; resume it with {asked} that is")
    _divide(calculator, settings)
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    if abs(energy - meta["energy"]) > SAME_ENERGY * len(atoms):
        raise CovariumError(
            f"{out} was run with another potential: its energy at step {meta['step']} was {meta['energy']:.6f} eV, "
            f"and is {energy:.6f} eV now; resume it with the model it was started with"
        )
    with held(out):
        trajectory = Record(out / "trajectory.extxyz", meta["lengths"]["trajectory"])
        log = Record(out / "md.csv", meta["lengths"]["log"])
        run = _Run(
            atoms, calculator, settings, saved.rng, out, trajectory, log, meta["freedom"], meta["reference"],
            step=meta["step"], piston=meta["piston"],
        )  # fmt: skip
        return run.go(progress)


def saved_settings(out: Path) -> MDSettings:
    """The settings of the run in ``out``.

    Raises:
        CovariumError: there is no run, or its state is damaged.
    """
    return _saved(out).settings


class _Saved(NamedTuple):
    """A state taken apart; ``meta``: the numbers of the run on its way."""

    settings: MDSettings
    atoms: Atoms
    rng: np.random.Generator
    meta: dict[str, Any]


def _saved(out: Path) -> _Saved:
    """
    Raises:
        CovariumError: there is no state, it is damaged, or it does not describe a run.
    """
    arrays, meta = load_state(out / STATE)
    try:
        rng = np.random.default_rng()
        rng.bit_generator.state = meta["rng"]
        numbers = {
            "energy": float(meta["energy"]),
            "reference": float(meta["reference"]),
            "step": int(meta["step"]),
            "freedom": int(meta["freedom"]),
            "lengths": {name: int(meta["lengths"][name]) for name in ("trajectory", "log")},
            "piston": None if meta["piston"] is None else [float(meta["piston"][k]) for k in (0, 1)],
        }
        atoms = _bare(_saved_atoms(arrays, meta["info"]), arrays["fixed"])
        return _Saved(MDSettings(**meta["settings"]), atoms, rng, numbers)
    except Exception as error:  # what a foreign state describes may be anything
        raise CovariumError(
            f"{out / STATE} describes no run ({type(error).__name__}: {error}); it was made or changed by something "
            "else than Covarium"
        ) from error


def _divide(calculator: Calculator, settings: MDSettings) -> None:
    """Sums in another order have other last digits: a resumed run must add up as it did before."""
    if settings.tile is not None:
        model = calculator.potential.model
        model.tile, model.keep, model.remember = settings.tile, settings.keep, settings.remember


@dataclass
class _Run:
    """One run on its way."""

    atoms: Atoms
    calculator: Calculator
    settings: MDSettings
    rng: np.random.Generator
    out: Path
    trajectory: Record
    log: Record
    freedom: int
    reference: float
    step: int = 0
    piston: list[float] | None = None
    notes: tuple[str, ...] = field(init=False)
    saved_at: float = -np.inf

    def __post_init__(self) -> None:
        _divide(self.calculator, self.settings)
        self.atoms.calc = self.calculator
        self.notes = force_warnings(self.calculator.potential)
        for note in self.notes:
            warnings.warn(note, stacklevel=4)

    def go(self, progress: Progress | None) -> MDResult:
        try:
            halt = self._advance(progress)
        finally:
            self.trajectory.close()
            self.log.close()
        files = {"trajectory": self.trajectory.path, "log": self.log.path, "state": self.out / STATE}
        if halt is not None:
            files["stopped"] = self.out / "stopped.extxyz"
            text = frame(self.atoms, labels=False, step=self.step, time_fs=self.step * self.settings.timestep)
            replace_text(files["stopped"], text)
        files = {name: path for name, path in files.items() if path.exists()}
        rows = read_log(self.log.path)
        drift = None
        if self.settings.ensemble == "nve" and len(rows["time_fs"]) > 2:
            drift = energy_drift(rows["time_fs"], rows["total_ev"], len(self.atoms))
        return MDResult(
            steps=self.step,
            reason="finished" if halt is None else halt.reason,
            message="" if halt is None else halt.message,
            drift=drift,
            temperature=float(rows["temperature_k"].mean()) if len(rows["time_fs"]) else None,
            files=files,
            warnings=self.notes,
        )

    def _advance(self, progress: Progress | None) -> Halt | None:
        """Steps until the end or until a guard has an objection."""
        try:
            integrator = _integrator(self.atoms, self.settings, self.rng, self.piston)
            values = self._values()
        except Exception as error:
            return _halt_or_raise(error)
        halt = self._objection(values)
        if halt is None and self.log.length == 0:
            # first, so that from here on a killed run can be resumed
            self._save(values, integrator)
            self.log.append(",".join(values) + "\n")
            self._record(values)
            self._save(values, integrator)
        while halt is None and self.step < self.settings.steps:
            try:
                integrator.step()
                self.step += 1
                values = self._values()
            except Exception as error:
                return _halt_or_raise(error)
            halt = self._objection(values)
            last = self.step == self.settings.steps
            if halt is None and (last or self.step % self.settings.interval == 0):
                self._record(values)
                if last or time.monotonic() - self.saved_at > STATE_EVERY:
                    self._save(values, integrator)
            if progress is not None:
                progress(self.step, self.settings.steps, values)
        return halt

    def _objection(self, values: dict[str, float]) -> Halt | None:
        return overlap(self.calculator, self.atoms) or too_hot(values["temperature_k"], self.reference)

    def _values(self) -> dict[str, float]:
        """The row of the log; pressure includes the kinetic part, P = (2K/3 − tr(σ) V/3) / V."""
        potential, kinetic = self.atoms.get_potential_energy(), float(self.atoms.get_kinetic_energy())
        values = {
            "step": self.step,
            "time_fs": self.step * self.settings.timestep,
            "potential_ev": potential,
            "kinetic_ev": kinetic,
            "total_ev": potential + kinetic,
            "temperature_k": temperature_of(kinetic, self.freedom),
        }
        if "stress" in self.calculator.results:
            volume = float(self.atoms.get_volume())
            trace = float(self.calculator.results["stress"][:3].sum())
            values["pressure_gpa"] = (2.0 * kinetic / volume - trace) / 3.0 / GPA
            values["volume_a3"] = volume
        return values

    def _record(self, values: dict[str, float]) -> None:
        self.trajectory.append(frame(self.atoms, step=self.step, time_fs=values["time_fs"]))
        self.log.append(",".join(repr(v) for v in values.values()) + "\n")

    def _save(self, values: dict[str, float], integrator: Integrator) -> None:
        atoms = self.atoms
        arrays = {
            "numbers": atoms.numbers,
            "positions": atoms.positions,
            "momenta": atoms.get_momenta(),
            "masses": atoms.arrays.get("masses", np.zeros(0)),
            "cell": atoms.cell.array,
            "pbc": atoms.pbc,
            "fixed": fixed_atoms(atoms),
            **{ARRAY + name: atoms.arrays[name] for name in _others(atoms)},
        }
        meta: dict[str, Any] = {
            "step": self.step,
            "settings": asdict(self.settings),
            "info": atoms.info,
            "freedom": self.freedom,
            "reference": self.reference,
            "energy": values["potential_ev"],
            "rng": self.rng.bit_generator.state,
            "piston": _piston(integrator),
            "lengths": {"trajectory": self.trajectory.length, "log": self.log.length},
        }
        save_state(self.out / STATE, arrays, meta)
        self.saved_at = time.monotonic()


def _saved_atoms(arrays: dict[str, np.ndarray], info: dict[str, Any]) -> Atoms:
    atoms = Atoms(arrays["numbers"], arrays["positions"], cell=arrays["cell"], pbc=arrays["pbc"], info=info)
    if len(arrays["masses"]):
        atoms.set_masses(arrays["masses"])
    for name in arrays:
        if name.startswith(ARRAY):
            atoms.set_array(name.removeprefix(ARRAY), arrays[name])
    atoms.set_momenta(arrays["momenta"])
    return atoms


def _others(atoms: Atoms) -> list[str]:
    """Arrays that the motion does not depend on, in one order."""
    return sorted(atoms.arrays.keys() - {"numbers", "positions", "masses", "momenta"})


def _bare(atoms: Atoms, fixed: np.ndarray) -> Atoms:
    """What the state can hold, in one order, so that a resumed run writes the same frames."""
    atoms = unlabelled(atoms)
    scalars = {str(k): v.item() if isinstance(v, np.generic | np.ndarray) and v.ndim == 0 else v
               for k, v in atoms.info.items()}  # fmt: skip
    info = {key: value for key, value in scalars.items() if isinstance(value, str | bool | int | float)}
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)
    for name in _others(atoms):
        bare.set_array(name, atoms.arrays[name])
    if atoms.has("masses"):
        bare.set_masses(atoms.get_masses())
    if atoms.has("momenta"):
        bare.set_momenta(atoms.get_momenta())
    if fixed.any():
        bare.set_constraint(FixAtoms(mask=fixed))
    return bare


def _halt_or_raise(error: Exception) -> Halt:
    halt = failure(error)
    if halt is None:
        raise error
    return halt


def _integrator(atoms: Atoms, settings: MDSettings, rng: np.random.Generator, piston: list[float] | None) -> Integrator:
    timestep = settings.timestep * FS
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    # Only isotropic strain: ASE 3.29 adds a trace to every component of the piston's momentum in the general case.
    barostat = {
        "externalstress": -settings.pressure * GPA,
        "hydrostatic": True,
        "P_tau": settings.pressure_relaxation * FS,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using heuristic P_mass")
        integrator = LangevinBAOAB(
            atoms,
            timestep,
            temperature_K=settings.temperature,
            T_tau=settings.relaxation * FS,
            rng=rng,
            **(barostat if settings.ensemble == "npt" else {}),
        )
    if piston is not None:
        integrator.p_eps, integrator.force_eps = piston
    return integrator


def _piston(integrator: Integrator) -> list[float] | None:
    """Momentum and force of the piston; its force was taken half a kick earlier, so it cannot be recomputed."""
    if isinstance(integrator, VelocityVerlet) or integrator.externalstress is None:
        return None
    return [float(integrator.p_eps), float(integrator.force_eps)]


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The columns of a log, float64; empty columns if nothing was logged."""
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    names = list(rows[0]) if rows else ["time_fs", "total_ev", "temperature_k"]
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


def energy_drift(times: np.ndarray, energies: np.ndarray, natoms: int) -> float:
    """Slope of the linear fit of the total energy, in meV/atom/ps.

    Args:
        times: [T] fs.
        energies: [T] total energy, eV.
        natoms: number of atoms.

    Raises:
        CovariumError: fewer than two different times.
    """
    times, energies = np.asarray(times, dtype=np.float64), np.asarray(energies, dtype=np.float64)
    if len(times) < 2 or np.ptp(times) == 0.0:
        raise CovariumError(f"a drift needs energies at two times or more, got {len(times)}")
    centred = times - times.mean()
    slope = float(centred @ (energies - energies.mean()) / (centred @ centred))  # eV/fs
    return slope * 1e6 / natoms


def timestep_law(atoms: Atoms, calculator: Calculator, *, timestep: float, steps: int) -> float:
    """How much smaller the fluctuation of the total energy gets when the time step is halved.

    Velocity Verlet conserves the energy up to dt², so forces that are the exact gradient of a smooth energy give 4;
    a force that is no gradient, or noise such as the rounding of float32, gives less.

    Args:
        atoms: with momenta; not changed.
        calculator: over the potential.
        timestep: dt in fs.
        steps: at dt; twice as many at dt/2, from the same state over the same time.

    Returns:
        rms fluctuation at dt divided by that at dt/2.

    Raises:
        CovariumError: the energy does not fluctuate at all, as when nothing moves.
    """
    fluctuations = []
    for halvings in (1, 2):
        moving = atoms.copy()
        moving.calc = calculator
        integrator = VelocityVerlet(moving, timestep * FS / halvings)
        energies = [moving.get_total_energy()]
        for _ in range(steps):
            for _ in range(halvings):
                integrator.step()
            energies.append(moving.get_total_energy())
        fluctuations.append(float(np.std(energies)))
    if fluctuations[1] == 0.0:
        raise CovariumError("the total energy does not fluctuate; give the atoms momenta and a longer time step")
    return fluctuations[0] / fluctuations[1]

"""Systems in motion: the ASE calculator, molecular dynamics and relaxation."""

from covarium.simulation.calculator import Calculator, NotFiniteError, StressUndefinedError
from covarium.simulation.md import MDResult, MDSettings, energy_drift, md, resume_md, saved_settings, timestep_law
from covarium.simulation.record import Progress
from covarium.simulation.relax import RelaxResult, RelaxSettings, relax
from covarium.simulation.velocities import start_velocities

__all__ = [
    "Calculator",
    "MDResult",
    "MDSettings",
    "NotFiniteError",
    "Progress",
    "RelaxResult",
    "RelaxSettings",
    "StressUndefinedError",
    "energy_drift",
    "md",
    "relax",
    "resume_md",
    "saved_settings",
    "start_velocities",
    "timestep_law",
]

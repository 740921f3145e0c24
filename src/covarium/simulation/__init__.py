"""Systems in motion: the ASE calculator, molecular dynamics and relaxation."""

from covarium.simulation.calculator import Calculator, NotFiniteError, StressUndefinedError
from covarium.simulation.skin import Pairs, SkinList

__all__ = ["Calculator", "NotFiniteError", "Pairs", "SkinList", "StressUndefinedError"]

"""The question asked of a model."""

from covarium.tasks.effective_action import EffectiveAction
from covarium.tasks.potential import EnergySemantics, Potential, Prediction, Term

TASKS = {"potential": Potential, "effective_action": EffectiveAction}

__all__ = ["TASKS", "EffectiveAction", "EnergySemantics", "Potential", "Prediction", "Term"]

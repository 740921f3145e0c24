"""The question asked of a model."""

from covarium.tasks.potential import EnergySemantics, Potential, Prediction, Term

TASKS = {"potential": Potential}

__all__ = ["TASKS", "EnergySemantics", "Potential", "Prediction", "Term"]

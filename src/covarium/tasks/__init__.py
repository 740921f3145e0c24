"""The question asked of a model."""

from covarium.tasks.potential import EnergySemantics, Potential, Prediction, Term
from covarium.tasks.tokens import TokenRegression

TASKS = {"potential": Potential, "tokens": TokenRegression}

__all__ = ["TASKS", "EnergySemantics", "Potential", "Prediction", "Term", "TokenRegression"]

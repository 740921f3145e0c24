"""The question asked of a model."""

from covarium.tasks.denoise import Denoise, DenoisingSettings
from covarium.tasks.potential import EnergySemantics, Potential, Prediction, Term

TASKS = {"potential": Potential, "denoise": Denoise}

__all__ = ["TASKS", "Denoise", "DenoisingSettings", "EnergySemantics", "Potential", "Prediction", "Term"]

"""The question asked of a model."""

from covarium.tasks.asked import CompilationError
from covarium.tasks.compiled import Compiled
from covarium.tasks.denoise import Denoise, DenoisingSettings
from covarium.tasks.effective_action import EffectiveAction
from covarium.tasks.potential import EnergySemantics, Potential, Prediction, Term
from covarium.tasks.property import Property, PropertyPrediction, PropertySemantics
from covarium.tasks.tokens import TokenRegression

TASKS = {
    "potential": Potential,
    "property": Property,
    "denoise": Denoise,
    "effective_action": EffectiveAction,
    "tokens": TokenRegression,
}

__all__ = [
    "TASKS",
    "CompilationError",
    "Compiled",
    "Denoise",
    "DenoisingSettings",
    "EffectiveAction",
    "EnergySemantics",
    "Potential",
    "Prediction",
    "Property",
    "PropertyPrediction",
    "PropertySemantics",
    "Term",
    "TokenRegression",
]

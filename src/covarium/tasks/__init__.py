"""The question asked of a model."""

from covarium.tasks.denoise import Denoise, DenoisingSettings
from covarium.tasks.potential import EnergySemantics, Potential, Prediction, Term
from covarium.tasks.property import Property, PropertyPrediction, PropertySemantics

TASKS = {"potential": Potential, "property": Property, "denoise": Denoise}

__all__ = [
    "TASKS",
    "Denoise",
    "DenoisingSettings",
    "EnergySemantics",
    "Potential",
    "Prediction",
    "Property",
    "PropertyPrediction",
    "PropertySemantics",
    "Term",
]

"""The question asked of a model."""

from covarium.tasks.potential import EnergySemantics, Potential, Prediction, Term
from covarium.tasks.property import Property, PropertyPrediction, PropertySemantics

TASKS = {"potential": Potential, "property": Property}

__all__ = [
    "TASKS",
    "EnergySemantics",
    "Potential",
    "Prediction",
    "Property",
    "PropertyPrediction",
    "PropertySemantics",
    "Term",
]

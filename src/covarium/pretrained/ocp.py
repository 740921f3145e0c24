"""What the trainers of ocp and fairchem 1.x leave in a checkpoint beside the weights."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from covarium.errors import CovariumError
from covarium.pretrained.stated import mapping, number, table
from covarium.tasks import EnergySemantics

# of the labels that published OC20 models were trained on, as mean and standard deviation, and what these energies are
OC20: Mapping[tuple[float, float], str] = {
    (-0.7554450631141663, 2.887317180633545): "OC20 S2EF: relative to the clean slab and the molecule in the gas phase",
    (-1.525913953781128, 2.279365062713623): (
        "OC20 IS2RE: of the relaxed structure, from the initial one; relative to the clean slab and the molecule in "
        "the gas phase"
    ),
}
QUANTITIES = {
    "target": "energy", "grad_target": "forces", "energy": "energy", "forces": "forces", "stress": "stress",
}  # fmt: skip
SPREADS = ("rmsd", "std", "stdev")  # as releases call it
GRADIENT = ("grad_target_mean", "grad_target_std")
TRANSFORMS = "transforms"  # of config.dataset, or of config.dataset.train


def model_of(config: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Name and arguments of a model in the configuration that a checkpoint carries."""
    model = config.get("model")
    arguments = mapping("config.model_attributes", config.get("model_attributes") or {})
    if isinstance(model, Mapping):
        arguments = {**model, **arguments}
        model = arguments.pop("name", None)
    if model is not None and not isinstance(model, str):
        raise CovariumError(f"config.model is {reprlib.repr(model)}; a name, or a dictionary with one, is expected")
    if "backbone" not in arguments:
        return model, arguments
    heads = mapping("config.model.heads", arguments.get("heads") or {})
    backbone = mapping("config.model.backbone", arguments["backbone"])
    model = str(backbone.pop("model", model)).removesuffix("_backbone")
    backbone["regress_forces"] = backbone.get("regress_forces", True) and ("forces" in heads or "force" in heads)
    return model, backbone


def normalisers(content: Mapping[str, Any], *, direct: bool) -> dict[str, tuple[float, float]]:
    """(mean, standard deviation) of energy, forces and stress: each from the trainer's state, else from the data
    section of the configuration.

    Args:
        content: of the checkpoint.
        direct: whether the model has a head for forces.

    Raises:
        CovariumError: one is no number, or stands outside the file.
    """
    data = _training_data(content)
    state = mapping("normalizers", content.get("normalizers") or {})
    configured = mapping(f"{TRANSFORMS}.normalizer", _transforms(content).get("normalizer") or {})
    if not state and configured.keys() & {"fit", "file"}:
        raise CovariumError(
            f"{TRANSFORMS}.normalizer has the normalisers fitted or read from another file, and this file does not "
            "hold them ('normalizers')"
        )
    found: dict[str, tuple[float, float]] = {}
    if data.get("normalize_labels"):
        found["energy"] = _spread("config.dataset", data, "target_mean", "target_std")
        if "grad_target_std" in data:
            found["forces"] = _spread("config.dataset", {"grad_target_mean": 0.0, **data}, *GRADIENT)
    for field, values in ((f"{TRANSFORMS}.normalizer", configured), ("normalizers", state)):
        for key in values.keys() & QUANTITIES.keys():
            one = mapping(f"{field}.{key}", values[key])
            spread = next((name for name in SPREADS if name in one), SPREADS[0])
            found[QUANTITIES[key]] = _spread(f"{field}.{key}", one, "mean", spread)
    if direct and data.get("normalize_labels") and not state and "forces" not in found:
        raise CovariumError(
            "config.dataset states target_std but no grad_target_std, and the file holds no 'normalizers': the scale "
            "of the forces is then that of the training energies for ocp's trainers, and 1 for those of fairchem 1.x. "
            "Add grad_target_std to config.dataset"
        )
    return found


def _spread(field: str, values: Mapping[str, Any], mean: str, spread: str) -> tuple[float, float]:
    given = number(f"{field}.{mean}", values.get(mean))
    return given, number(f"{field}.{spread}", values.get(spread), positive=True)


def _training_data(content: Mapping[str, Any]) -> dict[str, Any]:
    """The data section of the configuration, of the training data: a list of data sets begins with them."""
    data = (content.get("config") or {}).get("dataset") or {}
    if isinstance(data, list):
        return mapping("config.dataset[0]", data[0])
    data = mapping("config.dataset", data)
    return mapping("config.dataset.train", data.get("train", data) or {})


def _transforms(content: Mapping[str, Any]) -> dict[str, Any]:
    return mapping(TRANSFORMS, _training_data(content).get("transforms") or {})


def element_references(content: Mapping[str, Any]) -> tuple[dict[int, float], str]:
    """Linear references of the energies by atomic number, where the file has them, and else the place outside it where
    its configuration says that they are."""
    own = mapping("elementrefs", content.get("elementrefs") or {})
    if "energy" in own:
        field = "elementrefs.energy"
        values = mapping(field, own["energy"]).get("element_references")
        return {z: e for z, e in table(f"{field}.element_references", values).items() if z > 0}, ""
    stated = mapping(f"{TRANSFORMS}.element_references", _transforms(content).get("element_references") or {})
    of_energy = mapping(f"{TRANSFORMS}.element_references.energy", stated.get("energy") or stated)
    return {}, str(of_energy.get("file", "a fit to its training data")) if of_energy else ""


def energies_of(mean: float, scale: float) -> EnergySemantics | None:
    """What energies are whose labels had this mean and standard deviation: those of OC20 stand in every published
    configuration, in files with the digits of single precision or fewer; None for others."""
    for (known_mean, known_scale), note in OC20.items():
        if math.isclose(mean, known_mean, rel_tol=1e-4) and math.isclose(scale, known_scale, rel_tol=1e-4):
            return EnergySemantics("adsorption", "RPBE", note)
    return None

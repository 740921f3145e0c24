"""What the trainers of ocp and fairchem 1.x leave in a checkpoint beside the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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


def model_of(config: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Name and arguments of a model in the configuration that a checkpoint carries."""
    model = config.get("model")
    arguments = dict(config.get("model_attributes") or {})
    if isinstance(model, Mapping):
        arguments = {**model, **arguments}
        model = arguments.pop("name", None)
    if "backbone" not in arguments:
        return model, arguments
    heads = arguments.get("heads") or {}
    backbone = dict(arguments["backbone"])
    model = str(backbone.pop("model", model)).removesuffix("_backbone")
    backbone["regress_forces"] = backbone.get("regress_forces", True) and ("forces" in heads or "force" in heads)
    return model, backbone


def normalisers(content: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """(mean, standard deviation) of energy, forces and stress: from the normalisers, else from the data section."""
    found: dict[str, tuple[float, float]] = {}
    for key, value in (content.get("normalizers") or {}).items():
        if key in QUANTITIES:
            spread = value.get("std", value.get("rmsd"))
            found[QUANTITIES[key]] = (float(value["mean"]), float(spread))
    data = (content.get("config") or {}).get("dataset") or {}
    data = data.get("train", data) if isinstance(data, Mapping) else data[0]
    if not found and data.get("normalize_labels"):
        found["energy"] = (float(data["target_mean"]), float(data["target_std"]))
        if "grad_target_std" in data:
            found["forces"] = (float(data.get("grad_target_mean", 0.0)), float(data["grad_target_std"]))
    return found


def element_references(content: Mapping[str, Any]) -> dict[int, float]:
    """Linear references of the energies by atomic number, where the file has them."""
    table = (content.get("elementrefs") or {}).get("energy") or {}
    values = table.get("element_references")
    return {} if values is None else {z: float(e) for z, e in enumerate(values.flatten().tolist()) if z > 0}


def energies_of(mean: float, scale: float) -> EnergySemantics | None:
    """What energies are whose labels had this mean and standard deviation: those of OC20 stand in every published
    configuration, in files with the digits of single precision or fewer; None for others."""
    for (known_mean, known_scale), note in OC20.items():
        if math.isclose(mean, known_mean, rel_tol=1e-4) and math.isclose(scale, known_scale, rel_tol=1e-4):
            return EnergySemantics("adsorption", "RPBE", note)
    return None

"""From an official checkpoint to a task of ours: which model, which weights, what its energies mean."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from covarium.checkpoint import refuse_beyond
from covarium.errors import CovariumError, nearest
from covarium.models import Equiformer, EquiformerV2, EquiformerV3, TorchMDET
from covarium.pretrained import equiformer, equiformer_v2, equiformer_v3, torchmd_et
from covarium.pretrained.archive import read_archive
from covarium.systems import AtomModel
from covarium.tasks import EnergySemantics, Potential, Property, PropertySemantics, Term
from covarium.units import KCAL_PER_MOL

# Layouts of fairchem 1.x: the backbone and each head under a name of their own
PREFIXES = ("module.", "_orig_mod.", "backbone.")
HEADS = "output_heads."
# of the labels that OC20 models were trained on, in every published configuration
OC20_MEAN, OC20_STD = -0.7554450631141663, 2.887317180633545
ADSORPTION = EnergySemantics("adsorption", "RPBE", "OC20: relative to the clean slab and the molecule in the gas phase")
# data sets of TorchMD-NET whose energies are not in eV
UNITS = {"MD17": KCAL_PER_MOL, "MD22": KCAL_PER_MOL}
CLASSES: dict[str, str] = {
    "graph_attention_transformer": "GraphAttentionTransformerOC20",
    "dot_product_attention_transformer": "DotProductAttentionTransformerOC20",
    "dp_attention_transformer": "DotProductAttentionTransformerOC20",
}


@dataclass(frozen=True)
class Converted:
    """``task`` with the official weights, ``notes`` on what was found, ``card`` for the checkpoint."""

    task: Any
    notes: list[str]
    card: dict[str, Any]


@dataclass(frozen=True)
class _Found:
    """An official file, taken apart: ``model`` of ours, official arguments, weights by official name, means and
    standard deviations by quantity, energies of the elements, and what else is known."""

    family: str
    arguments: dict[str, Any]
    state: dict[str, Tensor]
    normalisers: dict[str, tuple[float, float]]
    references: dict[int, float]
    notes: list[str]


def convert(path: Path, *, name: str | None = None, weights: str = "averaged") -> Converted:
    """Read an official checkpoint.

    Args:
        path: a ``.pt`` or ``.ckpt`` file of EquiformerV2 or V3 (ocp, fairchem 1.x), Equiformer or TorchMD-NET.
        name: the official name of the model, where the file does not state it (Equiformer on MD17 and QM9).
        weights: ``averaged`` (the exponential moving average if the file has it, as published results use) or ``last``.

    Raises:
        CovariumError: the file cannot be opened safely, its model is not known or not stated, or weights and model do
            not fit each other.
    """
    if weights not in ("averaged", "last"):
        hint = nearest(weights, ("averaged", "last"))
        raise CovariumError(f"weights '{weights}' are not one of averaged, last{hint}")
    content = read_archive(path)
    try:
        return _converted(path, content, name, weights)
    except CovariumError as error:
        if str(path) in str(error):
            raise
        raise CovariumError(f"{path}: {error}") from error
    except Exception as error:  # what a foreign file describes may be anything
        raise CovariumError(
            f"{path} describes no model that can be built ({type(error).__name__}: {error}); give the file as the "
            "official code wrote it"
        ) from error


def _converted(path: Path, content: dict[str, Any], name: str | None, weights: str) -> Converted:
    if "state_dict" not in content:
        inner = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        content = {"state_dict": inner or content.get("model")}
    if not isinstance(content["state_dict"], Mapping) or not content["state_dict"]:
        raise CovariumError(f"{path} holds no weights: it has {', '.join(map(str, content)) or 'nothing'}")
    if "hyper_parameters" in content:
        found = _torchmd(path, content)
        task = _torchmd_task(found)
    else:
        found = _fairchem(path, content, name, weights)
        task = FAMILIES[found.family](found)
    source = {"file": path.name, "sha256": _sha256(path), "family": found.family, "weights": weights}
    known = f"admits the {len(task.elements)} elements of its tables; the file does not say which it was trained on"
    return Converted(task, [*found.notes, known], {"converted_from": source})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- ocp and fairchem 1.x


def _fairchem(path: Path, content: Mapping[str, Any], name: str | None, weights: str) -> _Found:
    state = {_flat(key): value for key, value in content["state_dict"].items()}
    stated, arguments = _model_of(content.get("config") or {})
    family, arguments = _family(path, name or stated, arguments)
    _refuse_beyond(path, family, arguments, state)
    notes = [f"{family}, {len(state)} tensors"]
    if weights == "averaged" and content.get("ema"):
        state |= _averages(path, family, content["ema"], state, arguments)
        notes.append("averaged weights (exponential moving average)")
    else:
        notes.append("weights of the last step" + ("" if content.get("ema") else "; the file has no averaged ones"))
    normalisers = _normalisers(content)
    if not normalisers:
        notes.append("no normalisers in the file: what the model says is taken as eV and eV/Å")
    return _Found(family, arguments, state, normalisers, _element_references(content), notes)


def _flat(name: str) -> str:
    """``module.module.backbone.X`` and ``output_heads.energy.energy_block.X`` under the names of the original code."""
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    if name.startswith(HEADS):
        name = name.removeprefix(HEADS).partition(".")[2]
    return name


def _model_of(config: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
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


def _family(path: Path, name: str | None, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if name is None:
        known = ", ".join(equiformer.NAMED)
        raise CovariumError(f"{path} does not state its model; name it with --name, e.g. one of {known}")
    if name in equiformer.NAMED and not arguments:
        kind, registered = equiformer.NAMED[name]
        return "equiformer", {"class_": kind, **registered}
    if name.startswith("equiformer_v3"):
        dens = "dens" in name
        return "equiformer_v3", {"class_": "equiformer_v3_dens" if dens else "equiformer_v3", **arguments}
    if name.startswith("equiformer_v2"):
        return "equiformer_v2", dict(arguments)
    for start, registered_class in CLASSES.items():
        if name.startswith(start):
            return "equiformer", {"class_": registered_class, **arguments}
    names = ["equiformer_v2", "equiformer_v3", "equiformer_v3_dens", *CLASSES, *equiformer.NAMED]
    raise CovariumError(f"{path} holds the model '{name}'{nearest(name, names)}; known: {', '.join(names)}")


def _averages(
    path: Path, family: str, ema: Mapping[str, Any], state: Mapping[str, Tensor], arguments: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The averages carry no names: they stand in the order of the model's trained parameters."""
    shadow = list(ema.get("shadow_params") or ema.get("shadow") or [])
    trained = _trained(family, state, arguments)
    if [tuple(state[name].shape) for name in trained] != [tuple(value.shape) for value in shadow]:
        raise CovariumError(
            f"{path}: its {len(shadow)} averaged tensors do not fit the {len(trained)} parameters in order and shape; "
            "use --weights last"
        )
    return dict(zip(trained, shadow, strict=True))


def _trained(family: str, state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> list[str]:
    """Official names of the parameters, in the order of the state dict."""
    config = _config(family, arguments)
    with torch.device("meta"):
        names = set(MODELS[family](config).state_dict())
    if family == "equiformer_v3":
        names = {equiformer_v3.official_name(name, config) for name in names}
    return [name for name in state if name in names]


def _normalisers(content: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """(mean, standard deviation) of energy, forces and stress: from the normalisers, else from the data section."""
    found: dict[str, tuple[float, float]] = {}
    names = {"target": "energy", "grad_target": "forces", "energy": "energy", "forces": "forces", "stress": "stress"}
    for key, value in (content.get("normalizers") or {}).items():
        if key in names:
            spread = value.get("std", value.get("rmsd"))
            found[names[key]] = (float(value["mean"]), float(spread))
    data = (content.get("config") or {}).get("dataset") or {}
    data = data.get("train", data) if isinstance(data, Mapping) else data[0]
    if not found and data.get("normalize_labels"):
        found["energy"] = (float(data["target_mean"]), float(data["target_std"]))
        if "grad_target_std" in data:
            found["forces"] = (float(data.get("grad_target_mean", 0.0)), float(data["grad_target_std"]))
    return found


def _element_references(content: Mapping[str, Any]) -> dict[int, float]:
    """Linear references of the energies by atomic number, where the file has them."""
    table = (content.get("elementrefs") or {}).get("energy") or {}
    values = table.get("element_references")
    return {} if values is None else {z: float(e) for z, e in enumerate(values.flatten().tolist()) if z > 0}


# -- models and tasks


def _config(family: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of the family's model
    """Our Config of official arguments."""
    constructor = {key: value for key, value in arguments.items() if key != "class_"}
    if family == "equiformer_v3":
        return equiformer_v3.config_from_official(constructor, arguments["class_"])
    if family == "equiformer":
        return equiformer.config_from_official(arguments["class_"], constructor)
    return (torchmd_et if family == "torchmd_et" else equiformer_v2).config_from_official(constructor)


MODELS: Mapping[str, Callable[[Any], AtomModel]] = {
    "equiformer_v2": EquiformerV2,
    "equiformer_v3": EquiformerV3,
    "equiformer": Equiformer,
    "torchmd_et": TorchMDET,
}


def _refuse_beyond(path: Path, family: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Before anything takes memory or time: the file has as many weights as its model.

    Raises:
        CovariumError: it has fewer.
    """
    config = _config(family, arguments)
    refuse_beyond(path, asdict(config), state)
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in MODELS[family](config).parameters())
    held = sum(tensor.numel() for tensor in state.values())
    if wanted > held:
        raise CovariumError(f"{path} holds {held} weights, and its model has {wanted}: some are missing")


def _v2_task(found: _Found) -> Potential:
    model = EquiformerV2(_config("equiformer_v2", found.arguments))
    state = equiformer_v2.parameters_from_official(found.state, model.state_dict())
    return _potential(model, state, found)


def _v3_task(found: _Found) -> Potential:
    model = EquiformerV3(_config("equiformer_v3", found.arguments))
    state = equiformer_v3.parameters_from_official(found.state, model.state_dict(), model.config)
    return _potential(model, state, found)


def _equiformer_task(found: _Found) -> Potential:
    model = Equiformer(_config("equiformer", found.arguments))
    state = equiformer.parameters_from_official(found.state, model.state_dict())
    of_script = {name: float(found.state[name]) for name in ("task_mean", "task_std") if name in found.state}
    unit = KCAL_PER_MOL if str(found.arguments["class_"]).endswith("MD17") else 1.0
    if of_script:
        energy = (unit * of_script.get("task_mean", 0.0), unit * of_script.get("task_std", 1.0))
        found = replace(found, normalisers={"energy": energy, **found.normalisers})
    table = found.state.get("atomref")
    if table is not None and not found.references:
        references = {z: unit * float(e) for z, e in enumerate(table.flatten().tolist()) if z > 0}
        found = replace(found, references=references)
    return _potential(model, state, found)


FAMILIES: dict[str, Callable[[_Found], Any]] = {
    "equiformer_v2": _v2_task,
    "equiformer_v3": _v3_task,
    "equiformer": _equiformer_task,
}


def _potential(model: AtomModel, state: Mapping[str, Tensor], found: _Found) -> Potential:
    model.to(next(value.dtype for value in state.values() if value.is_floating_point()))
    model.load_state_dict(dict(state))
    mean, scale = found.normalisers.get("energy", (0.0, 1.0))
    for name in ("forces", "stress"):
        if found.normalisers.get(name, (0.0, 1.0))[0] != 0:
            raise CovariumError(f"{name} with a mean that is not 0 are not equivariant; this file cannot be converted")
    direct = "forces" in model.outputs
    scales: dict[str, float] = {}
    for name, (_, spread) in found.normalisers.items():
        if direct and name in ("forces", "stress") and name in model.outputs:
            scales[name] = spread
    adsorption = (mean, scale) == (OC20_MEAN, OC20_STD)
    elements = range(1, int(getattr(model.config, "max_num_elements")))  # noqa: B009 - every Config has one
    terms = (Term("energy"), Term("forces", loss="l2"))
    return Potential(
        model,
        references={z: found.references.get(z, 0.0) for z in elements},
        forces="direct" if direct else "gradient",
        scale=scale,
        offset=mean,
        head_scales=scales,
        terms=terms,
        semantics=ADSORPTION if adsorption else EnergySemantics(note=f"converted from an official {found.family}"),
    ).eval()


# -- TorchMD-NET


def _torchmd(path: Path, content: Mapping[str, Any]) -> _Found:
    arguments = dict(content["hyper_parameters"])
    state = dict(content["state_dict"])
    _refuse_beyond(path, "torchmd_et", arguments, state)
    return _Found("torchmd_et", arguments, state, {}, {}, [f"TorchMD-NET, {len(state)} tensors"])


def _torchmd_task(found: _Found) -> Potential | Property:
    config = _config("torchmd_et", found.arguments)
    model = TorchMDET(config)
    state = torchmd_et.parameters_from_official(found.state, model.state_dict())
    model.to(next(value.dtype for value in state.values() if value.is_floating_point()))
    model.load_state_dict(state)
    known = torchmd_et.normalisation_from_official(found.arguments, found.state)
    data = str(found.arguments.get("dataset") or "")
    unit = UNITS.get(data, 1.0)
    elements = range(1, config.max_num_elements)
    references = {z: unit * known.references.get(z, 0.0) for z in elements}
    label = str(found.arguments.get("dataset_arg") or "property")
    if "energy" in model.outputs and known.reduce == "sum" and "energy" in {*_energies(data), _quantity(label)}:
        note = f"converted from TorchMD-NET, trained on {data}" + (f" ({label})" if label != "property" else "")
        return Potential(
            model, references=references, scale=unit * known.std, offset=unit * known.mean,
            semantics=EnergySemantics("total", note=note),
        ).eval()  # fmt: skip
    own = "energy" not in model.outputs
    vector = bool(model.outputs & {"dipole", "vector"})
    readout: Any = ("length" if "dipole" in model.outputs else "value") if own else known.reduce
    return Property(
        model, semantics=PropertySemantics(label, theory=data), readout=readout,
        references=dict.fromkeys(elements, 0.0) if own else {z: known.references.get(z, 0.0) for z in elements},
        scale=known.std, offset=0.0 if vector else known.mean,
    ).eval()  # fmt: skip


def _energies(data: str) -> tuple[str, ...]:
    """Data sets whose only label is the energy."""
    return ("energy",) if data in ("MD17", "MD22", "ANI1", "ANI1X", "ANI1CCX", "ANI2X", "SPICE", "Custom", "") else ()


def _quantity(label: str) -> str:
    """What a target of QM9 is."""
    return "energy" if label in ("energy_U0", "energy_U", "U0", "U") else label

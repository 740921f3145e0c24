"""From an official checkpoint to a task of ours: which model, which weights, what its answer means."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from covarium.checkpoint import refuse_beyond
from covarium.data.set_layouts import QM9_UNITS
from covarium.errors import CovariumError, nearest
from covarium.models import Equiformer, EquiformerV2, EquiformerV3, TorchMDET
from covarium.pretrained import equiformer, equiformer_v2, equiformer_v3, ocp, torchmd_et
from covarium.pretrained.archive import read_archive
from covarium.pretrained.names import HEADS, flat, refuse_twice
from covarium.pretrained.stated import mapping, number, table, typed
from covarium.systems import AtomModel
from covarium.tasks import EnergySemantics, Potential, Property, PropertySemantics, Term
from covarium.tasks.targets import QM9, canonical
from covarium.units import KCAL_PER_MOL

CLASSES: dict[str, str] = {
    "graph_attention_transformer": "GraphAttentionTransformerOC20",
    "dot_product_attention_transformer": "DotProductAttentionTransformerOC20",
    "dp_attention_transformer": "DotProductAttentionTransformerOC20",
}
FROM_QM9 = ("GraphAttentionTransformer", "DotProductAttentionTransformer")
TARGETS = ("energy", *QM9)
MODELS: Mapping[str, Callable[[Any], AtomModel]] = {
    "equiformer_v2": EquiformerV2,
    "equiformer_v3": EquiformerV3,
    "equiformer": Equiformer,
    "torchmd_et": TorchMDET,
}
KINDS: Mapping[str, Any] = {
    "equiformer_v2": equiformer_v2,
    "equiformer_v3": equiformer_v3,
    "equiformer": equiformer,
    "torchmd_et": torchmd_et,
}


@dataclass(frozen=True)
class Converted:
    """``task`` with the official weights, ``notes`` on what was found, ``card`` for the checkpoint."""

    task: Any
    notes: list[str]
    card: dict[str, Any]


@dataclass(frozen=True)
class _Found:
    """An official file, taken apart: official arguments, our Config of them, and weights by official name, which fit
    each other; what the user says it predicts."""

    family: str
    arguments: dict[str, Any]
    config: Any
    state: dict[str, Tensor]
    notes: list[str]
    target: str | None = None

    def model(self) -> AtomModel:
        """Our model with the official weights, in their precision.

        Raises:
            CovariumError: a weight is not finite.
        """
        model = MODELS[self.family](self.config)
        state = _parameters(self.family, self.config, self.state, model.state_dict())
        for name, value in state.items():
            if not bool(torch.isfinite(value).all()):
                theirs = _official_name(self.family, self.config, name)
                raise CovariumError(f"'{theirs}' is not finite everywhere: the file is damaged, or its run diverged")
        model.to(next(value.dtype for value in state.values() if value.is_floating_point()))
        model.load_state_dict(state)
        return model


def convert(path: Path, *, name: str | None = None, weights: str = "averaged", target: str | None = None) -> Converted:
    """Read an official checkpoint.

    Args:
        path: a ``.pt`` or ``.ckpt`` file of EquiformerV2 or V3 (ocp, fairchem 1.x), Equiformer or TorchMD-NET.
        name: the official name of the model, where the file does not state it (Equiformer on MD17 and QM9).
        weights: ``averaged`` (the exponential moving average if the file has it, as published results use) or ``last``.
        target: ``energy`` or a target of QM9, where the file does not state what it predicts (Equiformer on QM9).

    Raises:
        CovariumError: the file cannot be opened safely, its model or what it predicts is not known or not stated, or
            weights and model do not fit each other.
    """
    if weights not in ("averaged", "last"):
        hint = nearest(weights, ("averaged", "last"))
        raise CovariumError(f"weights '{weights}' are not one of averaged, last{hint}")
    if target is not None and target != "energy":
        known = canonical(target)
        if known is None:
            hint = nearest(target, TARGETS)
            raise CovariumError(f"target '{target}' is not known{hint}; allowed: {', '.join(TARGETS)}")
        target = known
    content = read_archive(path)
    try:
        return _converted(path, content, name, weights, target)
    except CovariumError as error:
        if str(path) in str(error):
            raise
        raise CovariumError(f"{path}: {error}") from error
    except Exception as error:  # what a foreign file describes may be anything
        raise CovariumError(
            f"{path} describes no model that can be built ({type(error).__name__}: {error}); give the file as the "
            "official code wrote it"
        ) from error


def _converted(path: Path, content: dict[str, Any], name: str | None, weights: str, target: str | None) -> Converted:
    if "state_dict" not in content:
        inner = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        content = {"state_dict": inner or content.get("model")}
    if not isinstance(content["state_dict"], Mapping) or not content["state_dict"]:
        raise CovariumError(f"{path} holds no weights: it has {', '.join(map(str, content)) or 'nothing'}")
    if "hyper_parameters" in content:
        found, task = _torchmd(path, content, target)
    elif any(flat(str(key)).startswith("representation_model.") for key in content["state_dict"]):
        raise CovariumError(
            f"{path} holds weights of TorchMD-NET without their hyper_parameters, and so nothing states the model's "
            "sizes; give the checkpoint as its training script wrote it"
        )
    else:
        found, task = _fairchem(path, content, name, weights, target)
    source = {"file": path.name, "sha256": _sha256(path), "family": found.family, "weights": weights}
    known = f"admits the {len(task.elements)} elements of its tables; the file does not say which it was trained on"
    return Converted(task, [*found.notes, known], {"converted_from": source})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- arguments and weights


def _config(family: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of the family's model
    """Our Config of official arguments."""
    constructor = {key: value for key, value in arguments.items() if key != "class_"}
    typed(constructor, KINDS[family].DEFAULTS)
    if family == "equiformer_v3":
        return equiformer_v3.config_from_official(constructor, arguments["class_"])
    if family == "equiformer":
        return equiformer.config_from_official(arguments["class_"], constructor)
    return KINDS[family].config_from_official(constructor)


def _parameters(
    family: str, config: Any, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]  # noqa: ANN401
) -> dict[str, Tensor]:  # fmt: skip
    """Official weights under our names, each in its place and none left over."""
    if family == "equiformer_v3":
        return equiformer_v3.parameters_from_official(state, expected, config)
    return KINDS[family].parameters_from_official(state, expected)


def _official_name(family: str, config: Any, name: str) -> str:  # noqa: ANN401
    return equiformer_v3.official_name(name, config) if family == "equiformer_v3" else name


def _expected(path: Path, family: str, config: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ANN401
    """Names and shapes of the model's weights, before anything takes memory or time.

    Raises:
        CovariumError: a size is beyond all weights of the file.
    """
    refuse_beyond(path, asdict(config), state)
    with torch.device("meta"):
        return MODELS[family](config).state_dict()


# -- ocp, fairchem 1.x and the scripts of Equiformer


def _fairchem(
    path: Path, content: Mapping[str, Any], name: str | None, weights: str, target: str | None
) -> tuple[_Found, Potential | Property]:
    stated, arguments = ocp.model_of(mapping("config", content.get("config") or {}))
    family, arguments = _family(path, name, stated, arguments)
    state = {flat(key): value for key, value in content["state_dict"].items()}
    config = _config(family, arguments)
    expected = _expected(path, family, config, state)
    wanted = {_official_name(family, config, own) for own in expected}
    heads = _strange_heads(content["state_dict"], wanted)
    refuse_twice((key for key in content["state_dict"] if HEADS not in key or flat(key) in wanted), flat)
    strange = {one for names in heads.values() for one in names}
    own = {key: value for key, value in state.items() if key not in strange}
    _parameters(family, config, own, expected)
    notes = [f"{family}, {len(state)} tensors"]
    notes += [f"left out: the head '{head}', which this model has not" for head in heads]
    if weights == "averaged" and content.get("ema"):
        parameters = [key for key in state if key in wanted or (key in strange and not equiformer_v2.is_buffer(key))]
        own |= _averages(path, mapping("ema", content["ema"]), state, parameters, strange)
        notes.append("averaged weights (exponential moving average)")
    else:
        notes.append("weights of the last step" + ("" if content.get("ema") else "; the file has no averaged ones"))
    found = _Found(family, arguments, config, own, notes, target)
    if arguments.get("class_") in FROM_QM9:
        return found, _of_qm9(found)
    if target not in (None, "energy"):
        raise CovariumError(f"this {family} predicts energies, not '{target}'; leave --target out")
    return found, _potential(found, content)


def _family(path: Path, name: str | None, stated: str | None, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The family of a model of this official name, with all arguments of its constructor."""
    configured = stated is not None or bool(arguments)
    name = name or stated
    if name is None:
        known = ", ".join(equiformer.NAMED)
        raise CovariumError(f"{path} does not state its model; name it with --name, e.g. one of {known}")
    if name in equiformer.NAMED and not arguments:
        kind, registered = equiformer.NAMED[name]
        return "equiformer", {"class_": kind, **registered}
    family = ""
    if name.startswith("equiformer_v3"):
        family, dens = "equiformer_v3", "dens" in name
        arguments = {"class_": "equiformer_v3_dens" if dens else "equiformer_v3", **arguments}
    elif name.startswith("equiformer_v2"):
        family = "equiformer_v2"
    elif start := next((start for start in CLASSES if name.startswith(start)), None):
        family, arguments = "equiformer", {"class_": CLASSES[start], **arguments}
    if not family:
        names = ["equiformer_v2", "equiformer_v3", "equiformer_v3_dens", *CLASSES, *equiformer.NAMED]
        raise CovariumError(f"{path} holds the model '{name}'{nearest(name, names)}; known: {', '.join(names)}")
    if not configured:
        raise CovariumError(
            f"{path} has no configuration, and the name '{name}' alone does not say the sizes of the model; give the "
            f"checkpoint as its trainer wrote it, with 'config' beside 'state_dict'{nearest(name, equiformer.NAMED)}"
        )
    return family, arguments


def _strange_heads(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, set[str]]:
    """Names of the weights, by head of fairchem 1.x, where no weight of the head is one of the model's."""
    heads: dict[str, set[str]] = {}
    for key in state:
        if HEADS in key:
            heads.setdefault(key.partition(HEADS)[2].partition(".")[0], set()).add(flat(key))
    return {head: names for head, names in heads.items() if not names & wanted}


def _averages(
    path: Path, ema: Mapping[str, Any], state: Mapping[str, Tensor], parameters: list[str], strange: set[str]
) -> dict[str, Tensor]:
    """The averages carry no names: they stand in the order of the trained ``parameters``; ``strange`` ones are left."""
    shadow = ema.get("shadow_params") or ema.get("shadow") or []
    if not isinstance(shadow, (list, tuple)) or not all(isinstance(value, Tensor) for value in shadow):
        raise CovariumError("ema.shadow_params is no list of tensors; use --weights last")
    if [tuple(state[name].shape) for name in parameters] != [tuple(value.shape) for value in shadow]:
        raise CovariumError(
            f"{path}: its {len(shadow)} averaged tensors do not fit the {len(parameters)} parameters in order and "
            "shape; use --weights last"
        )
    return {name: value for name, value in zip(parameters, shadow, strict=True) if name not in strange}


def _potential(found: _Found, content: Mapping[str, Any]) -> Potential:
    """Energies and forces of any model but TorchMD-NET's; Equiformer's scripts leave statistics among the weights."""
    unit = KCAL_PER_MOL if str(found.arguments.get("class_")).endswith("MD17") else 1.0
    model = found.model()
    direct = "forces" in model.outputs
    normalisers = {**_statistics(found.state, unit), **ocp.normalisers(content, direct=direct)}
    references, outside = ocp.element_references(content)
    if "atomref" in found.state and found.family == "equiformer" and not references:
        references = {z: unit * e for z, e in table("atomref", found.state["atomref"]).items()}
    mean, scale = normalisers.get("energy", (0.0, 1.0))
    heads = sorted(model.outputs & {"forces", "stress"}) if direct else []
    for name in ("forces", "stress"):
        if normalisers.get(name, (0.0, 1.0))[0] != 0:
            raise CovariumError(f"{name} with a mean that is not 0 are not equivariant; this file cannot be converted")
    if not normalisers:
        taken = "is taken as eV and eV/Å" if unit == 1.0 else (
            "is in standard deviations of its training energies, which its script keeps outside"
        )  # fmt: skip
        found.notes.append(f"no normalisers in the file: what the model says {taken}")
    elif unscaled := [name for name in heads if name not in normalisers]:
        found.notes.append(f"no normaliser of {' and '.join(unscaled)} in the file: scale 1")
    known = ocp.energies_of(mean, scale) or EnergySemantics(
        "total" if any(references.values()) else "unknown", note=f"converted from an official {found.family}"
    )
    if outside:
        relative = f"relative to the references of the elements in {outside}, which the file does not hold"
        found.notes.append(f"energies are {relative}")
        known = EnergySemantics("formation", note=f"converted from an official {found.family}, {relative}")
    return Potential(
        model,
        references=_all_elements(model, references),
        forces="direct" if direct else "gradient",
        scale=scale,
        offset=mean,
        head_scales={name: normalisers.get(name, (0.0, 1.0))[1] for name in heads},
        terms=(Term("energy"), Term("forces", loss="l2")),
        semantics=known,
    ).eval()


def _statistics(state: Mapping[str, Tensor], unit: float) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the target, where they stand among the weights."""
    if not state.keys() & {"task_mean", "task_std"}:
        return {}
    mean, std = number("task_mean", state.get("task_mean", 0.0)), state.get("task_std", 1.0)
    return {"energy": (unit * mean, unit * number("task_std", std, positive=True))}


def _all_elements(model: AtomModel, references: Mapping[int, float]) -> dict[int, float]:
    """A reference of every element of the model's tables."""
    tables = int(getattr(model.config, "max_num_elements"))  # noqa: B009 - every Config has one
    elements = getattr(model.config, "elements", None) or range(1, tables)
    return {z: references.get(z, 0.0) for z in elements}


def _of_qm9(found: _Found) -> Potential | Property:
    """Equiformer on one target of QM9, which nothing in the file names. Its training takes the energies of the atoms
    off the total energies, and standardises the other targets."""
    if found.target not in QM9:
        raise CovariumError(
            "this is a model of one target of QM9, and the file does not say of which; name it with --target, one of "
            + ", ".join(QM9)
        )
    target = str(found.target)
    total = QM9[target].what == "a total energy"
    statistics = _statistics(found.state, 1.0)
    references = table("atomref", found.state["atomref"]) if "atomref" in found.state else {}
    mean, scale = statistics.get("energy", (0.0, 1.0))
    model, unit = found.model(), QM9_UNITS[target]
    kept = "relative to the energies of the isolated atoms, which the file does not hold"
    if total and not references:
        found.notes.append(f"{target}, {kept}")
    elif not total and not statistics:
        unit = "standard deviations from the mean"
        found.notes.append(
            f"{target} was standardised, and its mean and standard deviation are not in the file: {unit}"
        )
    if target in ("u0", "u298"):
        meant = EnergySemantics("total", note=f"QM9 ({target})") if references else (
            EnergySemantics("formation", note=f"QM9 ({target}), {kept}")
        )  # fmt: skip
        return Potential(
            model, references=_all_elements(model, references), scale=scale, offset=mean, semantics=meant
        ).eval()
    theory = f"QM9, {kept}" if total and not references else "QM9"
    return Property(
        model, semantics=PropertySemantics(target, unit, theory), readout="sum",
        references=_all_elements(model, references), scale=scale, offset=mean,
    ).eval()  # fmt: skip


# -- TorchMD-NET


def _torchmd(path: Path, content: Mapping[str, Any], target: str | None) -> tuple[_Found, Potential | Property]:
    given, state = mapping("hyper_parameters", content["hyper_parameters"]), dict(content["state_dict"])
    arguments, unknown = torchmd_et.arguments_read(given)
    config = _config("torchmd_et", arguments)
    _parameters("torchmd_et", config, state, _expected(path, "torchmd_et", config, state))
    notes = [f"TorchMD-NET, {len(state)} tensors"]
    if unknown:
        notes.append(f"left out: arguments that no release of TorchMD-NET has: {', '.join(unknown)}")
    stated = torchmd_et.quantity_from_official(given)
    told = {"u0": "energy", "u298": "energy"}.get(target or "", target)
    if stated and told and stated != told:
        raise CovariumError(f"the file says that its model predicts '{stated}', not '{target}'; leave --target out")
    found = _Found("torchmd_et", arguments, config, state, notes, stated or told)
    return found, _torchmd_task(found, str(given.get("dataset") or ""))


def _torchmd_task(found: _Found, data: str) -> Potential | Property:
    model, known = found.model(), torchmd_et.normalisation_from_official(found.arguments, found.state)
    own = "energy" not in model.outputs
    if model.outputs & {"dipole", "vector"} and known.mean != 0:
        raise CovariumError(
            f"a mean of {known.mean} on every component of a vector is not equivariant; this file cannot be converted"
        )
    quantity = found.target if found.target and (found.target != "energy" or not own) else _of_head(model)
    switched_off = "relative to the references of the elements, which the file switches off"
    if known.switched_off:
        found.notes.append(f"values are {switched_off}")
    if quantity == "energy" and not own and known.reduce == "sum":
        unit = KCAL_PER_MOL if data in torchmd_et.KCAL else 1.0
        if data not in torchmd_et.KCAL | torchmd_et.EV | {"QM9"}:
            found.notes.append("the file does not state the unit of its energies: taken as eV")
        note = f"converted from TorchMD-NET, trained on {data}" + (f"; {switched_off}" if known.switched_off else "")
        return Potential(
            model, references=_all_elements(model, {z: unit * e for z, e in known.references.items()}),
            scale=unit * known.std, offset=unit * known.mean,
            semantics=EnergySemantics("formation" if known.switched_off else "total", note=note),
        ).eval()  # fmt: skip
    readout: Any = ("length" if "dipole" in model.outputs else "value") if own else known.reduce
    return Property(
        model,
        semantics=PropertySemantics(quantity, QM9_UNITS.get(quantity, "") if data == "QM9" else "", data),
        readout=readout,
        references=_all_elements(model, {} if own else known.references),
        scale=known.std,
        offset=known.mean,
    ).eval()


def _of_head(model: AtomModel) -> str:
    """What a model says by its head alone.

    Raises:
        CovariumError: scalars of the atoms may sum up to anything.
    """
    for output, quantity in (("dipole", "mu"), ("spatial_extent", "r2"), ("vector", "vector")):
        if output in model.outputs:
            return quantity
    raise CovariumError(
        "the file does not say what its model predicts (dataset and derivative in its hyper_parameters do); name it "
        f"with --target, one of {', '.join(TARGETS)}"
    )

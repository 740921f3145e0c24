"""The run configuration: what a training run was told or found out, typed, and written so that it can be run again.

A value of ``None`` (or an empty list or mapping) means: infer it from the data. A resolved configuration has no such
gaps. Configurations are plain YAML; nothing in them names code.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError

from covarium.errors import CovariumError, nearest

T = TypeVar("T")
DEEPEST = 50  # levels of brackets

# Paths are kept absolute: a resolved configuration must mean the same from every directory.
AbsolutePath = Annotated[
    Path,
    BeforeValidator(lambda value: _absolute(Path(value)) if isinstance(value, str | Path) else value),
    PlainSerializer(str),
]


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{path} is in the home of a user who is not known") from error


class Section(BaseModel):
    """Frozen, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(Section):
    """Which structures, which labels, which part is held out.

    Attributes:
        kind: what the files hold; None is decided by their keys.
        train: files with labelled structures.
        valid: files held out for choosing the best model; when empty, a part of ``train`` is held out.
        test: files for the error table at the end.
        keys: label → key in the files, e.g. ``{energy: REF_energy}``; see ``covarium.data.read``.
        units: quantity → unit in the files, e.g. ``{energy: Hartree, length: Bohr}``.
        limit: read only so many frames of each file.
        valid_part: how much of ``train`` is held out for validation, a count or a fraction.
        test_part: the same for the error table at the end.
        split_by: what stays together, see ``covarium.data.split``.
        accept: kinds of findings in the data that are not to stop training, see ``covarium check data``.
        workers: processes that load the frames of large sets; None for the cores that training leaves free.
    """

    kind: Literal["atoms", "tokens"] | None = None
    train: list[AbsolutePath] = Field(default_factory=list)
    valid: list[AbsolutePath] = Field(default_factory=list)
    test: list[AbsolutePath] = Field(default_factory=list)
    keys: dict[str, str] = Field(default_factory=dict)
    units: dict[str, str] = Field(default_factory=dict)
    limit: int | None = Field(default=None, gt=0)
    valid_part: int | float | None = Field(default=None, gt=0)
    test_part: int | float = Field(default=0, ge=0)
    split_by: Literal["auto", "group", "composition", "frame"] = "auto"
    accept: list[str] = Field(default_factory=list)
    workers: int | None = Field(default=None, ge=0)


class TermSection(Section):
    """One term of the loss: see ``covarium.tasks.Term``."""

    loss: Literal["mae", "mse", "huber", "l2"] = "mae"
    weight: float = Field(default=1.0, ge=0)
    per_atom: bool = True
    delta: float = Field(default=0.1, gt=0)


class DenoisingSection(Section):
    """See ``covarium.tasks.DenoisingSettings``."""

    probability: float = Field(default=0.5, gt=0, le=1)
    std: float = Field(default=0.025, gt=0)
    corrupt_ratio: float = Field(default=0.5, gt=0, le=1)
    max_ratio: float = Field(default=0.75, gt=0, le=1)
    max_force: float | None = Field(default=None, gt=0)
    weight: float = Field(default=0.5, ge=0)


class PropertySection(Section):
    """A property instead of a potential: see ``covarium.tasks.Property``.

    Attributes:
        name: what it is called; also its key in the files, unless ``data.keys.property`` says another.
        readout: how it follows from the model's output.
        offset: of every structure, in the unit of the labels.
        spread: unit of errors in the loss.
    """

    name: str
    readout: Literal["sum", "mean", "mean_with_zero", "value", "length"] | None = None
    offset: float | None = None
    spread: float | None = Field(default=None, gt=0)


class TaskSection(Section):
    """What is asked of the model.

    Attributes:
        kind: ``potential``, or ``denoise``: a potential that also learns to denoise displaced structures.
        property: a property to learn; None for a potential, to which ``forces`` and ``energy`` belong.
        forces: ``gradient`` of the energy, or the model's ``direct`` head.
        terms: quantity → term of the loss.
        references: energies of the elements, subtracted before learning: in eV by symbol, or how to find them.
        scale: eV (or units of the property) per unit of the model's output.
        energy: what the energies mean.
        theory: level of theory of the labels.
        denoising: of the kind ``denoise``; None for its defaults.
        centre: of tokens: take the mean position of each sample off, so that translations are exact.
    """

    kind: Literal["potential", "denoise"] = "potential"
    property: PropertySection | None = None
    forces: Literal["gradient", "direct"] = "gradient"
    terms: dict[str, TermSection] = Field(default_factory=dict)
    references: dict[str, float] | Literal["auto", "isolated", "least_squares", "none"] = "auto"
    scale: float | None = Field(default=None, gt=0)
    energy: Literal["total", "adsorption", "formation", "unknown"] = "total"
    theory: str | None = None
    denoising: DenoisingSection | None = None
    centre: bool = True


class RunConfig(Section):
    """Everything that determines a training run.

    Attributes:
        about: where a recipe comes from: source, published numbers, what differs, QM9's targets that it is for. Never
            read by the run.
        data: see ``DataSection``.
        model: ``name`` and the fields of that model's Config.
        task: see ``TaskSection``.
        training: fields of ``covarium.training.Settings``.
        seed: of initial weights, split, order and dropout.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: of weights and activations; energies of structures are float64 in any case. ``tf32`` and ``bf16``:
            float32, with products of features and weights rounded (edge vectors, Wigner matrices and energies not).
        backend: of rotations into the frames of edges and of messages; None for Triton kernels where they can run.
        threads: of torch on the CPU; None leaves torch's own choice.
        memory: the process is to stay within, e.g. ``8GB``; decides ``tile`` where that is None.
        tile: edges worked on at a time, or ``all``, see ``AtomModel``.
        keep: edges whose inside is stored although there are tiles.
        remember: results of products that are stored of the others, see ``AtomModel``.
        compile: energies and forces by compiled graphs, see ``covarium.tasks.compiled``.
    """

    about: dict[str, str] = Field(default_factory=dict)
    data: DataSection = DataSection()
    model: dict[str, Any] = Field(default_factory=dict)
    task: TaskSection = TaskSection()
    training: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    device: str | None = None
    dtype: Literal["float32", "float64", "tf32", "bf16"] = "float32"
    backend: Literal["torch", "triton"] | None = None
    threads: int | None = Field(default=None, gt=0)
    memory: str | None = None
    tile: Annotated[int, Field(gt=0)] | Literal["all"] | None = None
    keep: int = Field(default=0, ge=0)
    remember: int = Field(default=0, ge=0)
    compile: bool = False


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """An instance of a dataclass or a Section from plain values.

    Args:
        cls: stdlib dataclass or Section.
        values: as read from YAML.
        where: dotted name of the section, for messages.

    Raises:
        CovariumError: an unknown key (the nearest one is named and all are listed) or a value of the wrong type.
    """
    allowed = _fields(cls)
    for key in values:
        check_name(str(key), allowed, f"key '{_dotted(where, str(key))}'")
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        raise CovariumError("\n".join(_explain(detail, cls, where) for detail in error.errors())) from error


def check_name(name: str, allowed: Iterable[str], what: str) -> None:
    """Refuse a name that is not among ``allowed``.

    Raises:
        CovariumError: names the nearest allowed one and lists all.
    """
    choices = sorted(allowed)
    if name not in choices:
        raise CovariumError(f"{what} is unknown{nearest(name, choices) or '.'} Allowed: {', '.join(choices)}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration file, by the safe loader.

    Raises:
        CovariumError: the file is missing, is not YAML, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CovariumError(f"cannot read configuration '{path}': {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The mapping in ``text``; ``source`` names it in messages.

    Raises:
        CovariumError: not YAML, or no mapping.
    """
    content = _safe_load(text, source)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CovariumError(f"{source} must hold a mapping of sections, got {type(content).__name__}")
    return content


def _safe_load(text: str, source: str) -> Any:  # noqa: ANN401 - what YAML can hold
    """By the safe loader, which makes plain values only.

    Raises:
        CovariumError: not YAML.
    """
    depth = 0
    for bracket in re.findall(r"[][{}]", text):
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:  # the loader takes quadratic time over such text
            raise CovariumError(f"{source} is not valid YAML: its brackets are nested more than {DEEPEST} deep")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # dates and numbers that do not exist leave the loader as these
        raise CovariumError(f"{source} is not valid YAML: {error}") from error


def parse_assignment(text: str) -> dict[str, Any]:
    """``a.b=c`` as ``{"a": {"b": c}}``; c is read as YAML, so ``4``, ``true`` and ``[1, 2]`` have their types.

    Raises:
        CovariumError: no ``=``, an empty name, or a value that is not YAML.
    """
    name, sign, value = text.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not sign or not all(keys):
        raise CovariumError(f"--set takes key=value, e.g. --set model.lmax=6; got '{text}'")
    parsed = _safe_load(value, f"--set {name}")
    for key in reversed(keys):
        parsed = {key: parsed}
    return parsed


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win; mappings are merged key by key, everything else is replaced."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def to_yaml(config: Section, header: Sequence[str] = ()) -> str:
    """The text that ``read_yaml`` and ``build`` turn back into ``config``; ``header`` lines become comments."""
    comments = "".join(f"# {line}\n" for line in header)
    return comments + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _fields(cls: Any) -> set[str]:  # noqa: ANN401 - a Section or a dataclass
    return set(cls.model_fields) if issubclass(cls, BaseModel) else {field.name for field in fields(cls)}


def _explain(detail: Mapping[str, Any], cls: type, where: str) -> str:
    """One pydantic complaint as one sentence."""
    location = [str(part) for part in detail["loc"]]
    name = _dotted(where, ".".join(location))
    if detail["type"] == "extra_forbidden":
        allowed = sorted(_fields(_section_at(cls, location[:-1])))
        return f"key '{name}' is unknown{nearest(location[-1], allowed) or '.'} Allowed: {', '.join(allowed)}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}, got {reprlib.repr(detail['input'])}"


def _section_at(cls: type, location: Sequence[str]) -> type:
    """The Section that ``location`` leads to from ``cls``; mappings of Sections are stepped through."""
    section = cls
    for part in location:
        if issubclass(section, BaseModel) and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            arguments = getattr(annotation, "__args__", ())
            candidates = [a for a in (annotation, *arguments) if isinstance(a, type) and issubclass(a, BaseModel)]
            section = candidates[0] if candidates else section
    return section


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where and name else where or name

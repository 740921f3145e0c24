"""Everything that learning a property needs and was not told, found out from its data and said aloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ase.data import chemical_symbols

from covarium.config import PropertySection, RunConfig, TaskSection, TermSection, build, check_name
from covarium.data import (
    Frame,
    PropertyStatistics,
    Statistics,
    data_set,
    property_statistics,
    statistics,
    sum_or_mean,
)
from covarium.data.columns import bonded, label_of
from covarium.errors import CovariumError
from covarium.models import MODELS
from covarium.systems import AtomModel
from covarium.tasks import Property, PropertySemantics, Term
from covarium.tasks.property import Readout
from covarium.tasks.targets import target
from covarium.training.settings import Settings
from covarium.workflows.arithmetic import arrange, in_words
from covarium.workflows.device import DTYPES, choose_device, use_threads
from covarium.workflows.inference import (
    LENGTHS,
    SIZES,
    Counted,
    Finding,
    Parts,
    Plan,
    complete,
    degree_rows,
    divide,
    initial_model,
    length_in_words,
    measured,
    model_of,
    refuse_unread,
    training_settings,
    workers,
)
from covarium.workflows.precheck import look_over

DEFAULT_MODEL = "torchmd_et"  # it has heads for vectors and moments too


@dataclass(frozen=True)
class Choice:
    """How the property follows from the model's output: readout and, of models that have several, the head."""

    readout: Readout
    output: str | None
    references: Any
    reason: str


def infer_property(config: RunConfig, *, told: str = "given", progress: Counted | None = None) -> Plan:
    """Fill the gaps of a configuration that has ``task.property``.

    Args:
        config: with gaps.
        told: the origin to show for what it states.
        progress: as of ``infer``.

    Raises:
        CovariumError: the data cannot be read or do not fit what is asked of them; unknown model, key or device.
    """
    asked = config.task.property
    assert asked is not None
    use_threads(config.threads)
    device, dtype = choose_device(config.device), DTYPES[config.dtype]
    name = str(config.model.get("name", DEFAULT_MODEL))
    model_class, config_class = model_of(name, "atoms")
    if config.task.kind != "potential" or config.task.denoising is not None:
        raise CovariumError("task.kind and task.denoising are of potentials; remove them, or task.property")
    given = {key: value for key, value in config.model.items() if key != "name"}
    cutoff = build(config_class, given, "model").spec.cutoff
    build(Settings, {"steps": 1, **config.training}, "training")

    term = _term(config)
    data = config.data.model_copy(update={"keys": {"property": asked.name, **config.data.keys}})
    task = config.task.model_copy(update={"terms": {"property": term}})
    config = config.model_copy(update={"data": data, "task": task})
    parts = divide(config)
    doubts = look_over(parts.train, (parts.valid, parts.test), cutoff, config.data.accept)
    choice = _choose(asked, config, parts.train, config_class, name)
    if choice.output is not None:
        given["output"] = choice.output
    spec = build(config_class, given, "model").spec
    train, notes = data_set(parts.train, spec, dtype, workers(config), progress)
    sizes = statistics(train, "none")
    learnt = _statistics(config, parts, choice)
    model_config = build(config_class, measured(config_class, sizes) | given, "model")
    model = initial_model(model_class, model_config, config.seed, dtype)
    semantics = PropertySemantics(asked.name, parts.reading.units.get("property", ""), _theory(config, parts))
    built = _assemble(model, semantics, choice.readout, learnt, term).to(dtype).to(device)
    arrange(built.model, config.dtype, config.backend)
    settings = training_settings(config, len(train), sizes)
    for part in (parts.train, parts.valid, parts.test):
        refuse_unread(built, part)
    resolved = complete(
        config, parts, {"name": name, **asdict(model_config)}, _resolved(config, built), settings, device
    )
    return Plan(
        config=resolved,
        findings=_findings(config, resolved, parts, sizes, choice, built, told),
        notes=[*parts.reading.left_out, *doubts, *learnt.references.notes, *notes],
        task=built,
        train=train,
        valid=data_set(parts.valid, spec, dtype, 0, progress)[0],
        test=parts.test,
        settings=settings,
        kind="property",
    )


def next_commands(folder: str) -> list[str]:
    """What a user types after training."""
    return [f"covarium evaluate {folder} FILE", f"covarium predict {folder} FILE", f"covarium info {folder}"]


def _resolved(config: RunConfig, task: Property) -> TaskSection:
    """The task's section without gaps."""
    own = PropertySection(name=task.semantics.name, readout=task.readout, offset=task.offset, spread=task.spread)
    found = {
        "property": own,
        "references": {chemical_symbols[z]: value for z, value in task.references.items()},
        "scale": float(task.scale),
        "theory": task.semantics.theory,
    }
    return config.task.model_copy(update=found)


def _term(config: RunConfig) -> TermSection:
    """The one term of the loss."""
    for quantity in config.task.terms:
        check_name(quantity, ["property"], f"key 'task.terms.{quantity}' of a property")
    return config.task.terms.get("property", TermSection())


def _theory(config: RunConfig, parts: Parts) -> str:
    return parts.reading.theory.removeprefix("theory ") if config.task.theory is None else config.task.theory


def _choose(
    asked: PropertySection, config: RunConfig, frames: Sequence[Frame], config_class: type, model: str
) -> Choice:
    """Readout and head: as told, by the rule for a target of that name, else by what the values look like.

    Raises:
        CovariumError: a vector for a model that gives none, or with a readout of scalars.
    """
    heads = "output" in {field.name for field in fields(config_class)}
    vector = frames[0].labels["property"].ndim == 1
    if vector and asked.readout not in (None, "value"):
        raise CovariumError(
            f"'{asked.name}' is a vector, and readout '{asked.readout}' gives scalars; leave task.property.readout "
            "out, a vector is the 'value' of a head"
        )
    told_head = config.model.get("output")
    rule = None if vector else target(asked.name)
    references = config.task.references
    if vector:
        if not heads:
            able = ", ".join(n for n, (_, c) in MODELS.items() if "output" in {f.name for f in fields(c)})
            raise CovariumError(
                f"'{asked.name}' is a vector, and {model} gives scalars only; models with vectors: {able} (--model)"
            )
        # of a periodic structure no dipole about a centre is defined
        dipole = "dipole" in asked.name.lower() and not frames[0].pbc.any()
        head = told_head or ("equivariant_dipole" if dipole else "vector")
        return Choice(asked.readout or "value", head, "none", f"a vector; head '{head}'")
    if asked.readout is not None:
        return Choice(asked.readout, told_head, references, "as told")
    if rule is not None:
        found = rule.references if references == "auto" else references
        told = f"rule for QM9's targets: {rule.what}"
        if rule.output is None or heads:
            return Choice(rule.readout, told_head or rule.output, found, told)
        return Choice("sum", None, found, f"{told}, for a model of scalars a sum over atoms")
    how, reason = sum_or_mean(bonded(frames))
    return Choice(how, told_head, references, reason)


def _statistics(config: RunConfig, parts: Parts, choice: Choice) -> PropertyStatistics:
    """Scale, offset and references, measured unless told."""
    # isolated atoms tell references
    frames = parts.train if choice.readout == "sum" else bonded(parts.train)
    found = property_statistics(frames, choice.readout, choice.references)
    asked = config.task.property
    assert asked is not None
    return PropertyStatistics(
        references=found.references,
        scale=config.task.scale or found.scale,
        offset=found.offset if asked.offset is None else asked.offset,
        spread=asked.spread or found.spread,
    )


def _assemble(
    model: AtomModel, semantics: PropertySemantics, readout: Readout, learnt: PropertyStatistics, term: TermSection
) -> Property:
    return Property(
        model,
        semantics=semantics,
        readout=readout,
        references=learnt.references.energies,
        scale=learnt.scale,
        offset=learnt.offset,
        spread=learnt.spread,
        term=Term("property", **term.model_dump()),
    )


def _findings(
    asked: RunConfig, config: RunConfig, parts: Parts, sizes: Statistics, choice: Choice, task: Property, told: str
) -> list[Finding]:
    """The lines that are shown before a run begins."""
    training, semantics = config.training, task.semantics
    unit = semantics.unit or "(unit not stated)"
    hint = "" if semantics.unit else "record it by --set data.units.property=…"
    parameters = sum(p.numel() for p in task.parameters())
    shown = ", ".join(f"{name} {config.model[name]}" for name in SIZES if name in config.model)
    batches = -(-len(parts.train) // training["batch_size"])
    origin = {True: told, False: "chosen"}
    values = label_of(parts.train, "property")
    references = ", ".join(f"{chemical_symbols[z]} {value:.4g}" for z, value in task.references.items())
    rows = [
        ("data", ", ".join(path.name for path in config.data.train), ""),
        *[("", note, "") for note in parts.reading.notes],
        ("property", f"{semantics.name} in {unit}", hint),
        ("values", f"mean {values.mean():.5g}, standard deviation {values.std():.5g}", "training frames"),
        ("theory", semantics.theory or "not stated", "" if semantics.theory else "record it by --set task.theory=…"),
        ("split", parts.note.removeprefix("split: "), ""),
        *([("test", f"{len(parts.test)} frames", "files of their own")] if config.data.test else []),
        ("readout", READOUTS[task.readout], choice.reason),
        *([("references", references, "of the elements")] if any(task.references.values()) else []),
        ("scale", f"{float(task.scale):.4g}, offset {task.offset:.5g}", told if asked.task.scale else "measured"),
        ("model", f"{config.model['name']}, {parameters:,} parameters", shown),
        ("cutoff", f"{config.model['cutoff']:g} Å", origin["cutoff" in asked.model]),
        *degree_rows(asked, config, sizes, told),
        ("loss", task.term.loss, f"errors over {task.spread:.4g}, the spread of what is left to learn"),
        ("batch", f"{training['batch_size']} frames, {batches} an epoch", origin["batch_size" in asked.training]),
        ("length", length_in_words(training), origin[any(name in asked.training for name in LENGTHS)]),
        ("arithmetic", f"{config.dtype} on {config.device}, {config.threads} CPU threads", in_words(task.model)),
    ]
    return [Finding(*row) for row in rows]


READOUTS = {
    "sum": "sum over atoms",
    "mean": "mean over atoms",
    "mean_with_zero": "sum over atoms, divided by one more than there are",
    "value": "the model's own head",
    "length": "length of the vector of the model's own head",
}

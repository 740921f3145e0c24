"""Everything a training run needs and was not told, found out from its data and said aloud."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from covarium.config import DenoisingSection, RunConfig, TaskSection, TermSection, build, check_name
from covarium.data import Frame, Reading, Statistics, data_set, read, split, statistics
from covarium.data.columns import columns, pick
from covarium.errors import CovariumError
from covarium.models import MODELS
from covarium.systems import AtomModel
from covarium.tasks import Denoise, DenoisingSettings, EnergySemantics, Potential, Property, Term
from covarium.training.settings import Settings
from covarium.workflows.arithmetic import arrange, in_words
from covarium.workflows.device import DTYPES, choose_device, use_threads
from covarium.workflows.precheck import look_over, refuse_other_energies, untold_tags

M = TypeVar("M")
Counted = Callable[[int, int], object]

DEFAULT_MODEL = "torchmd_et"
MODEL_WITH_HEADS = "equiformer_v3"  # for forces and stress, and to denoise
# Loss terms of the labels that are there; settings change their fields. Errors are over the scale (eV/Å), in which a
# stress is a hundredth of a force.
TERMS = {
    "energy": TermSection(),
    "forces": TermSection(loss="l2"),
    "stress": TermSection(weight=10.0),
    "property": TermSection(),
}
LENGTHS = ("epochs", "steps", "time_s")
TIME = 3600.0  # seconds of a run that was given no length
STEPS_PER_EPOCH = 200  # aimed at in the choice of the batch size
MOST_ATOMS = 400  # in a batch of chosen size
MOST_WORKERS = 8
# shown of a model that has them
SIZES = ("num_layers", "lmax", "mmax", "sphere_channels", "num_channels", "embedding_dimension", "irreps_node")


@dataclass(frozen=True)
class Finding:
    """One line of what a run is going to do: what, its value, and where it comes from."""

    what: str
    value: str
    origin: str = ""


@dataclass(frozen=True)
class Plan:
    """A training run, complete but not begun.

    Attributes:
        config: without gaps; running it again gives the same run.
        findings: for the user.
        notes: doubts and things left out, for the user.
        task: with initial weights, on its device.
        train, valid: what is learnt from, and what chooses the best model.
        test: frames for the error table, perhaps none.
        settings: of the training loop.
        kind: of question and data, an entry of ``KINDS``.
    """

    config: RunConfig
    findings: list[Finding]
    notes: list[str]
    task: Any  # of the kind's own class, as are the data sets
    train: Any
    valid: Any
    test: Sequence[Any]
    settings: Settings
    kind: str = "potential"


@dataclass(frozen=True)
class Parts:
    """The frames of a run by purpose, how the training files were read, and how the frames were divided."""

    reading: Reading
    train: Sequence[Frame]
    valid: Sequence[Frame]
    test: Sequence[Frame]
    note: str
    same_keys: bool


def infer(config: RunConfig, *, told: str = "given", progress: Counted | None = None) -> Plan:
    """Fill the gaps of a configuration.

    Args:
        config: with gaps.
        told: the origin to show for what it states; that of a former run states also what had been inferred.
        progress: called with (done, all) while neighbours of a large set are counted, once for each set and cutoff.

    Raises:
        CovariumError: the data cannot be read or do not fit what is asked of them; unknown model, key or device.
    """
    use_threads(config.threads)
    device, dtype = choose_device(config.device), DTYPES[config.dtype]
    headed = config.task.kind == "denoise" or config.task.forces == "direct"
    name = str(config.model.get("name", MODEL_WITH_HEADS if headed else DEFAULT_MODEL))
    model_class, config_class = model_of(name, "atoms")
    asked = {key: value for key, value in config.model.items() if key != "name"}
    first_guess = build(config_class, _heads(name, config.task, ()) | asked, "model")
    build(Settings, {"steps": 1, **config.training}, "training")
    parts = divide(config)
    doubts = look_over(parts.train, (parts.valid, parts.test), first_guess.spec.cutoff, config.data.accept)
    refuse_other_energies(parts.train, config.task.energy)
    train, notes = data_set(parts.train, first_guess.spec, dtype, workers(config), progress)
    found = statistics(train, config.task.references)
    heads = _heads(name, config.task, parts.reading.frames[0].labels)
    model_config = build(config_class, measured(config_class, found) | heads | asked, "model")
    tags = untold_tags(parts.train, getattr(model_config, "num_tags", 0))
    model = initial_model(model_class, model_config, config.seed, dtype)
    task_config = _task(config.task, parts.reading, found, model)
    task = _assemble(model, task_config, dtype).to(device)
    arrange(task.model, config.dtype, config.backend)
    settings = training_settings(config, len(train), found)
    for part in (parts.train, parts.valid, parts.test):
        refuse_unread(task, part)
    resolved = complete(config, parts, {"name": name, **asdict(model_config)}, task_config, settings, device)
    return Plan(
        config=resolved,
        findings=_findings(config, resolved, parts, found, task, told),
        notes=[*parts.reading.left_out, *doubts, *found.references.notes, *notes, *tags],
        task=task,
        train=train,
        valid=data_set(parts.valid, first_guess.spec, dtype, 0, progress)[0],
        test=parts.test,
        settings=settings,
    )


def complete(
    config: RunConfig, parts: Parts, model: dict[str, Any], task: TaskSection, settings: Settings, device: torch.device
) -> RunConfig:
    """The configuration without gaps; keys and units as they were read, where all files have the same."""
    reading = parts.reading
    data = {"keys": reading.keys, "units": reading.units} if parts.same_keys else {}
    found = {
        "data": config.data.model_copy(update={"kind": "atoms", **data}),
        "model": model,
        "task": task,
        "training": {**asdict(settings), "betas": list(settings.betas)},
        # as it was named: without an index each process finds its own device, in a resumed run too
        "device": config.device or device.type,
        "threads": torch.get_num_threads(),
    }
    return config.model_copy(update=found)


def next_commands(folder: str) -> list[str]:
    """What a user types after training."""
    return [
        f"covarium evaluate {folder} FILE",
        f"covarium md {folder} STRUCTURE --temperature 300 --time 5ps",
        f"covarium relax {folder} STRUCTURE",
    ]


def model_of(name: str, system: str) -> tuple[Any, Any]:
    """The model and its Config.

    Raises:
        CovariumError: no such model, or none that reads this kind of system.
    """
    fitting = sorted(n for n, (model, _) in MODELS.items() if model.system == system)
    if name in MODELS and name not in fitting:
        raise CovariumError(f"model '{name}' does not read {system}; those that do: {', '.join(fitting)}")
    check_name(name, fitting, f"model '{name}'")
    return MODELS[name]


def divide(config: RunConfig) -> Parts:
    """Read the files of a run and divide their frames.

    Raises:
        CovariumError: no file, or files that cannot be read or divided as asked.
    """
    data = config.data
    if not data.train:
        raise CovariumError("no training data: name a file, e.g. `covarium train data.extxyz`")
    for quantity in config.task.terms:
        check_name(quantity, TERMS, f"key 'task.terms.{quantity}'")
    usual = {"energy": True} if config.task.property is None else {"forces": False}
    asked = usual | {quantity: term.weight > 0 for quantity, term in config.task.terms.items()}
    need = [quantity for quantity, wanted in asked.items() if wanted]
    # forces that cannot be used are no reason to learn energies alone, unless that is asked for
    firm = ["forces"] if asked.get("forces", True) else []
    reading = read(data.train, keys=data.keys, units=data.units, need=need, firm=firm, limit=data.limit)
    if asked.get("forces", True) and "forces" in reading.frames[0].labels and "forces" not in need:
        need.append("forces")
    others = {
        part: read(files, keys=data.keys, units=data.units, need=need, limit=data.limit)
        for part, files in (("valid", data.valid), ("test", data.test))
        if files
    }
    same_keys = all(other.keys == reading.keys for other in others.values())
    valid: Sequence[Frame] | None
    valid, test = (others[part].frames if part in others else None for part in ("valid", "test"))
    frames = reading.frames
    test_part = data.test_part if test is None else 0
    if valid is None:
        drawn = split(frames, valid=data.valid_part, test=test_part, seed=config.seed, by=data.split_by)
        valid, drawn_test = pick(frames, drawn.valid), pick(frames, drawn.test)
    elif test_part:
        drawn = split(frames, valid=test_part, seed=config.seed, by=data.split_by)
        drawn_test = pick(frames, drawn.valid)
    else:
        return Parts(reading, frames, valid, test or [], "validation frames from files of their own", same_keys)
    train = pick(frames, drawn.train)
    return Parts(reading, train, valid, drawn_test if test is None else test, drawn.note, same_keys)


def measured(config_class: type, found: Statistics) -> dict[str, Any]:
    """Fields of the model's Config that the data decide, where it has them."""
    values = {"avg_degree": round(max(found.average_degree, 1.0), 4)}
    return {name: value for name, value in values.items() if name in _defaults(config_class)}


def _heads(name: str, task: TaskSection, labels: Container[str]) -> dict[str, Any]:
    """Fields of the model's Config that the task needs: denoising, a direct force head, and beside that one of the
    stress where there are labels and the model has one.

    Raises:
        CovariumError: the model has no such head.
    """
    known = _defaults(MODELS[name][1])
    needed = {"denoising": task.kind == "denoise", "force_head": task.forces == "direct"}
    for field in (field for field in needed if needed[field] and field not in known):
        able = ", ".join(other for other, (_, c) in MODELS.items() if field in _defaults(c))
        what = "cannot denoise; models that can" if field == "denoising" else "has no head for forces; models that do"
        rest = "" if field == "denoising" else ", or let forces be the gradient of the energy (task.forces=gradient)"
        raise CovariumError(f"{name} {what}: {able} (--model){rest}")
    values: dict[str, Any] = {"denoising": True} if needed["denoising"] else {}
    if needed["force_head"]:
        values["force_head"] = True if known["force_head"] is False else "gate"  # built or not, or its activation
        values |= {"stress_head": True} if "stress_head" in known and "stress" in labels else {}
    return values


def _defaults(config_class: type) -> dict[str, Any]:
    return {field.name: field.default for field in fields(config_class)}


def _task(given: TaskSection, reading: Reading, found: Statistics, model: AtomModel) -> TaskSection:
    """The task's section without gaps."""
    terms = _terms(given, reading.frames[0].labels, model)
    scale = given.scale or found.force_rms or found.energy_std_per_atom or 1.0
    references = {chemical_symbols[z]: energy for z, energy in found.references.energies.items()}
    theory = reading.theory.removeprefix("theory ") if given.theory is None else given.theory
    denoising = DenoisingSection() if given.kind == "denoise" and given.denoising is None else given.denoising
    return given.model_copy(
        update={
            "terms": terms, "scale": scale, "references": references, "theory": theory, "denoising": denoising,
        }
    )  # fmt: skip


def _terms(given: TaskSection, labels: Container[str], model: AtomModel) -> dict[str, TermSection]:
    """A term for every label that the model can learn, with the fields that were given in place of the usual ones.

    Raises:
        CovariumError: all weights are zero.
    """
    terms = {}
    for quantity, usual in TERMS.items():
        learnable = quantity != "stress" or given.forces == "gradient" or "stress" in model.outputs
        if quantity in given.terms:
            terms[quantity] = usual.model_copy(update=given.terms[quantity].model_dump(exclude_unset=True))
        elif quantity in labels and learnable:
            terms[quantity] = usual
    if not any(term.weight > 0 for term in terms.values()):
        raise CovariumError("there is nothing to learn: every task.terms.….weight is 0; leave one out or raise it")
    return terms


def initial_model(model_class: Callable[[Any], M], config: object, seed: int, dtype: torch.dtype) -> M:
    """The model with its initial weights, a function of the seed alone."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            return model_class(config)
        finally:
            torch.set_default_dtype(before)


def _assemble(model: AtomModel, section: TaskSection, dtype: torch.dtype) -> Potential:
    """The task around a model."""
    assert isinstance(section.references, dict) and section.scale is not None
    arguments: dict[str, Any] = dict(
        references={atomic_numbers[symbol]: energy for symbol, energy in section.references.items()},
        forces=section.forces,
        scale=section.scale,
        terms=tuple(Term(quantity, **term.model_dump()) for quantity, term in section.terms.items()),
        semantics=EnergySemantics(kind=section.energy, functional=section.theory or ""),
    )
    if section.denoising is None:
        return Potential(model, **arguments).to(dtype)
    if section.kind != "denoise":
        raise CovariumError("task.denoising means nothing to task.kind=potential; set task.kind=denoise")
    return Denoise(model, denoising=DenoisingSettings(**section.denoising.model_dump()), **arguments).to(dtype)


def training_settings(config: RunConfig, frames: int, found: Statistics) -> Settings:
    """The training settings without gaps."""
    given = {"seed": config.seed, **config.training}
    if all(given.get(length) is None for length in LENGTHS):
        given["time_s"] = TIME
    if given.get("batch_size") is None:
        room = max(1, int(MOST_ATOMS / found.average_atoms))
        given["batch_size"] = min(max(4, round(frames / STEPS_PER_EPOCH)), 32, room)
    return build(Settings, given, "training")


def refuse_unread(task: Potential | Property, frames: Sequence[Frame]) -> None:
    """Held-out elements that training lacks, and charges and spins that the model would ignore.

    Raises:
        CovariumError: names the first such frame.
    """
    for part in columns(frames) if len(frames) else ():
        unknown = ~np.isin(part.numbers, task.elements)
        if unknown.any():
            place = int(np.searchsorted(np.cumsum(part.atoms), np.flatnonzero(unknown)[0], side="right"))
            frame = frames[int(part.index[place])]
            names = ", ".join(chemical_symbols[z] for z in sorted(set(frame.numbers.tolist()) - set(task.elements)))
            raise CovariumError(
                f"{frame.where} contains {names}, which no training frame does; train on it or leave it out"
            )
        for name, values in (("charge", part.charge), ("spin", part.spin)):
            if values.any() and name not in task.model.reads:
                place = int(np.flatnonzero(values)[0])
                raise CovariumError(
                    f"{frames[int(part.index[place])].where} has {name} {values[place]:g}, which this model does not "
                    "read: it would take it for a neutral, closed-shell one. Leave such frames out, or choose a model "
                    f"that reads {name}"
                )


def workers(config: RunConfig) -> int:
    """Processes that load: as told, else the cores that training leaves free, at least one."""
    if config.data.workers is not None:
        return config.data.workers
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    mine = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(mine - torch.get_num_threads(), 1), MOST_WORKERS)


def _findings(
    asked: RunConfig, config: RunConfig, parts: Parts, found: Statistics, task: Potential, told: str
) -> list[Finding]:
    """The lines that are shown before a run begins."""
    reading, section, training = parts.reading, config.task, config.training
    energies = ", ".join(f"{chemical_symbols[z]} {energy:.3f}" for z, energy in found.references.energies.items())
    parameters = sum(p.numel() for p in task.parameters())
    sizes = ", ".join(f"{name} {config.model[name]}" for name in SIZES if name in config.model)
    batches = -(-len(parts.train) // training["batch_size"])
    scale_from = told if asked.task.scale else "rms of the forces" if found.force_rms else "spread of the energies"
    references_from = told if isinstance(asked.task.references, dict) else found.references.source
    origin = {True: told, False: "chosen"}
    rule = {"gradient": ("gradient of the energy", "conservative"), "direct": ("direct head", "energy drifts in MD")}
    loss = " + ".join(f"{t.weight:g} × {quantity} {t.loss}" for quantity, t in section.terms.items())
    rows = [
        ("data", ", ".join(path.name for path in config.data.train), ""),
        *[("", note, "") for note in reading.notes],
        ("theory", section.theory or "not stated", "" if section.theory else "record it by --set task.theory=…"),
        ("energies", section.energy, told if "energy" in asked.task.model_fields_set else "assumed"),
        ("split", parts.note.removeprefix("split: "), ""),
        *([("test", f"{len(parts.test)} frames", "files of their own")] if config.data.test else []),
        ("references", f"{energies} eV", references_from),
        ("scale", f"{section.scale:.4g} {'eV/Å' if found.force_rms else 'eV'}", scale_from),
        ("model", f"{config.model['name']}, {parameters:,} parameters", sizes),
        ("cutoff", f"{config.model['cutoff']:g} Å", origin["cutoff" in asked.model]),
        *degree_rows(asked, config, found, told),
        ("forces", *rule[section.forces]),
        ("loss", loss, "units of the scale"),
        *_denoising(section),
        ("batch", f"{training['batch_size']} frames, {batches} an epoch", origin["batch_size" in asked.training]),
        ("length", length_in_words(training), origin[any(name in asked.training for name in LENGTHS)]),
        ("arithmetic", f"{config.dtype} on {config.device}, {config.threads} CPU threads", in_words(task.model)),
    ]
    return [Finding(*row) for row in rows]


def degree_rows(asked: RunConfig, config: RunConfig, found: Statistics, told: str) -> list[tuple[str, str, str]]:
    """What the model divides sums over neighbours by, if it does, and what the data say."""
    if "avg_degree" not in config.model:
        return [("average degree", f"{found.average_degree:.2f} neighbours per atom", "measured")]
    origin = f"{told}; measured: {found.average_degree:.2f}" if "avg_degree" in asked.model else "measured"
    return [("average degree", f"{config.model['avg_degree']:.2f} neighbours per atom", origin)]


def _denoising(section: TaskSection) -> list[tuple[str, str, str]]:
    if section.denoising is None:
        return []
    d = section.denoising
    shares = f"{100 * d.probability:g} % of the structures, {100 * d.corrupt_ratio:g} % of their atoms"
    return [("denoising", f"{shares}, by {d.std:g} Å", f"{d.weight:g} × noise l2 in the loss")]


def length_in_words(training: dict[str, Any]) -> str:
    """How long the run is, in words."""
    lengths = [f"{training[name]:,} {name}" for name in ("epochs", "steps") if training[name] is not None]
    if training["time_s"] is not None:
        seconds = training["time_s"]
        lengths.append(f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds")
    return " or ".join(lengths) + (", whichever comes first" if len(lengths) > 1 else "")

"""Everything a training run needs and was not told, found out from its data and said aloud."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from covarium.config import RunConfig, TaskSection, TermSection, build, check_name
from covarium.data import Frame, FrameDataset, Reading, Statistics, data_set, read, split, statistics
from covarium.data.columns import columns, pick
from covarium.errors import CovariumError
from covarium.models import MODELS
from covarium.systems import AtomModel
from covarium.tasks import EnergySemantics, Potential, Term
from covarium.training.settings import Settings
from covarium.workflows.device import DTYPES, choose_device, use_threads

Counted = Callable[[int, int], object]

DEFAULT_MODEL = "equiformer_v2"
# Loss terms when none are set. Errors are over the scale (eV/Å), in which a stress is a hundredth of a force.
TERMS = {"energy": TermSection(), "forces": TermSection(loss="l2"), "stress": TermSection(weight=10.0)}
LENGTHS = ("epochs", "steps", "time_s")
TIME = 3600.0  # seconds of a run that was given no length
STEPS_PER_EPOCH = 200  # aimed at in the choice of the batch size
MOST_ATOMS = 400  # in a batch of chosen size
MOST_WORKERS = 8
SIZES = ("num_layers", "lmax", "mmax", "sphere_channels")  # shown of a model that has them


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
    """

    config: RunConfig
    findings: list[Finding]
    notes: list[str]
    task: Potential
    train: FrameDataset
    valid: FrameDataset
    test: Sequence[Frame]
    settings: Settings


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
    name = str(config.model.get("name", DEFAULT_MODEL))
    check_name(name, MODELS, f"model '{name}'")
    model_class, config_class = MODELS[name]
    asked = {key: value for key, value in config.model.items() if key != "name"}
    first_guess = build(config_class, asked, "model")
    build(Settings, {"steps": 1, **config.training}, "training")
    parts = divide(config)
    train, notes = data_set(parts.train, first_guess.spec, dtype, _workers(config), progress)
    found = statistics(train, config.task.references)
    model_config = build(config_class, _measured(config_class, found) | asked, "model")
    task_config = _task(config.task, parts.reading, found)
    task = _assemble(_initial(model_class, model_config, config.seed, dtype), task_config, dtype).to(device)
    settings = _settings(config, len(train), found)
    for part in (parts.train, parts.valid, parts.test):
        _refuse_unread(task, part)
    data = {"keys": parts.reading.keys, "units": parts.reading.units} if parts.same_keys else {}
    resolved = config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "model": {"name": name, **asdict(model_config)},
            "task": task_config,
            "training": {**asdict(settings), "betas": list(settings.betas)},
            # as it was named: without an index each process finds its own device, in a resumed run too
            "device": config.device or device.type,
            "threads": torch.get_num_threads(),
        }
    )
    return Plan(
        config=resolved,
        findings=_findings(config, resolved, parts, found, task, told),
        notes=[*parts.reading.left_out, *found.references.notes, *notes],
        task=task,
        train=train,
        valid=data_set(parts.valid, first_guess.spec, dtype, 0, progress)[0],
        test=parts.test,
        settings=settings,
    )


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
    need = [q for q, term in config.task.terms.items() if term.weight > 0] or ["energy"]
    reading = read(data.train, keys=data.keys, units=data.units, need=need, limit=data.limit)
    need = [*need, *[q for q in ("forces",) if not config.task.terms and q in reading.frames[0].labels]]
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


def _measured(config_class: type, found: Statistics) -> dict[str, Any]:
    """Fields of the model's Config that the data decide, where it has them."""
    names = {field.name for field in fields(config_class)}
    values: dict[str, Any] = {"avg_degree": round(max(found.average_degree, 1.0), 4)}
    return {name: value for name, value in values.items() if name in names}


def _task(given: TaskSection, reading: Reading, found: Statistics) -> TaskSection:
    """The task's section without gaps."""
    labels = reading.frames[0].labels
    terms = given.terms or {
        quantity: term
        for quantity, term in TERMS.items()
        if quantity in labels and not (quantity == "stress" and given.forces == "direct")
    }
    scale = given.scale or found.force_rms or found.energy_std_per_atom or 1.0
    references = {chemical_symbols[z]: energy for z, energy in found.references.energies.items()}
    theory = reading.theory.removeprefix("theory ") if given.theory is None else given.theory
    return given.model_copy(update={"terms": terms, "scale": scale, "references": references, "theory": theory})


def _initial(model_class: type[AtomModel], config: object, seed: int, dtype: torch.dtype) -> AtomModel:
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
    return Potential(
        model,
        references={atomic_numbers[symbol]: energy for symbol, energy in section.references.items()},
        forces=section.forces,
        scale=section.scale,
        terms=tuple(Term(quantity, **term.model_dump()) for quantity, term in section.terms.items()),
        semantics=EnergySemantics(kind=section.energy, functional=section.theory or ""),
    ).to(dtype)


def _settings(config: RunConfig, frames: int, found: Statistics) -> Settings:
    """The training settings without gaps."""
    given = {"seed": config.seed, **config.training}
    if all(given.get(length) is None for length in LENGTHS):
        given["time_s"] = TIME
    if given.get("batch_size") is None:
        room = max(1, int(MOST_ATOMS / found.average_atoms))
        given["batch_size"] = min(max(4, round(frames / STEPS_PER_EPOCH)), 32, room)
    return build(Settings, given, "training")


def _refuse_unread(task: Potential, frames: Sequence[Frame]) -> None:
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


def _workers(config: RunConfig) -> int:
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
        *_degree(asked, config, found, told),
        ("forces", *rule[section.forces]),
        ("loss", loss, "units of the scale"),
        ("batch", f"{training['batch_size']} frames, {batches} an epoch", origin["batch_size" in asked.training]),
        ("length", _length(training), origin[any(name in asked.training for name in LENGTHS)]),
        ("arithmetic", f"{config.dtype} on {config.device}, {config.threads} CPU threads", ""),
    ]
    return [Finding(*row) for row in rows]


def _degree(asked: RunConfig, config: RunConfig, found: Statistics, told: str) -> list[tuple[str, str, str]]:
    """What the model divides sums over neighbours by, if it does, and what the data say."""
    if "avg_degree" not in config.model:
        return [("average degree", f"{found.average_degree:.2f} neighbours per atom", "measured")]
    origin = f"{told}; measured: {found.average_degree:.2f}" if "avg_degree" in asked.model else "measured"
    return [("average degree", f"{config.model['avg_degree']:.2f} neighbours per atom", origin)]


def _length(training: dict[str, Any]) -> str:
    """How long the run is, in words."""
    lengths = [f"{training[name]:,} {name}" for name in ("epochs", "steps") if training[name] is not None]
    if training["time_s"] is not None:
        seconds = training["time_s"]
        lengths.append(f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds")
    return " or ".join(lengths) + (", whichever comes first" if len(lengths) > 1 else "")

"""Training and judging on samples of geometric tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from covarium.analysis.token_errors import TokenEvaluation, evaluate_tokens
from covarium.config import DataSection, RunConfig, TermSection, build, check_name
from covarium.data.split import division
from covarium.data.tokens import TARGETS, TokenDataset, TokenSample, read_tokens
from covarium.errors import CovariumError
from covarium.tasks.tokens import Scaling, TokenRegression, TokenTerm
from covarium.training.settings import Settings
from covarium.workflows.arithmetic import arrange
from covarium.workflows.device import DTYPES, choose_device, use_threads
from covarium.workflows.evaluation import Progress
from covarium.workflows.inference import LENGTHS, TIME, Finding, Plan, initial_model, length_in_words, model_of
from covarium.workflows.loaded import LoadedTask

DEFAULT_MODEL = "gatr"
BATCH = 64  # samples, the published n-body batch
BATCH_COST = 4096  # and no more than this, or surfaces of thousands of vertices would fill the memory
ROUNDING = 1e-12  # of a number: what spreads less about a constant is noise, and nothing to divide by
SIZES = ("variant", "num_blocks", "hidden_mv_channels", "hidden_s_channels", "hidden_channels", "num_heads")


def infer(config: RunConfig, *, told: str = "given", progress: Progress | None = None) -> Plan:
    """Fill the gaps of a configuration.

    Args:
        config: with gaps.
        told: the origin to show for what it states.
        progress: not called; tokens have no neighbours to count.

    Raises:
        CovariumError: the data cannot be read or do not fit what is asked of them; unknown model, key or device.
    """
    use_threads(config.threads)
    device, dtype = choose_device(config.device), DTYPES[config.dtype]
    name = str(config.model.get("name", DEFAULT_MODEL))
    model_class, config_class = model_of(name, "tokens")
    asked = {key: value for key, value in config.model.items() if key != "name"}
    build(config_class, asked, "model")
    train, valid, test, note = _divide(config)
    data, _ = TokenDataset(train), TokenDataset([train[0], *valid, *test])
    targets = tuple(name for name in TARGETS if name in train[0].targets)
    model_config = build(config_class, config_class.for_tokens(*_widths(train[0])) | asked, "model")
    terms = _terms(config, targets)
    task = TokenRegression(
        initial_model(model_class, model_config, config.seed, dtype),
        targets=targets,
        scaling=_scaling(train, config.task.centre),
        terms={name: TokenTerm(term.loss, term.weight) for name, term in terms.items()},
        centre=config.task.centre,
    ).to(dtype)
    arrange(task.model, config.dtype, config.backend)
    with torch.no_grad():
        task.evaluate(data.batch([0]).to(None, dtype).system)  # refuses a model whose sizes do not fit, before the run
    settings = _settings(config, data)
    resolved = config.model_copy(
        update={
            "data": config.data.model_copy(update={"kind": "tokens"}),
            "model": {"name": name, **_plain(asdict(model_config))},
            "task": config.task.model_copy(update={"terms": terms}),
            "training": {**asdict(settings), "betas": list(settings.betas)},
            "device": config.device or device.type,
            "threads": torch.get_num_threads(),
        }
    )
    return Plan(
        config=resolved, findings=_findings(config, resolved, data, test, task, (note, told)), notes=[],
        task=task.to(device), train=data, valid=TokenDataset(valid), test=test, settings=settings, kind="tokens",
    )  # fmt: skip


def evaluate_files(
    loaded: LoadedTask, files: Sequence[Path], data: DataSection, progress: Progress | None = None
) -> tuple[list[str], TokenEvaluation]:
    """Errors of a task on files, and what was read.

    Raises:
        CovariumError: files without the task's targets.
    """
    samples = read_tokens(files, data.limit)
    return [describe_samples(samples)], evaluate_tokens(loaded.task, samples, progress=progress)


def next_commands(folder: str) -> list[str]:
    """What a user types after training."""
    return [f"covarium evaluate {folder} FILE --out errors", f"covarium check model {folder} FILE"]


def describe_task(task: TokenRegression) -> list[tuple[str, str, str]]:
    """Lines (what, value, remark) about a trained task."""
    s = task.scaling
    centred = "positions centred on each sample" if task.centre else "absolute positions"
    return [
        ("symmetry", task.model.group if task.model.group != "1" else "none", centred),
        ("reads", f"vectors of each token: {len(s.vectors)}, scalars: {len(s.scalars)}", ""),
        ("answers", ", ".join(task.targets), ""),
        ("length scale", f"{s.length:.4g}", "units of the data"),
    ]


def example_samples(task: TokenRegression, count: int) -> list[TokenSample]:
    """Random samples that fit the task, of different sizes, for checks without data."""
    s, rng = task.scaling, np.random.default_rng(0)
    samples = []
    for k in range(count):
        n = 5 + 3 * k
        samples.append(
            TokenSample(
                positions=s.length * rng.normal(size=(n, 3)),
                vectors=np.array(s.vectors)[:, None] * rng.normal(size=(n, len(s.vectors), 3)),
                scalars=np.array(s.scalar_means) + np.array(s.scalars) * rng.normal(size=(n, len(s.scalars))),
                targets={},
            )
        )
    return samples


def describe_samples(samples: Sequence[TokenSample]) -> str:
    """One line."""
    sizes = sorted({len(sample.positions) for sample in samples})
    tokens = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    first = samples[0]
    return (
        f"{len(samples):,} samples of {tokens} tokens; vectors of each: {first.vectors.shape[1]}, scalars: "
        f"{first.scalars.shape[1]}; targets: {', '.join(first.targets)}"
    )


def _divide(config: RunConfig) -> tuple[list[TokenSample], list[TokenSample], list[TokenSample], str]:
    """Training, validation and test samples, and how they were drawn."""
    data = config.data
    if data.keys or data.units:
        raise CovariumError(
            "data.keys and data.units are for structures; token files have fixed keys and their own units"
        )
    samples = read_tokens(data.train, data.limit)
    valid = read_tokens(data.valid, data.limit) if data.valid else None
    test = read_tokens(data.test, data.limit) if data.test else None
    parts = division(
        len(samples),
        valid=0 if valid is not None else data.valid_part,
        test=0 if test is not None else data.test_part,
        seed=config.seed,
    )
    drawn = [[samples[k] for k in part] for part in parts]
    valid, test = valid or drawn[1], test or drawn[2]
    note = f"{len(drawn[0])} training, {len(valid)} validation, {len(test)} test, drawn by sample, seed {config.seed}"
    return drawn[0], valid, test, note


def _widths(sample: TokenSample) -> tuple[int, int, int, int]:
    """Vectors and scalars in, vectors (a change of position among them) and scalars out."""
    out = sample.targets["vectors"].shape[1] if "vectors" in sample.targets else 0
    scalars = sample.targets["scalars"].shape[1] if "scalars" in sample.targets else 0
    return sample.vectors.shape[1], sample.scalars.shape[1], out + ("positions" in sample.targets), scalars


def _scaling(samples: Sequence[TokenSample], centre: bool) -> Scaling:
    """Root mean squares, and means and standard deviations of scalars; 1 for what is constant but for rounding."""

    def rms(parts: Sequence[np.ndarray], size: float = 0.0) -> tuple[float, ...]:
        """Of vectors; of differences of vectors of that size."""
        root = np.sqrt((np.concatenate(parts) ** 2).mean(axis=(0, 2)))
        return tuple(float(x) for x in np.where(root > ROUNDING * size, root, 1.0))

    def moments(parts: Sequence[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        values = np.concatenate(parts)
        rest = values - values[0]  # a constant then has its own value as mean
        spread, size = rest.std(axis=0), np.abs(values).max(axis=0)
        means = values[0] + rest.mean(axis=0)
        return tuple(map(float, means)), tuple(map(float, np.where(spread > ROUNDING * size, spread, 1.0)))

    far = max(float(np.abs(s.positions).max()) for s in samples)
    first = samples[0].targets
    means, widths = moments([s.scalars for s in samples])
    out_means, out_widths = moments([s.targets["scalars"] for s in samples]) if "scalars" in first else ((), ())
    return Scaling(
        length=rms([(s.positions - (s.positions.mean(axis=0) if centre else 0.0))[:, None] for s in samples], far)[0],
        vectors=rms([s.vectors for s in samples]),
        scalar_means=means,
        scalars=widths,
        positions=rms([(s.targets["positions"] - s.positions)[:, None] for s in samples], far)[0]
        if "positions" in first
        else 1.0,
        out_vectors=rms([s.targets["vectors"] for s in samples]) if "vectors" in first else (),
        out_scalar_means=out_means,
        out_scalars=out_widths,
    )


def _terms(config: RunConfig, targets: Sequence[str]) -> dict[str, TermSection]:
    """The loss; mean squared errors when none is set.

    Raises:
        CovariumError: an unknown target, or all weights are zero.
    """
    for name in config.task.terms:
        check_name(name, targets, f"key 'task.terms.{name}'")
    terms = config.task.terms or {name: TermSection(loss="mse") for name in targets}
    if not any(term.weight > 0 for term in terms.values()):
        raise CovariumError("there is nothing to learn: every task.terms.….weight is 0; leave one out or raise it")
    return terms


def _settings(config: RunConfig, data: TokenDataset) -> Settings:
    batch = min(max(BATCH_COST // max(data.costs()), 1), BATCH)
    given: dict[str, Any] = {"seed": config.seed, "batch_size": batch, **config.training}
    if all(given.get(name) is None for name in LENGTHS):
        given["time_s"] = TIME
    return build(Settings, given, "training")


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Tuples as the lists that YAML has."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _findings(
    asked: RunConfig, config: RunConfig, data: TokenDataset, test: Sequence[TokenSample], task: TokenRegression,
    drawn: tuple[str, str],
) -> list[Finding]:  # fmt: skip
    """The lines that are shown before a run begins."""
    note, told = drawn
    training, scaling = config.training, task.scaling
    parameters = sum(p.numel() for p in task.parameters())
    sizes = ", ".join(f"{name} {config.model[name]}" for name in SIZES if name in config.model)
    loss = " + ".join(f"{t.weight:g} × {name} {t.loss}" for name, t in config.task.terms.items())
    changes = f", changes of position {scaling.positions:.4g}" if "positions" in task.targets else ""
    batches = -(-len(data) // training["batch_size"])
    rows = [
        ("data", ", ".join(path.name for path in config.data.train), ""),
        ("", describe_samples(data.frames), ""),
        ("split", note, ""),
        *([("test", f"{len(test)} samples", "files of their own")] if config.data.test else []),
        ("scales", f"length {scaling.length:.4g}{changes}", "rms in the training samples"),
        ("model", f"{config.model['name']}, {parameters:,} parameters", sizes),
        describe_task(task)[0],
        ("loss", loss, "units of the scales"),
        (
            "batch",
            f"{training['batch_size']} samples, {batches} an epoch",
            told if "batch_size" in asked.training else "chosen",
        ),
        ("length", length_in_words(training), told if any(name in asked.training for name in LENGTHS) else "chosen"),
        ("arithmetic", f"{config.dtype} on {config.device}, {config.threads} CPU threads", ""),
    ]
    return [Finding(*row) for row in rows]

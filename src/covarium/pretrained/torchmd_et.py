"""Official TorchMD-NET Equivariant Transformer (torchmd/torchmd-net, releases 0.2.x and 3.x): arguments and names.

Releases differ in a few names only; ours are those of 3.x. Files from before 2022-02-21 carry biases on vectors, which
broke their equivariance; they are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from covarium.errors import CovariumError, nearest
from covarium.models.torchmd_et import Config
from covarium.pretrained.names import flat, placed, refuse_twice
from covarium.pretrained.stated import number, table
from covarium.tasks.targets import ALIASES, canonical

# all that the Equivariant Transformer, its heads and its priors read
DEFAULTS: dict[str, Any] = dict(
    model="equivariant-transformer", embedding_dimension=128, num_layers=6, num_rbf=64, rbf_type="expnorm",
    trainable_rbf=False, activation="silu", attn_activation="silu", neighbor_embedding=True, num_heads=8,
    distance_influence="both", cutoff_lower=0.0, cutoff_upper=5.0, max_z=100, vector_cutoff=False,
    output_model="Scalar", output_mlp_num_layers=0, reduce_op="add", prior_model=None, prior_args=None, atom_filter=-1,
)  # fmt: skip
ONLY = {"model": "equivariant-transformer", "output_mlp_num_layers": 0, "atom_filter": -1}
# the rest of what the training scripts of releases 0.1 to 3.1 know: of training, data, neighbour search, logging and
# the other architectures (charge and spin are handed on, and the Equivariant Transformer does not read them)
DEAD = {
    "load_model", "conf", "num_epochs", "batch_size", "inference_batch_size", "lr", "lr_patience", "lr_metric",
    "lr_min", "lr_factor", "lr_warmup_steps", "early_stopping_patience", "early_stopping_monitor", "reset_trainer",
    "weight_decay", "ema_alpha", "ema_alpha_y", "ema_alpha_dy", "ema_alpha_neg_dy", "ngpus", "num_nodes", "precision",
    "log_dir", "splits", "train_size", "val_size", "test_size", "val_ratio", "test_ratio", "test_interval",
    "save_interval", "seed", "distributed_backend", "accelerator", "num_workers", "redirect", "gradient_clipping",
    "remove_ref_energy", "checkpoint_monitor", "load_weights", "dataset", "dataset_root", "dataset_arg", "coord_files",
    "embed_files", "energy_files", "force_files", "dataset_preload_limit", "energy_weight", "force_weight", "y_weight",
    "neg_dy_weight", "train_loss", "train_loss_arg", "charge", "spin", "aggr", "equivariance_invariance_group",
    "box_vecs", "static_shapes", "check_errors", "derivative", "max_num_neighbors", "standardize", "job_id",
    "wandb_use", "wandb_name", "wandb_project", "wandb_resume_from_id", "tensorboard_use",
}  # fmt: skip
SAME = (
    "embedding_dimension", "num_layers", "num_rbf", "rbf_type", "trainable_rbf", "num_heads", "distance_influence",
    "cutoff_lower", "vector_cutoff",
)  # fmt: skip
OUTPUTS: dict[str, Any] = {
    "Scalar": "scalar",
    "EquivariantScalar": "equivariant_scalar",
    "DipoleMoment": "dipole",
    "EquivariantDipoleMoment": "equivariant_dipole",
    "ElectronicSpatialExtent": "spatial_extent",
    "EquivariantElectronicSpatialExtent": "spatial_extent",  # scalars there too
    "EquivariantVectorOutput": "vector",
}
ACTIVATIONS = {"silu": "silu", "swish": "silu", "ssp": "ssp", "tanh": "tanh", "sigmoid": "sigmoid"}
REDUCTIONS: dict[str, Literal["sum", "mean_with_zero"]] = {"add": "sum", "sum": "sum", "mean": "mean_with_zero"}

RENAMED = (
    (r"update_net\.(\d)", r"update_net.layers.\1"),
    (r"output_network\.(\d)\.(weight|bias)$", r"output_network.layers.\1.\2"),
    (r"^prior_model\.(?!\d)", "prior_model.0."),
)
BIASES = ("vec_proj.bias", "vec1_proj.bias", "vec2_proj.bias")
# normalisation and priors are the task's; the box is every structure's own cell; masses are derived
LEFT = re.compile(r"mean|std|prior_model\.\d+\..*|representation_model\.distance\.box|output_model\.atomic_mass")
ATOMREF = re.compile(r"prior_model\.(\d+)\.atomref\.weight")
# data sets of TorchMD-NET whose label is an energy, by its unit there
KCAL = frozenset(("MD17", "MD22", "MDCATH"))
EV = frozenset(
    (
        "ANI1", "ANI1X", "ANI1CCX", "ANI2X", "SPICE", "QM9q", "Ace", "MACEOFF", "GenentechTorsions", "COMP6v1",
        "COMP6v2", "ANIMD", "DrugBank", "GDB07to09", "GDB10to13", "Tripeptides", "S66X8",
    )
)  # fmt: skip
UNSTATED = frozenset(("WaterBox", "HDF5", "Custom"))
ENERGIES = KCAL | EV | UNSTATED


def arguments_read(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """``hyper_parameters`` of a checkpoint, which hold everything that the training script was told: those that matter
    to the model, and the names of those that no release knows."""
    read = {key: value for key, value in given.items() if key in DEFAULTS}
    return read, sorted(str(key) for key in given if key not in DEFAULTS and key not in DEAD)


def config_from_official(args: Mapping[str, Any], output_module: str | None = None) -> Config:
    """Our Config of the official arguments (the yaml file).

    Args:
        args: those of data, training and other architectures are ignored.
        output_module: class of the head; None for the equivariant form of ``args["output_model"]``, as official code
            chooses it.

    Raises:
        CovariumError: an unknown argument, or a value beyond this model.
    """
    for key, value in args.items():
        if key not in DEFAULTS and key not in DEAD:
            raise CovariumError(f"TorchMD-NET has no argument '{key}'{nearest(key, DEFAULTS)}")
        if key in ONLY and value != ONLY[key]:
            raise CovariumError(f"{key} = {value!r} is not supported; only {ONLY[key]!r} is")
    a = DEFAULTS | {k: v for k, v in args.items() if k not in DEAD}
    head = output_module or "Equivariant" + a["output_model"].removeprefix("Equivariant")
    if head not in OUTPUTS:
        raise CovariumError(f"output module '{head}' is not supported{nearest(head, OUTPUTS)}: {', '.join(OUTPUTS)}")
    activations: dict[str, Any] = {}
    for key in ("activation", "attn_activation"):
        if a[key] not in ACTIVATIONS:
            raise CovariumError(f"{key} = {a[key]!r} is not supported; allowed: {', '.join(ACTIVATIONS)}")
        activations[key] = ACTIVATIONS[a[key]]
    return Config(
        cutoff=a["cutoff_upper"],
        max_num_elements=a["max_z"],
        neighbour_embedding=a["neighbor_embedding"],
        vector_epsilon=0.0,
        output=OUTPUTS[head],
        **activations,
        **{key: a[key] for key in SAME},
    )


def parameters_from_official(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of an official state dict under our names; normalisation, priors and buffers are left behind.

    Args:
        state: names of release 0.2.x or 3.x, with any prefixes of wrappers.
        expected: ``TorchMDET(config).state_dict()``.

    Raises:
        CovariumError: a file from before the removal of the biases on vectors, or see ``names.placed``.
    """
    clean = renamed(state)
    biased = [name for name in clean if name.endswith(BIASES)]
    if biased:
        raise CovariumError(
            f"these weights have '{biased[0]}': they were made before 2022-02-21, when biases on vectors broke the "
            "equivariance of TorchMD-NET. Use a checkpoint of a later release"
        )
    return placed(clean, expected, lambda name, _: LEFT.fullmatch(name) is not None)


@dataclass(frozen=True)
class Normalisation:
    """What stands between the model and its answer: reduce(std · x + reference) + mean, in the unit of the data set.

    Attributes:
        mean: of a structure.
        std: unit of the model's output.
        references: of the elements, from ``Atomref`` priors; empty without.
        switched_off: whether the file holds references that its model does not add (``enable: False``).
        reduce: over the atoms; release 3.x divides a mean by one atom too many.
    """

    mean: float
    std: float
    references: dict[int, float]
    switched_off: bool
    reduce: Literal["sum", "mean_with_zero"]


def normalisation_from_official(args: Mapping[str, Any], state: Mapping[str, Tensor]) -> Normalisation:
    """What an official checkpoint knows of its data.

    Raises:
        CovariumError: another prior than ``Atomref``, one without its table or a table without its prior, an unknown
            reduction, or a number that is not finite.
    """
    clean = renamed(state)
    reduce = args.get("reduce_op", "add")
    if reduce not in REDUCTIONS:
        raise CovariumError(f"reduce_op = {reduce!r} is unknown; allowed: {', '.join(REDUCTIONS)}")
    # other heads than of scalars drop their priors
    priors = _priors(args) if "Scalar" in args.get("output_model", "Scalar") else []
    tables = {int(found.group(1)): value for name, value in clean.items() if (found := ATOMREF.fullmatch(name))}
    references: dict[int, float] = {}
    for index, (name, options) in enumerate(priors):
        if name not in ("Atomref", "LearnableAtomref"):
            raise CovariumError(f"prior model '{name}' is not supported; only Atomref and LearnableAtomref are")
        if index not in tables:
            raise CovariumError(f"the official weights lack 'prior_model.{index}.atomref.weight' of the prior '{name}'")
        if options.get("enable", True):
            for z, energy in table(f"prior_model.{index}.atomref.weight", tables[index]).items():
                references[z] = references.get(z, 0.0) + energy
    if beyond := sorted(tables.keys() - set(range(len(priors)))):
        raise CovariumError(f"the weights hold 'prior_model.{beyond[0]}', and the arguments name no prior for it")
    return Normalisation(
        mean=number("mean", clean.get("mean", 0.0)),
        std=number("std", clean.get("std", 1.0), positive=True),
        references=references,
        switched_off=any(not options.get("enable", True) for _, options in priors),
        reduce=REDUCTIONS[reduce],
    )


def _priors(args: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and options of every prior: ``prior_model`` is a name, a dictionary or a list of them, and the options stand
    there or, in its order, in ``prior_args``, as the training script leaves them."""
    given, options = args.get("prior_model") or [], args.get("prior_args") or []
    named: list[tuple[str, Any]] = []
    for prior in given if isinstance(given, list) else [given]:
        named += prior.items() if isinstance(prior, Mapping) else [(prior, None)]
    made = [*(options if isinstance(options, list) else [options]), *[None] * len(named)]
    return [(name, {**(own or {}), **(told or {})}) for (name, own), told in zip(named, made, strict=False)]


def quantity_from_official(args: Mapping[str, Any]) -> str | None:
    """What a checkpoint says: ``energy``, or a property by our name if it is one of QM9; None if nothing states it.

    Only QM9 has other labels than energies (with or without forces); in other data sets ``derivative``, the training on
    forces, tells an energy.

    Raises:
        CovariumError: a target of QM9 that is none.
    """
    data, label = args.get("dataset"), args.get("dataset_arg")
    if data != "QM9":
        return "energy" if data in ENERGIES or args.get("derivative") else None
    if isinstance(label, str) and label.startswith("{"):  # as on a command line
        label = json.loads(label)
    if isinstance(label, Mapping):
        label = label.get("label", label.get("labels"))
    if isinstance(label, (list, tuple)) and len(label) == 1:
        label = label[0]
    if label is None:
        return None
    name = canonical(str(label))
    if name is None:
        raise CovariumError(
            f"dataset_arg = {args['dataset_arg']!r} names no target of QM9{nearest(str(label), ALIASES)}"
        )
    return "energy" if name in ("u0", "u298") else name


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of release 3.x, without prefixes; two of one name are refused."""
    refuse_twice(state, _renamed)
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    name = flat(name)
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name

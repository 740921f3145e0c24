"""Official TorchMD-NET Equivariant Transformer (torchmd/torchmd-net, releases 0.2.x and 3.x): arguments and names.

Releases differ in a few names only; ours are those of 3.x. Files from before 2022-02-21 carry biases on vectors, which
broke their equivariance; they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from covarium.errors import CovariumError, nearest
from covarium.models.torchmd_et import Config

DEFAULTS: dict[str, Any] = dict(
    model="equivariant-transformer", embedding_dimension=128, num_layers=6, num_rbf=64, rbf_type="expnorm",
    trainable_rbf=False, activation="silu", attn_activation="silu", neighbor_embedding=True, num_heads=8,
    distance_influence="both", cutoff_lower=0.0, cutoff_upper=5.0, max_z=100, vector_cutoff=False,
    output_model="Scalar", reduce_op="add", prior_model=None, aggr="add", atom_filter=-1, charge=False, spin=False,
)  # fmt: skip
# of training, data and neighbour search: they change no number of the model
DEAD = {
    "precision", "max_num_neighbors", "derivative", "box_vecs", "static_shapes", "check_errors", "batch_size",
    "coord_files", "dataset", "dataset_arg", "dataset_root", "distributed_backend", "early_stopping_patience",
    "ema_alpha_dy", "ema_alpha_neg_dy", "ema_alpha_y", "embed_files", "energy_files", "energy_weight", "y_weight",
    "force_files", "force_weight", "neg_dy_weight", "inference_batch_size", "load_model", "log_dir", "lr", "lr_factor",
    "lr_min", "lr_patience", "lr_warmup_steps", "ngpus", "num_epochs", "num_nodes", "num_workers", "redirect",
    "save_interval", "seed", "splits", "standardize", "test_interval", "test_size", "train_size", "val_size",
    "weight_decay", "accelerator", "job_id", "tensorboard_use", "wandb_use", "remove_ref_energy",
}  # fmt: skip
ONLY = {"model": "equivariant-transformer", "aggr": "add", "atom_filter": -1, "charge": False, "spin": False}
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
    (r"^(model\.)+", ""),
    (r"update_net\.(\d)", r"update_net.layers.\1"),
    (r"output_network\.(\d)\.(weight|bias)$", r"output_network.layers.\1.\2"),
    (r"^prior_model\.(?!\d)", "prior_model.0."),
)
BIASES = ("vec_proj.bias", "vec1_proj.bias", "vec2_proj.bias")
# normalisation and priors are the task's; the box is every structure's own cell; masses are derived
LEFT = re.compile(r"mean|std|prior_model\.\d+\..*|representation_model\.distance\.box|output_model\.atomic_mass")
ATOMREF = re.compile(r"prior_model\.\d+\.atomref\.weight")


def config_from_official(args: Mapping[str, Any], output_module: str | None = None) -> Config:
    """Our Config of the official arguments (the yaml file, or ``hyper_parameters`` of a checkpoint).

    Args:
        args: those of data and training are ignored.
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
    """The parameters of an official state dict under our names.

    Args:
        state: names of release 0.2.x or 3.x, with any number of leading "model.".
        expected: ``TorchMDET(config).state_dict()``.

    Raises:
        CovariumError: a file from before the removal of the biases on vectors; a parameter is missing, has another
            shape, or belongs to no part of the model.
    """
    clean = renamed(state)
    biased = [name for name in clean if name.endswith(BIASES)]
    if biased:
        raise CovariumError(
            f"these weights have '{biased[0]}': they were made before 2022-02-21, when biases on vectors broke the "
            "equivariance of TorchMD-NET. Use a checkpoint of a later release"
        )
    for name, value in expected.items():
        if name not in clean:
            raise CovariumError(f"the official weights lack '{name}'{nearest(name, clean)}")
        if clean[name].shape != value.shape:
            raise CovariumError(f"'{name}' has shape {tuple(clean[name].shape)}, expected {tuple(value.shape)}")
    over = [name for name in clean if name not in expected and not LEFT.fullmatch(name)]
    if over:
        raise CovariumError(
            f"the official weights hold '{over[0]}', which this model has not{nearest(over[0], expected)}"
        )
    return {name: clean[name] for name in expected}


@dataclass(frozen=True)
class Normalisation:
    """What stands between the model and its answer: reduce(std · x + reference) + mean, in the unit of the data set.

    Attributes:
        mean: of a structure.
        std: unit of the model's output.
        references: of the elements, from an ``Atomref`` prior; empty without.
        reduce: over the atoms; release 3.x divides a mean by one atom too many.
    """

    mean: float
    std: float
    references: dict[int, float]
    reduce: Literal["sum", "mean_with_zero"]


def normalisation_from_official(args: Mapping[str, Any], state: Mapping[str, Tensor]) -> Normalisation:
    """What an official checkpoint knows of its data.

    Raises:
        CovariumError: another prior than ``Atomref``, or an unknown reduction.
    """
    clean = renamed(state)
    priors = args.get("prior_model") or []
    for prior in [priors] if isinstance(priors, (str, dict)) else priors:
        name = prior if isinstance(prior, str) else next(iter(prior))
        if name != "Atomref":
            raise CovariumError(f"prior model '{name}' is not supported; only Atomref is")
    reduce = args.get("reduce_op", "add")
    if reduce not in REDUCTIONS:
        raise CovariumError(f"reduce_op = {reduce!r} is unknown; allowed: {', '.join(REDUCTIONS)}")
    table = next((value for name, value in clean.items() if ATOMREF.fullmatch(name)), None)
    return Normalisation(
        mean=float(clean["mean"]) if "mean" in clean else 0.0,
        std=float(clean["std"]) if "std" in clean else 1.0,
        references={} if table is None else {z: float(e) for z, e in enumerate(table.flatten().tolist())},
        reduce=REDUCTIONS[reduce],
    )


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of release 3.x."""
    clean: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        clean[name] = value
    return clean

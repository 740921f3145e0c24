"""GATr, axial GATr and the plain transformers against the numbers of their published implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import Comparison, errors
from safetensors.torch import load_file
from torch import Tensor, nn

from covarium.errors import CovariumError
from covarium.layers.multivector.attention import Items
from covarium.models import GATr, GATrConfig, Transformer, TransformerConfig

ABOUT = {
    "source", "torch", "dtype", "note", "mv_component_order", "metric", "case", "model", "seed", "loss",
    "num_parameters", "input_layout", "attention_mask",
}  # fmt: skip
# without effect on the numbers of a trained network
DEAD = {"dropout_prob", "checkpoint", "checkpoint_blocks", "output_init", "collapse_dims"}
ROTARY = "pos_encoding.inv_freq"


def gatr(folder: Path) -> Comparison:
    """Outputs, gradients with respect to inputs and parameters."""
    description = json.loads((folder / "config.json").read_text())
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    reference = dict(np.load(folder / "outputs.npz"))
    arguments = {key: value for key, value in description.items() if key not in ABOUT}
    plain = description["model"].startswith("Baseline")
    read = (inputs["inputs"] if plain else inputs["multivectors"]).shape
    grid = read[: -1 if plain else -2]
    axial = grid[2] if "Axial" in description["model"] else None
    model = (_transformer if plain else _gatr)(arguments, axial).double().eval()
    _load(model, load_file(folder / "weights.safetensors"))

    variables = {k: inputs[k].clone().requires_grad_() for k in ("multivectors", "scalars", "inputs") if k in inputs}
    items = Items(tuple(grid), mask=inputs.get("attention_mask"))
    ours: dict[str, Tensor] = {}
    if isinstance(model, Transformer):
        ours["outputs"] = model.network(variables["inputs"].flatten(0, -2), items).unflatten(0, grid)
    else:
        scalars = variables["scalars"].flatten(0, -2) if "scalars" in variables else None
        mv, s = model.network(variables["multivectors"].flatten(0, -3), scalars, items)
        ours["outputs_mv"] = mv.unflatten(0, grid)
        if s is not None:
            ours["outputs_s"] = s.unflatten(0, grid)
    gradients, stored = {}, {}
    names = {"cotangent": "outputs", "cotangent_mv": "outputs_mv", "cotangent_s": "outputs_s"}
    if any(name in inputs for name in names):
        loss = sum((ours[out] * inputs[name]).sum() for name, out in names.items() if name in inputs)
        assert isinstance(loss, Tensor)
        loss.backward()
        ours |= {"loss": loss} | {f"grad_{k}": v.grad for k, v in variables.items() if v.grad is not None}
        gradients = {
            k: (torch.zeros_like(p) if p.grad is None else p.grad).numpy() for k, p in model.named_parameters()
        }
        stored = {k: v.numpy() for k, v in load_file(folder / "grads.safetensors").items()}
    outputs = {k: v.detach().numpy() for k, v in ours.items()}
    return Comparison(errors(outputs, reference, 1e-6), errors(gradients, stored, 1e-4), [])


def _gatr(arguments: dict[str, Any], axial: int | None) -> GATr:
    """The improved projective network from the official arguments."""
    given = dict(arguments)
    attention, mlp = dict(given.pop("attention", {})), dict(given.pop("mlp", {}))
    for arguments_of in (given, attention, mlp):
        for name in DEAD:
            arguments_of.pop(name, None)
    rotary = given.pop("pos_encodings", [attention.pop("pos_encoding", False)])
    fields: dict[str, Any] = {
        "num_heads": attention.pop("num_heads", 8),
        "multi_query": attention.pop("multi_query", True),
        "head_factor": attention.pop("increase_hidden_channels", 2),
        "rotary_base": attention.pop("pos_enc_base", 4096),
        "activation": mlp.pop("activation", "gelu"),
        "join_reference": given.pop("join_reference", "data"),
        "rotary": tuple(rotary),
        "axial": axial,
    }
    for name in ("in_s_channels", "out_s_channels"):
        fields[name] = given.pop(name, None) or 0
    for name in ("reinsert_mv_channels", "reinsert_s_channels"):
        fields[name] = tuple(given.pop(name, None) or ())
    for name in ("in_mv_channels", "out_mv_channels", "hidden_mv_channels", "hidden_s_channels", "num_blocks"):
        fields[name] = given.pop(name)
    _nothing_left({**given, **attention, **mlp})
    return GATr(GATrConfig(**fields))


def _transformer(arguments: dict[str, Any], axial: int | None) -> Transformer:
    given = {name: value for name, value in arguments.items() if name not in DEAD}
    fields = {
        "head_factor": given.pop("increase_hidden_channels", 1),
        "rotary_base": given.pop("pos_encoding_base", 4096),
        "out_vectors": 0,
        "out_scalars": given.pop("out_channels"),
        # the axial one is always multi-query
        "multi_query": given.pop("multi_query", axial is not None),
        "rotary": tuple(given.pop("pos_encodings", [given.pop("pos_encoding", False)])),
        "axial": axial,
    }
    for name in ("in_channels", "hidden_channels", "num_blocks", "num_heads"):
        fields[name] = given.pop(name)
    _nothing_left(given)
    return Transformer(TransformerConfig(**fields))


def _nothing_left(arguments: dict[str, Any]) -> None:
    if arguments:
        raise CovariumError(f"arguments {sorted(arguments)} of the published network are not known here")


def _load(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Weights by name; the rotary frequencies too, as the published ones are rounded to float32."""
    for name in [name for name in weights if name.endswith(ROTARY)]:
        module = model.get_submodule(name.removesuffix(".inv_freq"))
        module.inv_freq = weights.pop(name)
    model.load_state_dict(weights)

"""Equiformer against the numbers of its published implementation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from comparison import Comparison, errors, largest
from safetensors.torch import load_file
from torch import Tensor, nn

from covarium.algebra.irreps import Irreps
from covarium.layers.irreps.flat_edges import FlatEdges
from covarium.models import Equiformer
from covarium.models.equiformer import DotProductAttention, GraphAttention
from covarium.pretrained.equiformer import config_from_official, parameters_from_official
from covarium.systems import AtomGraph


def equiformer(folder: Path) -> Comparison:
    """Outputs, block features, attention logits and weights, and parameter gradients (double backward) on all paths;
    then energies, forces and gradients once more on the short path of the last block."""
    description = json.loads((folder / "config.json").read_text())
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    reference = dict(np.load(folder / "outputs.npz"))
    model = Equiformer(config_from_official(description["class_"], description["constructor"])).double().eval()
    model.load_state_dict(parameters_from_official(load_file(folder / "weights.safetensors"), model.state_dict()))
    stored = {k: v.numpy() for k, v in load_file(folder / "grads.safetensors").items()}
    graph = equiformer_graph(inputs)

    short, short_gradients = _loss_and_gradients(model, graph, inputs)
    for module in model.modules():
        if isinstance(module, GraphAttention | DotProductAttention):
            module.scalars_only = False
    ours = _features(model, graph)
    handles = _observe(model, ours)
    full, gradients = _loss_and_gradients(model, graph, inputs)
    for handle in handles:
        handle.remove()
    ours |= full
    outputs = {
        k: ours[k].detach().reshape(ref.shape).numpy() if k in ours and ours[k].numel() == ref.size else np.empty(0)
        for k, ref in reference.items()
    }
    again = {k: short[k].detach().numpy() for k in ("energy", "forces")}
    short_errors = largest(errors(again, {k: reference[k] for k in again}, 1e-6).values())
    worst = largest(errors(short_gradients, stored, 1e-4).values())
    extra = [("outputs on the short path", short_errors, 1e-9), ("gradients on the short path", worst, 1e-9)]
    return Comparison(errors(outputs, reference, 1e-6), errors(gradients, stored, 1e-4), extra)


def equiformer_graph(inputs: dict[str, Tensor]) -> AtomGraph:
    graphs, edges = int(inputs["batch"].max()) + 1, inputs["edge_index"].shape[1]
    periodic = "cell" in inputs
    return AtomGraph(
        positions=inputs["pos"],
        numbers=inputs["z"],
        cell=inputs["cell"].reshape(-1, 3, 3) if periodic else torch.zeros(graphs, 3, 3),
        pbc=torch.full((graphs, 3), periodic),
        batch=inputs["batch"],
        edge_index=inputs["edge_index"],
        shifts=inputs.get("cell_offsets", torch.zeros(edges, 3, dtype=torch.int64)),
        charge=torch.zeros(graphs),
        spin=torch.zeros(graphs),
        tags=inputs.get("tags", torch.zeros(0, dtype=torch.int64)),
    )


def flat(features: list[Tensor]) -> Tensor:
    """The layout of e3nn: entry by entry, components of a channel together."""
    return torch.cat([part.transpose(1, 2).flatten(1) for part in features], dim=1)


def _loss_and_gradients(
    model: Equiformer, graph: AtomGraph, inputs: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    positions = graph.positions.clone().requires_grad_()
    out = model(replace(graph, positions=positions))
    energy = out.energy.new_zeros(graph.num_graphs).index_add(0, graph.batch, out.energy).unsqueeze(1)
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    values = {"energy": energy, "forces": -gradient}
    if out.displacements is not None:
        values["aux"] = out.displacements
    values["loss"] = torch.stack([(inputs[f"loss_w_{name}"] * value).sum() for name, value in values.items()]).sum()
    c = model.config
    values["feat_head"] = out.energy * (c.avg_num_nodes**0.5 / c.energy_scale)
    values["feat_scale_scatter"] = energy / c.energy_scale
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(values["loss"], parameters.values(), allow_unused=True, materialize_grads=True)
    return values, {name: g.numpy() for name, g in zip(parameters, gradients, strict=True)}


def _features(model: Equiformer, graph: AtomGraph) -> dict[str, Tensor]:
    """What is computed before the blocks."""
    kinds = model.kinds(graph)
    edges: FlatEdges = model.edges(graph, kinds)
    irreps, c = model.irreps_node, model.config

    def embedded(scalars: Tensor) -> Tensor:
        """Scalars in features that have nothing else."""
        rest = sum(mul * (2 * irrep.l + 1) for mul, irrep in irreps) - scalars.shape[1]
        return torch.cat([scalars, scalars.new_zeros(len(scalars), rest)], dim=1)

    found = {
        "feat_atom_embed": embedded(model.atom_embed(kinds)),
        "feat_rbf": edges.scalars[:, 2 * c.edge_attributes :],
        "feat_edge_scalars": edges.scalars,
        "feat_edge_sh": torch.cat([edges.harmonics(l) for l in range(Irreps.parse(c.irreps_sh).lmax + 1)], dim=1),
        "feat_edge_deg_embed": flat(model.edge_deg_embed(edges)),
        "feat_block0_input": flat(model.initial(graph, edges, kinds)),
    }
    if c.num_tags:
        found["feat_tag_embed"] = embedded(model.tag_embed(graph.tags))
    if c.node_attributes:
        found["feat_attr_embed"] = model.attr_embed(kinds)
    return found


def _observe(model: Equiformer, ours: dict[str, Tensor]) -> list[torch.utils.hooks.RemovableHandle]:
    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: ours.__setitem__(name, flat(output))

    watched: dict[str, nn.Module] = {"feat_norm": model.norm}
    for k, block in enumerate(model.blocks):
        parts = {"": block, "_norm1": block.norm_1, "_attn_out": block.attention, "_ffn": block.ffn}
        watched |= {f"feat_block{k}{suffix}": module for suffix, module in parts.items()}
    handles = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    attentions = [m for m in model.modules() if isinstance(m, GraphAttention | DotProductAttention)]
    for k, attention in enumerate(attentions):

        def softmax(module: nn.Module, args: tuple[Tensor, ...], output: Tensor, k: int = k) -> None:
            ours[f"attn_logits_{k}"], ours[f"attn_alpha_{k}"] = args[0], output

        handles.append(attention.softmax.register_forward_hook(softmax))
    return handles

"""The Equivariant Transformer of TorchMD-NET against the numbers of its published implementation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import Comparison, errors
from safetensors.torch import load_file
from torch import Tensor

from covarium.models import TorchMDET
from covarium.ops.norm import norm
from covarium.pretrained.torchmd_et import (
    Normalisation,
    config_from_official,
    normalisation_from_official,
    parameters_from_official,
)
from covarium.systems import AtomGraph, AtomOutput
from covarium.tasks.property import reduce_atoms


def torchmd_et(folder: Path) -> Comparison:
    """Outputs, features of every layer, attention weights and parameter gradients with the stored edges."""
    description = json.loads((folder / "config.json").read_text())
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    reference = dict(np.load(folder / "outputs.npz"))
    state = load_file(folder / "weights.safetensors")
    model = TorchMDET(config_from_official(description["args"], description["output_module"])).double().eval()
    model.load_state_dict(parameters_from_official(state, model.state_dict()))
    normalisation = normalisation_from_official(description["args"], state)
    graph, stored = _graph(inputs)
    graph = replace(graph, positions=graph.positions.requires_grad_())

    ours = _observed(model, graph, stored, lambda: model(graph))
    y = _answer(ours.pop("answer"), graph, normalisation, description["output_module"])
    ours["y"] = y
    loss = (inputs["loss_w_y"] * y).sum()
    if "loss_w_neg_dy" in inputs:
        (slope,) = torch.autograd.grad(y.sum(), graph.positions, create_graph=True)
        ours["neg_dy"] = -slope
        loss = loss - (inputs["loss_w_neg_dy"] * slope).sum()
    ours["loss"] = loss
    loss.backward()
    gradients = {k: (torch.zeros_like(p) if p.grad is None else p.grad).numpy() for k, p in model.named_parameters()}
    outputs = {k: v.detach().numpy() for k, v in ours.items()}
    stored_gradients = {k: v.numpy() for k, v in load_file(folder / "grads.safetensors").items()}
    return Comparison(errors(outputs, reference, 1e-6), errors(gradients, stored_gradients, 1e-4), [])


def _graph(inputs: dict[str, Tensor]) -> tuple[AtomGraph, Callable[[Tensor, Tensor], Tensor]]:
    """The stored edges without loops, and what puts numbers of edges and of atoms into the stored order."""
    j, i = inputs["edge_index"]
    edges = torch.nonzero(j != i).squeeze(1)
    edges = edges[torch.argsort(i[edges], stable=True)]
    loops = torch.nonzero(j == i).squeeze(1)
    index = inputs["edge_index"][:, edges]
    graphs = int(inputs["batch"].max()) + 1
    cell, shifts = torch.zeros(graphs, 3, 3, dtype=torch.float64), torch.zeros(len(edges), 3, dtype=torch.int64)
    if "box" in inputs:
        cell = inputs["box"].double().expand(graphs, 3, 3)
        vectors = inputs["pos"][index[0]] - inputs["pos"][index[1]]
        for k in (2, 1, 0):
            shifts[:, k] = -torch.round(vectors[:, k] / cell[0, k, k]).long()
            vectors = vectors + shifts[:, k, None] * cell[0, k]
    graph = AtomGraph(
        positions=inputs["pos"],
        numbers=inputs["z"],
        cell=cell,
        pbc=torch.full((graphs, 3), "box" in inputs),
        batch=inputs["batch"],
        edge_index=index,
        shifts=shifts,
        charge=torch.zeros(graphs, dtype=torch.float64),
        spin=torch.zeros(graphs, dtype=torch.float64),
    )

    def stored(of_edges: Tensor, of_atoms: Tensor) -> Tensor:
        out = of_edges.new_zeros(len(j), *of_edges.shape[1:])
        out[edges] = of_edges
        out[loops] = of_atoms[i[loops]]
        return out

    return graph, stored


def _observed(
    model: TorchMDET, graph: AtomGraph, stored: Callable[[Tensor, Tensor], Tensor], run: Callable[[], AtomOutput]
) -> dict[str, Any]:
    """The answer and everything on the way to it, under the fixtures' names."""
    seen: dict[str, Any] = {}
    handles = []

    def keep(name: str, module: torch.nn.Module) -> None:
        handles.append(module.register_forward_hook(lambda m, args, out: seen.__setitem__(name, (args, out))))

    part = model.representation_model
    keep("feat_embedding", part.embedding)
    keep("feat_out_norm", part.out_norm)
    if model.config.neighbour_embedding:
        keep("feat_neighbor_embedding", part.neighbor_embedding)
    for n, layer in enumerate(part.attention_layers):
        keep(f"layer{n}", layer)
        keep(f"attn{n}", layer.attention)
        keep(f"loop{n}", layer.loop_attention)
    answer = run()
    for handle in handles:
        handle.remove()
    out: dict[str, Any] = {"answer": answer}
    for name in ("feat_embedding", "feat_neighbor_embedding", "feat_out_norm"):
        if name in seen:
            out[name] = seen[name][1]
    for n in range(model.config.num_layers):
        (x, vec, _), (dx, dvec) = seen[f"layer{n}"]
        out[f"feat_x_after_layer{n}"] = x + dx
        out[f"feat_vec_after_layer{n}"] = dvec if vec is None else vec + dvec
        ((raw, _), weight), ((loop_raw, _), loop_weight) = seen[f"attn{n}"], seen[f"loop{n}"]
        out[f"attn_raw_{n}"] = stored(raw, loop_raw)
        out[f"attn_act_cutoff_{n}"] = stored(weight, loop_weight)
        activation = part.attention_layers[n].attention.activation
        out[f"attn_act_{n}"] = stored(activation(raw), activation(loop_raw))
    edges, atoms = part.edges(graph), graph.num_atoms
    out["edge_unit_vec"] = stored(edges.unit, edges.unit.new_zeros(atoms, 3))
    out["edge_length"] = stored(norm(graph.vectors()), edges.unit.new_zeros(atoms))
    out["feat_rbf"] = stored(edges.basis, edges.loops.basis.expand(atoms, -1))
    return out


def _answer(output: AtomOutput, graph: AtomGraph, normalisation: Normalisation, module: str) -> Tensor:
    """[B, 1], or [B, 3] of the vector head; dipole moments as their length."""
    if output.energy is not None:
        values = output.energy * normalisation.std
        if normalisation.references:
            table = torch.tensor([normalisation.references[z] for z in sorted(normalisation.references)])
            values = values + table[graph.numbers]
        return (reduce_atoms(values, graph, normalisation.reduce) + normalisation.mean).unsqueeze(1)
    value = output.value * normalisation.std + normalisation.mean
    if "Dipole" in module:
        value = norm(value)
    return value.unsqueeze(1) if value.ndim == 1 else value

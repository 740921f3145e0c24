"""EquiformerV2 against the numbers of its published implementation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from comparison import Comparison, errors
from safetensors.torch import load_file
from torch import Tensor

from covarium.models import EquiformerV2
from covarium.pretrained.equiformer_v2 import AVG_NUM_NODES, config_from_official, parameters_from_official
from covarium.systems import AtomGraph


def equiformer_v2(folder: Path) -> Comparison:
    """Outputs, block features, attention weights and parameter gradients with the stored edges and frames."""
    description = json.loads((folder / "config.json").read_text())
    inputs = dict(np.load(folder / "inputs.npz"))
    reference = {k: v for k, v in np.load(folder / "outputs.npz").items() if not k.endswith("_f32")}
    model = EquiformerV2(config_from_official(description["constructor"])).double().eval()
    model.load_state_dict(parameters_from_official(load_file(folder / "weights.safetensors"), model.state_dict()))
    graph = _v2_graph(inputs)
    frames = torch.from_numpy(inputs["edge_rot_mat"]).double()

    ours: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: ours.__setitem__(name, output)

    for k, block in enumerate(model.blocks):
        names = {"norm1": block.norm_1, "ga": block.ga, "norm2": block.norm_2, "ffn": block.ffn, "out": block}
        for name, module in (names | {"alpha": block.ga.softmax}).items():
            module.register_forward_hook(keep(f"block{k}_{name}"))
    model.norm.register_forward_hook(keep("norm_out"))
    model.edge_degree_embedding.register_forward_hook(keep("edge_degree"))
    model.blocks[0].register_forward_pre_hook(lambda module, args: ours.__setitem__("x_init", args[0]))
    if model.config.force_head:
        model.force_block.softmax.register_forward_hook(keep("force_alpha"))
    output = model(graph, frames=frames)
    edges = model.edges(graph, frames)
    if model.config.force_head:  # of which the model computes degree 1 alone
        shared = model.config.atom_edge_embedding == "shared"
        tables = (model.source_embedding.weight, model.target_embedding.weight) if shared else ()
        ours["force_block_full"] = model.force_block(ours["norm_out"], edges, tables)
    ours["energy"] = output.energy.new_zeros(graph.num_graphs).index_add(0, graph.batch, output.energy)
    ours["node_energy"] = (output.energy * AVG_NUM_NODES).reshape(reference["node_energy"].shape)
    ours["edge_rbf_first8"] = edges.basis[:8]
    ours["wigner_first16"] = _v2_wigner(model, frames, reference)
    if output.forces is not None:
        ours["forces"] = output.forces
    for name in reference:
        if name in ours and ours[name].numel() == reference[name].size:
            ours[name] = ours[name].reshape(reference[name].shape)

    outputs = {k: v.detach().numpy() for k, v in ours.items()}  # before the hooks see a second pass
    scalar = (ours["energy"] * torch.from_numpy(inputs["grad_coeff_energy"])).sum()
    if output.forces is not None:
        scalar = scalar + (output.forces * torch.from_numpy(inputs["grad_coeff_forces"])).sum()
    scalar.backward()
    gradients = {k: (torch.zeros_like(p) if p.grad is None else p.grad).numpy() for k, p in model.named_parameters()}
    stored = {k: v.numpy() for k, v in load_file(folder / "grads.safetensors").items()}

    extra = []
    spread = description["fp64_spread_over_random_edge_frames"]
    with torch.no_grad():
        own = model(graph)
    energy = own.energy.new_zeros(graph.num_graphs).index_add(0, graph.batch, own.energy)
    pairs = [("energy", energy.numpy())] + ([] if own.forces is None else [("forces", own.forces.numpy())])
    for name, value in pairs:
        ref = reference[name]
        allowed = max(10 * (spread[name] or 0.0), 1e-9 * np.abs(ref).max())
        extra.append((f"{name} with own frames", float(np.abs(value.reshape(ref.shape) - ref).max()), allowed))
    return Comparison(errors(outputs, reference, 1e-6), errors(gradients, stored, 1e-4), extra)


def _v2_graph(inputs: dict[str, np.ndarray]) -> AtomGraph:
    tensor = {k: torch.from_numpy(v) for k, v in inputs.items()}
    graphs = len(inputs["natoms"].reshape(-1))
    return AtomGraph(
        positions=tensor["positions"].double(),
        numbers=tensor["atomic_numbers"].long(),
        cell=tensor["cell"].double().reshape(-1, 3, 3),
        pbc=torch.ones(graphs, 3, dtype=torch.bool),  # shifts are zero where there is no periodicity
        batch=tensor["batch"].long(),
        edge_index=tensor["edge_index"].long(),
        shifts=tensor["cell_offsets"].long(),
        charge=torch.zeros(graphs, dtype=torch.float64),
        spin=torch.zeros(graphs, dtype=torch.float64),
    )


def _v2_wigner(model: EquiformerV2, frames: Tensor, reference: dict[str, np.ndarray]) -> Tensor:
    """The full block-diagonal matrix of the first edges, l-primary."""
    from covarium.algebra.wigner import wigner_d

    blocks = wigner_d(frames[: len(reference["wigner_first16"])], model.config.lmax)
    return torch.stack([torch.block_diag(*[b[e] for b in blocks]) for e in range(blocks[0].shape[0])])

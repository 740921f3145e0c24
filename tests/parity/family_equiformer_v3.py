"""EquiformerV3 against the numbers of its published implementation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from comparison import Comparison, errors
from safetensors.torch import load_file
from torch import Tensor

from covarium.models import EquiformerV3
from covarium.pretrained.equiformer_v3 import config_from_official, official_name, parameters_from_official
from covarium.systems import AtomGraph, Denoising


def equiformer_v3(folder: Path) -> Comparison:
    """All systems of a case: outputs, block features, attention weights, parameter gradients; stored edges."""
    description = json.loads((folder / "config.json").read_text())
    config = config_from_official(description["constructor"], description["model_class"])
    model = EquiformerV3(config).double().eval()
    weights = load_file(folder / "weights.safetensors")
    model.load_state_dict(parameters_from_official(weights, model.state_dict(), config))
    gradient = not description["constructor"]["direct_prediction"]
    joined = Comparison({}, {}, [])
    for system in sorted(path.parent for path in folder.glob("*/inputs.npz")):
        found = _system(model, system, gradient)
        for ours, theirs in ((joined.outputs, found.outputs), (joined.gradients, found.gradients)):
            ours.update({f"{system.name}/{name}": error for name, error in theirs.items()})
    return joined


def _system(model: EquiformerV3, folder: Path, gradient: bool) -> Comparison:
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    reference = dict(np.load(folder / "outputs.npz"))
    graph = _graph(inputs)
    denoising = Denoising(inputs["dens_forces"], inputs["noise_mask"]) if "dens_forces" in inputs else None
    ours: dict[str, Tensor] = {}
    hooks = _observe(model, ours)
    positions = graph.positions.clone().requires_grad_(gradient)
    strain = graph.cell.new_zeros(graph.num_graphs, 3, 3).requires_grad_(gradient)
    moved = replace(graph, positions=positions)
    if "stress" in reference and gradient:
        moved = _strained(moved, strain)
    output = model(moved, denoising=denoising)
    for hook in hooks:
        hook.remove()
    energy = output.energy.new_zeros(graph.num_graphs).index_add(0, graph.batch, output.energy)
    forces, stress = output.forces, output.stress
    if gradient:
        gradients = torch.autograd.grad(
            energy.sum(), [positions, strain], create_graph=True, allow_unused=True, materialize_grads=True
        )
        forces = -gradients[0]
        # of any cell, as the published code; the library refuses where there is no volume
        stress = gradients[1] / torch.linalg.det(graph.cell).abs()[:, None, None]
    if denoising is not None:
        assert output.noise is not None and forces is not None
        forces = torch.where(denoising.mask.unsqueeze(1), output.noise, forces)
        if stress is not None:
            stress = stress * ~inputs["dens_batch_mask"][:, None, None]
    final = {"energy": energy, "forces": forces, "stress": stress, "hook.node_energy": ours.pop("node_energy")}
    ours.update({k: v for k, v in final.items() if v is not None})
    edges = model.edges(graph)
    ours["hook.edge_rbf"] = edges.basis
    if edges.envelope is not None:
        ours["hook.edge_envelope"] = edges.envelope
    shaped = {k: v.reshape(reference[k].shape) for k, v in ours.items() if k in reference}
    outputs = errors({k: v.detach().numpy() for k, v in shaped.items()}, reference, 1e-6)
    if not (folder / "param_grads.npz").is_file():
        return Comparison(outputs, {}, [])
    return Comparison(outputs, _gradients(model, shaped, dict(np.load(folder / "param_grads.npz"))), [])


def _gradients(model: EquiformerV3, ours: dict[str, Tensor], stored: dict[str, np.ndarray]) -> dict[str, float]:
    """Errors of the gradients of Σ ⟨cotangent, output⟩; in gradient mode a double backward."""
    cotangents = {k.removeprefix("cot."): torch.from_numpy(v) for k, v in stored.items() if k.startswith("cot.")}
    loss = torch.stack([(ours[name] * c.reshape(ours[name].shape)).sum() for name, c in cotangents.items()]).sum()
    model.zero_grad()
    loss.backward()
    reference = {k.removeprefix("grad."): v for k, v in stored.items() if k.startswith("grad.")}
    found = {}
    for name, p in model.named_parameters():
        theirs = official_name(name, model.config)
        value = torch.zeros_like(p) if p.grad is None else p.grad
        found[theirs] = value.numpy().reshape(reference.get(theirs, value).shape)
    missing = {name: np.zeros(0) for name in found.keys() - reference.keys()}
    return errors(found, reference | missing, 1e-4)


def _observe(model: EquiformerV3, ours: dict[str, Tensor]) -> list[torch.utils.hooks.RemovableHandle]:
    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: ours.__setitem__(name, output)

    hooks = [
        model.norm.register_forward_hook(keep("hook.norm")),
        model.edge_degree_embedding.register_forward_hook(keep("hook.edge_degree_embedding")),
        model.energy_block.register_forward_hook(keep("node_energy")),
    ]
    for k, block in enumerate(model.blocks):
        names = {".norm_1": block.norm_1, ".ga": block.ga, ".norm_2": block.norm_2, ".ffn": block.ffn, "": block}
        for name, module in (names | {".ga.attn_softmax": block.ga.softmax}).items():
            hooks.append(module.register_forward_hook(keep(f"hook.blocks.{k}{name}")))

    def embedding(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        first = model.sphere_embedding.weight[ours["numbers"]].unsqueeze(1)
        ours["hook.initial_embedding"] = torch.cat([first + output[:, :1], output[:, 1:]], dim=1)

    hooks.append(model.register_forward_pre_hook(lambda module, args: ours.__setitem__("numbers", args[0].numbers)))
    hooks.append(model.edge_degree_embedding.register_forward_hook(embedding))
    return hooks


def _strained(graph: AtomGraph, strain: Tensor) -> AtomGraph:
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    positions = graph.positions + torch.einsum("ni,nij->nj", graph.positions, symmetric[graph.batch])
    return replace(graph, positions=positions, cell=graph.cell + graph.cell @ symmetric)


def _graph(inputs: dict[str, Tensor]) -> AtomGraph:
    graphs = len(inputs["natoms"].reshape(-1))
    return AtomGraph(
        positions=inputs["pos"],
        numbers=inputs["z"],
        cell=inputs["cell"].reshape(-1, 3, 3),
        pbc=torch.ones(graphs, 3, dtype=torch.bool),  # shifts are zero where there is no periodicity
        batch=inputs["batch"],
        edge_index=inputs["edge_index"],
        shifts=inputs["cell_offsets"].round().long(),
        charge=torch.zeros(graphs, dtype=torch.float64),
        spin=torch.zeros(graphs, dtype=torch.float64),
    )

"""Compare a model with the stored numbers of its published implementation.

    python tests/parity/check.py --family equiformer_v2 FOLDER...

Error of a tensor: max|a − b| / max(max|ref|, floor), floor = 1e-6 × the largest output of the case for outputs and
1e-4 × the largest gradient for gradients. A gradient that does not exist counts as zero.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from covarium.errors import CovariumError
from covarium.models import EquiformerV2
from covarium.pretrained.equiformer_v2 import AVG_NUM_NODES, config_from_official, parameters_from_official
from covarium.systems import AtomGraph


class Comparison(NamedTuple):
    """Errors by tensor name, and further requirements as (name, value, allowed)."""

    outputs: dict[str, float]
    gradients: dict[str, float]
    extra: list[tuple[str, float, float]]


def errors(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray], floor: float) -> dict[str, float]:
    """The error of every tensor of ``reference``; a missing or misshapen one of ours is infinitely wrong."""
    lowest = floor * max((np.abs(r).max() for r in reference.values() if r.size), default=1.0)
    result = {}
    for name, ref in reference.items():
        value = ours.get(name)
        if value is None or value.shape != ref.shape:
            result[name] = float("inf")
        elif ref.size:
            result[name] = float(np.abs(value - ref).max() / max(np.abs(ref).max(), lowest, np.finfo(float).tiny))
    return result


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
        model.force_block.register_forward_hook(keep("force_block_full"))
        model.force_block.softmax.register_forward_hook(keep("force_alpha"))
    output = model(graph, frames=frames)
    edges = model.edges(graph, frames)
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


FAMILIES: dict[str, tuple[Callable[[Path], Comparison], float]] = {"equiformer_v2": (equiformer_v2, 1e-9)}


def check(family: str, folder: Path, tolerance: float | None = None) -> tuple[bool, str, list[str]]:
    """Whether a case passes, its line, and the worst tensors."""
    compare, default = FAMILIES[family]
    allowed = default if tolerance is None else tolerance
    result = compare(folder)
    worst = []
    for kind, table in (("output", result.outputs), ("gradient", result.gradients)):
        top = sorted(table.items(), key=lambda item: -item[1])[:3]
        worst += [f"  {kind:8s} {error:9.2e}  {name}" for name, error in top]
    worst += [f"  {'extra':8s} {value:9.2e}  {name} (allowed {limit:.1e})" for name, value, limit in result.extra]
    largest = [max(table.values(), default=0.0) for table in (result.outputs, result.gradients)]
    passed = max(largest) <= allowed and all(value <= limit for _, value, limit in result.extra)
    gradients = f"gradients {largest[1]:.2e}" if result.gradients else "no gradients stored"
    compared = len(result.outputs) + len(result.gradients)
    verdict = "PASS" if passed else "FAIL"
    line = f"{folder.name:32s} {compared:5d} tensors  outputs {largest[0]:.2e}  {gradients}  {verdict}"
    return passed, line, worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", required=True, choices=sorted(FAMILIES))
    parser.add_argument("--tol", type=float, default=None, help="largest error allowed (default: of the family)")
    parser.add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    lines, failed = [], False
    for folder in options.folders:
        if not (folder / "config.json").is_file():
            sys.stderr.write(f"{folder} holds no config.json; give case folders\n")
            return 2
        try:
            passed, line, worst = check(options.family, folder, options.tol)
        except CovariumError as error:
            passed, line, worst = False, f"{folder.name:32s} {error}  FAIL", []
        sys.stdout.write("\n".join([folder.name, *worst]) + "\n")
        lines.append(line)
        failed |= not passed
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""NequIP at the defaults of its package: 4 layers, l ≤ 1, both parities, 32 features; r_max = 5 Å, not compiled."""

from __future__ import annotations

from pathlib import Path

import ase.data
import numpy as np
import torch
from torch import Tensor

from peers.rows import COMMON
from peers.subject import Inputs, Subject, detached, on, weighted


def build(row: str, inputs: Inputs, weights: Path, device: str) -> Subject:
    """Its graph model; its edges point from target to source, as ours are stored from source to target."""
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    elements = sorted({int(z) for z in inputs["numbers"]})
    model = NequIPGNNModel(
        seed=0, model_dtype="float32", r_max=5.0, type_names=[ase.data.chemical_symbols[z] for z in elements],
        avg_num_neighbors=inputs["edge_index"].shape[1] / len(inputs["numbers"]),
    ).to(device)  # fmt: skip
    index = np.array([elements.index(int(z)) for z in inputs["numbers"]])
    data = {
        "pos": on(device, inputs["positions"]), "atom_types": on(device, index),
        "edge_index": on(device, inputs["edge_index"][::-1]), "batch": on(device, inputs["batch"]),
        "num_atoms": on(device, np.bincount(inputs["batch"])),
    }  # fmt: skip
    if inputs["pbc"].any():
        data |= {"cell": on(device, inputs["cell"]), "edge_cell_shift": on(device, inputs["shifts"].astype(float))}

    def answer() -> dict[str, Tensor]:
        found = model({**data, "pos": data["pos"].detach().clone()})
        return {"energy": found["total_energy"].squeeze(-1), "forces": found["forces"]}

    def loss() -> Tensor:
        return weighted(COMMON, inputs, answer())

    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    return Subject(model, optimiser, lambda: detached(answer()), loss)

"""The Equivariant Transformer of torchmd-net."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from peers.rows import ROWS
from peers.subject import Inputs, Subject, detached, on, weighted

ARGUMENTS = dict(
    model="equivariant-transformer", precision=32, embedding_dimension=128, num_layers=6, num_rbf=32,
    rbf_type="expnorm", trainable_rbf=False, activation="silu", attn_activation="silu", neighbor_embedding=True,
    num_heads=8, distance_influence="both", cutoff_lower=0.0, cutoff_upper=5.0, max_z=100, max_num_neighbors=64,
    derivative=True, atom_filter=-1, prior_model=None, output_model="Scalar", reduce_op="add", vector_cutoff=False,
    box_vecs=None, static_shapes=False, check_errors=True, aggr="add",
)  # fmt: skip


def build(row: str, inputs: Inputs, weights: Path, device: str) -> Subject:
    """With our weights, which have its names."""
    from torchmdnet.models.model import create_model

    model = create_model(ARGUMENTS).to(device)
    ours = load_file(weights)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(ours.pop(name))
    assert not ours, sorted(ours)
    z, positions, batch = (on(device, inputs[name]) for name in ("numbers", "positions", "batch"))

    def answer() -> dict[str, Tensor]:
        energy, forces = model(z, positions.clone(), batch)
        return {"energy": energy.squeeze(-1), "forces": forces}

    def loss() -> Tensor:
        return weighted(ROWS[row].terms, inputs, answer())

    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    return Subject(model, optimiser, lambda: detached(answer()), loss)

"""MACE 32x0e + 32x1o as in the other benchmarks, with mace-torch's own model and graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from peers.rows import COMMON
from peers.subject import Inputs, Subject, detached, on, weighted


def build(row: str, inputs: Inputs, weights: Path, device: str) -> Subject:
    """The defaults of ``mace_run_train`` beside irreps and r_max = 5 Å; edges as given, its vectors reversed."""
    from mace import modules  # first: it lets e3nn read its constants
    from e3nn import o3  # isort: skip

    elements = sorted({int(z) for z in inputs["numbers"]})
    degree = inputs["edge_index"].shape[1] / len(inputs["numbers"])
    model = modules.ScaleShiftMACE(
        r_max=5.0, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, num_interactions=2, num_elements=len(elements),
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        hidden_irreps=o3.Irreps("32x0e + 32x1o"), MLP_irreps=o3.Irreps("16x0e"), gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(elements)), avg_num_neighbors=degree,
        atomic_numbers=elements, correlation=3, radial_type="bessel", radial_MLP=[64, 64, 64], atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    ).to(device)  # fmt: skip
    index = np.array([elements.index(int(z)) for z in inputs["numbers"]])
    shifts = -np.einsum("ei,eij->ej", inputs["shifts"], inputs["cell"][inputs["batch"][inputs["edge_index"][1]]])
    starts = np.concatenate([[0], np.cumsum(np.bincount(inputs["batch"]))])
    data = {
        "positions": on(device, inputs["positions"]), "node_attrs": on(device, np.eye(len(elements))[index]),
        "edge_index": on(device, inputs["edge_index"]), "shifts": on(device, shifts),
        "unit_shifts": on(device, inputs["shifts"].astype(float)), "cell": on(device, inputs["cell"].reshape(-1, 3)),
        "batch": on(device, inputs["batch"]), "ptr": on(device, starts),
        "head": torch.zeros(len(inputs["cell"]), dtype=torch.int64, device=device),
    }  # fmt: skip

    def answer(training: bool) -> dict[str, Tensor]:
        given = dict(data, positions=data["positions"].detach().clone())
        found = model(given, training=training)
        return {name: found[name] for name in ("energy", "forces")}

    def loss() -> Tensor:
        return weighted(COMMON, inputs, answer(training=True))

    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)
    return Subject(model, optimiser, lambda: detached(answer(training=False)), loss)

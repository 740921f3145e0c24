"""EquiformerV2 of fairchem-core 1.10.0, installed without its dependencies.

What its model files import and no registry offers for every torch is stood in: ``torch_scatter.scatter`` by its plain
torch twin (the model never calls it), and the ASE calculator and the list of downloads, which the package imports at
once, by nothing.
Edges are given, so that its neighbour search does not run.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from peers.rows import ROWS
from peers.subject import Inputs, Subject, detached, on, weighted

SIZES = dict(
    max_neighbors=20, max_radius=12.0, max_num_elements=90, sphere_channels=128, attn_hidden_channels=64, num_heads=8,
    attn_alpha_channels=64, attn_value_channels=16, ffn_hidden_channels=128, norm_type="layer_norm_sh",
    mmax_list=[2], grid_resolution=18, num_sphere_samples=128, edge_channels=128, use_atom_edge_embedding=True,
    share_atom_edge_embedding=False, use_m_share_rad=False, distance_function="gaussian", num_distance_basis=512,
    use_s2_act_attn=False, use_attn_renorm=True, use_gate_act=False, use_grid_mlp=True, use_sep_s2_act=True,
    alpha_drop=0.1, drop_path_rate=0.1, weight_init="uniform", use_pbc=True, regress_forces=True, otf_graph=False,
)  # fmt: skip
LMAX = {"equiformer_v2": 4}  # else 6, the peer of EquiformerV3


def scatter(src: Tensor, index: Tensor, dim: int = -1, out: None = None, dim_size: int | None = None,
            reduce: str = "sum") -> Tensor:  # fmt: skip
    """``torch_scatter.scatter``."""
    size = int(index.max()) + 1 if dim_size is None else dim_size
    shape = [*src.shape[: dim % src.ndim], size, *src.shape[dim % src.ndim + 1 :]]
    view = [1] * src.ndim
    view[dim] = -1
    expanded = index.view(view).expand_as(src) if index.ndim == 1 else index
    name = {"add": "sum", "max": "amax", "min": "amin"}.get(reduce, reduce)
    return src.new_zeros(shape).scatter_reduce(dim, expanded, src, name, include_self=False)


STAND_INS: dict[str, dict[str, Any]] = {
    "torch_scatter": {"scatter": scatter},
    "fairchem.core.common.relaxation.ase_utils": {"OCPCalculator": None},
    "fairchem.core.models.model_registry": {"available_pretrained_models": (), "model_name_to_local_file": None},
}


def _model() -> type[Any]:
    for name, contents in STAND_INS.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module
    torch.serialization.add_safe_globals([slice])  # in the constants of an older e3nn
    from fairchem.core.models.equiformer_v2.equiformer_v2_deprecated import EquiformerV2

    return EquiformerV2


def build(row: str, inputs: Inputs, weights: Path, device: str) -> Subject:
    """With our weights where the sizes are ours, and with its own at the sizes of V3's peer."""
    model = _model()(num_layers=8, lmax_list=[LMAX.get(row, 6)], **SIZES).to(device)
    if row in LMAX:
        left = model.load_state_dict(load_file(weights), strict=False)
        wanted = {name for name, _ in model.named_parameters()}
        assert not left.unexpected_keys and not wanted & set(left.missing_keys), left
    from torch_geometric.data import Data

    counts = torch.bincount(torch.from_numpy(inputs["batch"]))
    data = Data(
        pos=on(device, inputs["positions"]), atomic_numbers=on(device, inputs["numbers"]),
        cell=on(device, inputs["cell"]), natoms=counts.to(device), batch=on(device, inputs["batch"]),
        edge_index=on(device, inputs["edge_index"]), cell_offsets=on(device, inputs["shifts"]),
        neighbors=torch.tensor([inputs["edge_index"].shape[1]], device=device),
    )  # fmt: skip

    def shipped() -> dict[str, Tensor]:
        """Its own decorator turns gradients on again, so the whole graph is kept."""
        model.direct_forces = False
        with torch.no_grad():
            return detached(model(data))

    def infer() -> dict[str, Tensor]:
        model.direct_forces = True
        with torch.no_grad():
            return model(data)

    def loss() -> Tensor:
        return weighted(ROWS[row].terms if row in LMAX else ROWS["equiformer_v2"].terms, inputs, model(data))

    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=1e-3)
    return Subject(model, optimiser, infer, loss, variants={"shipped": shipped})

"""Official EquiformerV2 (atomicarchitects/equiformer_v2, commit cf45ee2): constructor arguments and parameter names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from covarium.errors import CovariumError, nearest
from covarium.models.equiformer_v2 import Config
from covarium.pretrained.names import placed

NUM_GAUSSIANS = 600  # hard-coded there; num_distance_basis is ignored
AVG_DEGREE = 23.395238876342773  # IS2RE-100k, radius 5, 100 neighbours
AVG_NUM_NODES = 77.81317

DEFAULTS: dict[str, Any] = dict(
    use_pbc=True, regress_forces=True, max_neighbors=500, max_radius=5.0, max_num_elements=90, num_layers=12,
    sphere_channels=128, attn_hidden_channels=128, num_heads=8, attn_alpha_channels=32, attn_value_channels=16,
    ffn_hidden_channels=512, norm_type="rms_norm_sh", lmax_list=[6], mmax_list=[2], grid_resolution=None,
    edge_channels=128,
    use_atom_edge_embedding=True, share_atom_edge_embedding=False, use_m_share_rad=False, distance_function="gaussian",
    use_s2_act_attn=False, use_attn_renorm=True, use_gate_act=False, use_grid_mlp=False, use_sep_s2_act=True,
    alpha_drop=0.1, drop_path_rate=0.05, proj_drop=0.0, weight_init="normal",
    # arguments of fairchem 1.x; None for the statistics of IS2RE
    avg_num_nodes=None, avg_degree=None, enforce_max_neighbors_strictly=True, use_energy_lin_ref=False,
)  # fmt: skip
DEAD = {
    "num_sphere_samples", "num_distance_basis", "attn_activation", "ffn_activation", "otf_graph",
    "activation_checkpoint", "load_energy_lin_ref", "use_pbc_single",
}  # fmt: skip
ONLY = {"distance_function": "gaussian", "use_s2_act_attn": False, "use_energy_lin_ref": False}
SAME = (
    "num_layers", "sphere_channels", "attn_hidden_channels", "num_heads", "attn_alpha_channels", "attn_value_channels",
    "ffn_hidden_channels", "edge_channels", "max_num_elements", "norm_type", "grid_resolution", "alpha_drop",
    "drop_path_rate", "proj_drop", "weight_init",
)  # fmt: skip


def config_from_official(constructor: Mapping[str, Any]) -> Config:
    """Our Config of an official constructor call. Arguments that are dead in the official code are ignored.

    Raises:
        CovariumError: an unknown argument, several resolutions, or a value that the official code does not support.
    """
    for key, value in constructor.items():
        if key not in DEFAULTS and key not in DEAD:
            raise CovariumError(
                f"EquiformerV2 has no argument '{key}'{nearest(key, DEFAULTS)}; known: {', '.join(DEFAULTS)}"
            )
        if key in ONLY and value != ONLY[key]:
            raise CovariumError(f"{key} = {value!r} is not supported by the official code; only {ONLY[key]!r} is")
    a = DEFAULTS | {k: v for k, v in constructor.items() if k not in DEAD}
    if len(a["lmax_list"]) != 1 or len(a["mmax_list"]) != 1:
        raise CovariumError(
            f"one resolution is supported, got lmax_list {a['lmax_list']} and mmax_list {a['mmax_list']}"
        )
    attention = "gate" if a["use_gate_act"] else "separable_s2" if a["use_sep_s2_act"] else "s2"
    if a["use_grid_mlp"]:
        feed_forward = "separable_grid_mlp" if a["use_sep_s2_act"] else "grid_mlp"
    else:
        feed_forward = attention
    tables = "shared" if a["share_atom_edge_embedding"] else "per_block"
    return Config.published(
        lmax=a["lmax_list"][0],
        mmax=a["mmax_list"][0],
        cutoff=a["max_radius"],
        max_neighbours=a["max_neighbors"],
        num_distance_basis=NUM_GAUSSIANS,
        attn_activation=attention,
        ffn_activation=feed_forward,
        radial_weights="per_degree" if a["use_m_share_rad"] else "per_order",
        atom_edge_embedding=tables if a["use_atom_edge_embedding"] else "none",
        attn_renorm=a["use_attn_renorm"],
        force_head=a["regress_forces"],
        avg_degree=a["avg_degree"] or AVG_DEGREE,
        avg_num_nodes=a["avg_num_nodes"] or AVG_NUM_NODES,
        neighbours="nearest" if a["enforce_max_neighbors_strictly"] else "nearest_with_ties",
        **{key: a[key] for key in SAME},
    )


# grids, index maps and constants, repeated under every sub-module
BUFFERS = re.compile(
    r"(.*\.)?((SO3_grid|SO3_rotation|mappingReduced)\..*|expand_index|balance_degree_weight)|distance_expansion\.offset"
)


def parameters_from_official(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of an official state dict, whose names are ours; its many repeated buffers are left behind.
    Arguments and errors: see ``names.placed``.
    """
    return placed(state, expected, lambda name, _: is_buffer(name))


def is_buffer(name: str) -> bool:
    """Whether an official name is that of a constant."""
    return BUFFERS.fullmatch(name) is not None

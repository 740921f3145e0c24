"""Official EquiformerV3 (atomicarchitects/equiformer_v3, commit a7300c5): constructor arguments and parameter names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from covarium.errors import CovariumError, nearest
from covarium.layers.irreps.activation import POINTS, product
from covarium.models.equiformer_v3 import Config
from covarium.pretrained.names import placed

CLASSES = ("equiformer_v3", "equiformer_v3_dens")
DEFAULTS: dict[str, Any] = dict(
    regress_forces=True, regress_stress=False, direct_prediction=True, max_neighbors=20, max_radius=12.0,
    num_radial_basis=600, max_num_elements=128, num_layers=12, num_channels=128, attn_hidden_channels=64, num_heads=8,
    attn_alpha_channels=32, attn_value_channels=16, ffn_hidden_channels=128, norm_type="merge_layer_norm", lmax=6,
    mmax=2, attn_grid_resolution_list=[20, 8], ffn_grid_resolution_list=[20, 20], edge_channels=128,
    use_atom_edge_embedding=True, use_envelope=True, attn_activation="sep-merge_gates2_swiglu", use_attn_renorm=True,
    use_add_merge=False, use_rad_l_parametrization=True, softcap=None, attn_eps=1e-16,
    ffn_activation="sep-merge_gates2_swiglu", use_grid_mlp=True, use_gate_force_head=True, alpha_drop=0.0,
    attn_mask_rate=0.0, attn_weights_drop=0.1, value_drop=0.0, drop_path_rate=0.05, proj_drop=0.0, ffn_drop=0.0,
    avg_num_nodes=77.81317, avg_degree=23.395238876342773, enforce_max_neighbors_strictly=True,
)  # fmt: skip
DEAD = {"use_pbc", "use_pbc_single", "otf_graph", "gradient_checkpointing_block_list", "use_head_reg"}
# dropouts that no published configuration uses (the first also changes an activation)
ONLY = {"alpha_drop": 0.0, "attn_mask_rate": 0.0, "value_drop": 0.0, "ffn_drop": 0.0}
SAME = (
    "num_layers", "num_channels", "attn_hidden_channels", "num_heads", "attn_alpha_channels", "attn_value_channels",
    "ffn_hidden_channels", "edge_channels", "lmax", "mmax", "max_num_elements", "num_radial_basis", "softcap",
    "attn_eps", "use_grid_mlp", "avg_degree", "avg_num_nodes", "attn_weights_drop", "drop_path_rate", "proj_drop",
)  # fmt: skip
NORMS = {
    "equivariant_layer_norm": ("equivariant_layer_norm", "layer_norm"),
    "sep_layer_norm": ("sep_layer_norm", "layer_norm"),
    "merge_layer_norm": ("merge_layer_norm", "layer_norm"),
    "merge_layer_norm_attn_rms_norm": ("merge_layer_norm", "float32_rms_norm"),
    "merge_rms_norm": ("merge_rms_norm", "float32_rms_norm"),
}
BUFFERS = (
    "distance_expansion.", "so3_rotation.", "so3_grid.", "expand_index", "balance_degree_weight",
    "zero_padded_change_matrix",
)  # fmt: skip


def config_from_official(constructor: Mapping[str, Any], model_class: str = "equiformer_v3") -> Config:
    """Our Config of an official constructor call. Arguments that are dead in the official code are ignored.

    Args:
        constructor: official arguments; those that are missing have their official defaults.
        model_class: ``equiformer_v3``, or ``equiformer_v3_dens`` for the class that denoises.

    Raises:
        CovariumError: an unknown class, argument or value, or one that the official code cannot run.
    """
    if model_class not in CLASSES:
        raise CovariumError(f"model class '{model_class}' is not one of {', '.join(CLASSES)}")
    for key, value in constructor.items():
        if key not in DEFAULTS and key not in DEAD:
            raise CovariumError(
                f"EquiformerV3 has no argument '{key}'{nearest(key, DEFAULTS)}; known: {', '.join(DEFAULTS)}"
            )
        if key in ONLY and value != ONLY[key]:
            raise CovariumError(f"{key} = {value!r} is not supported; published models have {ONLY[key]!r}")
    a = DEFAULTS | {k: v for k, v in constructor.items() if k not in DEAD}
    if a["norm_type"] not in NORMS:
        raise CovariumError(f"norm_type '{a['norm_type']}' is not one of {', '.join(NORMS)}")
    norm_type, attn_norm = NORMS[a["norm_type"]]
    # the RMS norm takes the place of whatever is there
    attn_norm = attn_norm if a["use_attn_renorm"] or "rms" in attn_norm else "none"
    denoising = model_class == "equiformer_v3_dens"
    head = "gate" if a["use_gate_force_head"] else "sep_s2"
    if denoising and head != "gate":
        raise CovariumError("denoising with use_gate_force_head = False is not supported; published models have True")
    direct = a["direct_prediction"]
    fields: dict[str, Any] = dict(
        cutoff=a["max_radius"],
        neighbours="nearest" if a["enforce_max_neighbors_strictly"] else "nearest_with_ties",
        max_neighbours=a["max_neighbors"],
        norm_type=norm_type,
        attn_norm=attn_norm,
        attn_activation=_kernel(a["attn_activation"]),
        ffn_activation=_kernel(a["ffn_activation"]),
        envelope="polynomial" if a["use_envelope"] else "none",
        radial_weights="per_degree" if a["use_rad_l_parametrization"] else "per_order",
        atom_edge_embedding=a["use_atom_edge_embedding"],
        add_merge=a["use_add_merge"],
        attn_shift="logit",
        force_head=head if direct and a["regress_forces"] else "none",
        stress_head=direct and a["regress_stress"],
        denoising=denoising,
        **{key: a[key] for key in SAME},
    )
    return Config(**fields, **_grids(a, fields))


def _kernel(name: str) -> str:
    """The activation without ``_mem``, which recomputes the same numbers.

    Raises:
        CovariumError: unknown, or one whose recomputing form is broken in the official code.
    """
    plain = name.removesuffix("_mem")
    if plain not in (*POINTS, "gate"):
        raise CovariumError(f"activation '{name}' is not one of gate, {', '.join(POINTS)}")
    if plain != name and "-merge" not in name:
        raise CovariumError(f"activation '{name}' cannot run in the official code; use '{plain}'")
    return plain


def _grids(a: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Gauss–Legendre where it projects as the official grid does: products, on a grid that integrates them exactly."""
    (n_beta, n_alpha), (m_beta, m_alpha) = a["attn_grid_resolution_list"], a["ffn_grid_resolution_list"]
    high, cut = 3 * a["lmax"], 3 * a["mmax"]
    exact = min(n_beta, m_beta, m_alpha) > high and n_alpha > cut
    used = (fields["attn_activation"], fields["ffn_activation"], fields["force_head"])
    if exact and all(kernel in ("gate", "none") or POINTS[kernel] is product for kernel in used):
        return {"grid": "gauss_legendre"}
    return {"grid": "equal_angle", "attn_grid": (n_beta, n_alpha), "ffn_grid": (m_beta, m_alpha)}


def official_name(name: str, config: Config) -> str:
    """The official name of one of our parameters."""
    name = name.replace(".so2_m_conv.", ".so2_m_linear.")
    silu = config.ffn_activation in ("s2", "sep_s2")
    if ".ffn." in name and silu:
        name = name.replace("scalar_mlp.0.linear.", "scalar_mlp.0.")
        for ours, place in (("1", "0"), ("mid", "3"), ("2", "6")):
            name = name.replace(f"grid_mlp.grid_linear_{ours}.", f"grid_mlp.{place}.")
    elif ".ffn." in name and config.ffn_activation != "sep-merge_gates2_swiglu":
        name = name.replace("grid_mlp.grid_linear_1.", "grid_mlp.0.linear.")
        name = name.replace("grid_mlp.grid_linear_2.", "grid_mlp.2.")
    return name


def parameters_from_official(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: Config
) -> dict[str, Tensor]:
    """The parameters of an official state dict under our names; its many repeated buffers are left behind.
    ``config`` is the model's; other arguments and errors: see ``names.placed``.
    """
    return placed(
        state, expected, lambda name, _: any(part in name for part in BUFFERS), lambda name: official_name(name, config)
    )

"""EquiformerV2 with every value of every switch."""

from dataclasses import replace
from typing import Any

from contract_case import Case

from covarium.models import EquiformerV2Config

TINY = EquiformerV2Config(
    num_layers=2, sphere_channels=8, attn_hidden_channels=8, num_heads=2, attn_alpha_channels=4, attn_value_channels=4,
    ffn_hidden_channels=8, edge_channels=8, num_distance_basis=16, lmax=2, mmax=2, cutoff=4.0, max_num_elements=10,
    avg_degree=6.0,
)  # fmt: skip
S2 = {"attn_activation": "separable_s2", "ffn_activation": "separable_grid_mlp"}
PUBLISHED = {
    "grid": "equal_angle",
    "grid_resolution": 18,
    "radial_weights": "per_order",
    "norm_type": "layer_norm_sh",
    "lmax": 4,
    "mmax": 2,
}


def _v2(name: str, rotation: float = 1e-10, smooth: bool = True, forces: str = "gradient", **fields: Any) -> Case:
    return Case(name, "equiformer_v2", replace(TINY, **fields), rotation, smooth, forces)


VARIANTS = [
    _v2("tiny"),
    _v2("layer_norm", norm_type="layer_norm", lmax=3, mmax=1),
    _v2("layer_norm_sh", norm_type="layer_norm_sh", radial_weights="per_order", lmax=3, mmax=2),
    _v2("mmax_0", mmax=0, atom_edge_embedding="none"),
    _v2("lmax_1", lmax=1, mmax=1, atom_edge_embedding="shared"),
    _v2("per_order_mmax_0", mmax=0, radial_weights="per_order"),
    _v2("no_renorm_normal", attn_renorm=False, weight_init="normal"),
    _v2("no_envelope", envelope="none", smooth=False),
    _v2("direct", force_head=True, forces="direct"),
    _v2("nearest", neighbours="nearest", max_neighbours=5, smooth=False),
    _v2("nearest_with_ties", neighbours="nearest_with_ties", max_neighbours=5, smooth=False),
    _v2("dropouts", alpha_drop=0.2, drop_path_rate=0.3, proj_drop=0.2),
    # SiLU on a grid: exact when the grid is fine enough, else about five times what these weights show
    _v2("fine_grid", grid_resolution=40, num_layers=1, **S2),
    _v2("s2", attn_activation="s2", ffn_activation="s2", rotation=2e-3),
    _v2("separable_s2", attn_activation="separable_s2", ffn_activation="separable_s2", rotation=2e-3),
    _v2("grid_mlp", attn_activation="gate", ffn_activation="grid_mlp", rotation=2e-4),
    _v2("published_grid", rotation=5e-3, **S2, **PUBLISHED),
    _v2("published", rotation=1e-3, smooth=False, envelope="none", force_head=True, forces="direct", **S2, **PUBLISHED),
]

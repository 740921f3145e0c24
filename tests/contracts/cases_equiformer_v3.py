"""EquiformerV3 with every value of every switch."""

from dataclasses import replace
from typing import Any

from contract_case import Case

from covarium.models import EquiformerV3Config

TINY = EquiformerV3Config(
    num_layers=2, num_channels=8, attn_hidden_channels=4, num_heads=2, attn_alpha_channels=4, attn_value_channels=4,
    ffn_hidden_channels=8, edge_channels=8, num_radial_basis=16, lmax=2, mmax=2, cutoff=4.0, max_num_elements=10,
    avg_degree=6.0,
)  # fmt: skip
NO_MLP = {"use_grid_mlp": False}


def _v3(name: str, rotation: float = 1e-10, smooth: bool = True, forces: str = "gradient", **fields: Any) -> Case:
    return Case(f"v3-{name}", "equiformer_v3", replace(TINY, **fields), rotation, smooth, forces)


def _both(kernel: str) -> dict[str, Any]:
    return {"attn_activation": kernel, "ffn_activation": kernel, "num_layers": 1}


VARIANTS = [
    _v3("tiny"),
    _v3("l4_m2", lmax=4),
    _v3("merge_rms_norm", norm_type="merge_rms_norm", attn_norm="rms_norm", lmax=3, mmax=1),
    _v3("sep_layer_norm", norm_type="sep_layer_norm", radial_weights="per_order", lmax=3),
    _v3("equivariant_layer_norm", norm_type="equivariant_layer_norm", attn_norm="none", mmax=0),
    # a quotient rounded to float32 is as exact as that
    _v3("float32_rms_norm", rotation=1e-5, smooth=False, attn_norm="float32_rms_norm"),
    _v3("gates", attn_activation="gate", ffn_activation="gate", atom_edge_embedding=False, **NO_MLP),
    _v3("products", **_both("sep_s2_square")),
    _v3("no_grid_mlp", add_merge=True, softcap=2.0, **NO_MLP),
    _v3("official_softmax", attn_shift="logit", attn_eps=1e-8),
    _v3("published_grid", grid="equal_angle", attn_grid=(8, 8), ffn_grid=(8, 8)),
    _v3("no_envelope", envelope="none", smooth=False),
    _v3("nearest", neighbours="nearest", max_neighbours=5, smooth=False),
    _v3("nearest_with_ties", neighbours="nearest_with_ties", max_neighbours=5, smooth=False),
    _v3("direct", force_head="gate", stress_head=True, forces="direct"),
    _v3("direct_sep_s2", force_head="sep_s2", forces="direct", rotation=2e-3),
    _v3("denoising", denoising=True),
    _v3("dropouts", attn_weights_drop=0.2, drop_path_rate=0.3, proj_drop=0.2),
    # SiLU on a grid: about five times what these weights show
    *[_v3(kernel, rotation=2e-3, **_both(kernel)) for kernel in ("s2", "sep_s2", "s2_swiglu", "sep_s2_swiglu")],
    _v3("sep-merge_s2_swiglu", rotation=2e-3, **_both("sep-merge_s2_swiglu"), **NO_MLP),
]

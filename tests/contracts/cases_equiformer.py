"""Equiformer with every value of every switch, under SE(3) and E(3)."""

from dataclasses import replace
from typing import Any

from contract_case import Case

from covarium.models import EquiformerConfig

TINY = EquiformerConfig(
    num_layers=2, irreps_node="8x0e+4x1e+2x2e", irreps_feature="8x0e", irreps_head="4x0e+2x1e+2x2e", num_heads=2,
    irreps_mlp="8x0e+4x1e+4x2e", num_basis=8, radial_channels=(8, 8), cutoff=4.0, max_num_elements=10, avg_degree=6.0,
)  # fmt: skip
E3 = {
    "irreps_node": "8x0e+2x0o+2x1e+4x1o+2x2e+2x2o",
    "irreps_sh": "1x0e+1x1o+1x2e",
    "irreps_head": "4x0e+2x0o+2x1e+2x1o+2x2e+2x2o",
    "irreps_mlp": "8x0e+4x0o+4x1e+4x1o+4x2e+4x2o",
}
L3 = {
    "irreps_node": "8x0e+4x1e+2x2e+2x3e",
    "irreps_sh": "1x0e+1x1e+1x2e+1x3e",
    "irreps_head": "4x0e+2x1e+2x2e+2x3e",
    "irreps_mlp": "8x0e+4x1e+4x2e+2x3e",
}


def _v1(name: str, smooth: bool = True, local: bool = True, **fields: Any) -> Case:
    return Case(f"v1_{name}", "equiformer", replace(TINY, **fields), smooth=smooth, local=local)


VARIANTS = [
    _v1("tiny"),
    _v1("e3", num_layers=3, **E3),
    _v1("l3", **L3),
    _v1("layer_norm", norm_type="layer"),
    _v1("e3_layer_norm", norm_type="layer", **E3),
    _v1("linear", attention="linear_mlp", basis="gaussian"),
    _v1("dot_product", attention="linear_dot_product", basis="bessel", rescale_degree=True),
    _v1("dot_product_e3", attention="linear_dot_product", **E3),
    _v1("graph_norm", norm_type="graph", local=False, num_layers=1),
    _v1("instance_norm", norm_type="instance", local=False, num_layers=1),
    _v1("rescaled", rescale_degree=True, irreps_pre_attn="6x0e+3x1e+2x2e", basis="gaussian", energy_scale=1.7),
    _v1("attention_head", energy_head="attention", irreps_feature="8x0e+4x1e+2x2e"),
    _v1("auxiliary_head", auxiliary_head=True, irreps_feature="8x0e+4x1e", num_tags=3),
    _v1("auxiliary_head_e3", auxiliary_head=True, irreps_feature="8x0e+4x1o", **E3),
    _v1("attributes", node_attributes=3, edge_attributes=3, elements=(1, 6, 8, 7)),
    _v1("one_block", num_layers=1, irreps_head="4x0e"),
    _v1("no_envelope", envelope="none", smooth=False),
    _v1("no_envelope_dot_product", envelope="none", smooth=False, attention="linear_dot_product", basis="gaussian"),
    _v1("dropouts", alpha_drop=0.2, drop_path_rate=0.3, proj_drop=0.2, out_drop=0.1),
]

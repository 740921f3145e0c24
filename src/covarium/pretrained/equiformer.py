"""Official Equiformer (atomicarchitects/equiformer, commit 64cb786): constructor arguments and parameter names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from covarium.algebra.irreps import Irreps
from covarium.errors import CovariumError, nearest
from covarium.models.equiformer import Config
from covarium.pretrained.names import placed

# element tables, and mean neighbours and atoms, which the code fixes per data set
MD17: Mapping[str, Any] = MappingProxyType(
    dict(max_num_elements=64, avg_degree=15.57930850982666, avg_num_nodes=18.03065905448718)
)
QM9: Mapping[str, Any] = MappingProxyType({**MD17, "max_num_elements": 10, "elements": (1, 6, 7, 8, 9)})
OC20: Mapping[str, Any] = MappingProxyType(
    dict(max_num_elements=84, num_tags=3, avg_degree=23.395238876342773, avg_num_nodes=77.81317)
)
CLASSES: Mapping[str, tuple[Mapping[str, Any], bool]] = MappingProxyType(
    {
        "GraphAttentionTransformerMD17": (MD17, False),
        "GraphAttentionTransformer": (QM9, False),
        "GraphAttentionTransformerOC20": (OC20, False),
        "DotProductAttentionTransformerMD17": (MD17, True),
        "DotProductAttentionTransformer": (QM9, True),
        "DotProductAttentionTransformerOC20": (OC20, True),
    }
)
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    dict(
        irreps_node_embedding="128x0e+64x1e+32x2e", num_layers=6, irreps_node_attr="1x0e", use_node_attr=False,
        irreps_sh="1x0e+1x1e+1x2e", max_radius=5.0, number_of_basis=128, basis_type="gaussian", fc_neurons=(64, 64),
        use_atom_edge_attr=False, irreps_atom_edge_attr="1x0e", irreps_feature="512x0e",
        irreps_head="32x0e+16x1o+8x2e", num_heads=4, irreps_pre_attn=None, rescale_degree=False,
        nonlinear_message=False, irreps_mlp_mid="128x0e+64x1e+32x2e", use_attn_head=False, use_attention_head=False,
        norm_layer="layer", alpha_drop=0.2, proj_drop=0.0, out_drop=0.0, drop_path_rate=0.0, scale=None,
        use_auxiliary_task=False,
    )
)  # fmt: skip
# stored for the training scripts, or dead; atomref and the target's mean and std belong to the energy, not the model
IGNORED = frozenset(
    ("irreps_in", "mean", "std", "atomref", "num_atoms", "bond_feat_dim", "otf_graph", "use_pbc", "max_neighbors")
)
_L2 = dict(
    irreps_node_embedding="128x0e+64x1e+32x2e", irreps_head="32x0e+16x1e+8x2e", irreps_mlp_mid="384x0e+192x1e+96x2e"
)
_L3 = dict(
    irreps_node_embedding="128x0e+64x1e+64x2e+32x3e", irreps_sh="1x0e+1x1e+1x2e+1x3e",
    irreps_head="32x0e+16x1e+16x2e+8x3e", irreps_mlp_mid="384x0e+192x1e+192x2e+96x3e",
)  # fmt: skip
_E3 = dict(
    irreps_node_embedding="128x0e+32x0o+32x1e+32x1o+16x2e+16x2o", irreps_sh="1x0e+1x1o+1x2e",
    irreps_head="32x0e+8x0o+8x1e+8x1o+4x2e+4x2o", irreps_mlp_mid="384x0e+96x0o+96x1e+96x1o+48x2e+48x2o",
)  # fmt: skip
_EXP = dict(basis_type="exp", number_of_basis=32, alpha_drop=0.0)
# registered names of the MD17 and QM9 scripts: class and arguments
NAMED: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "graph_attention_transformer_l2": ("GraphAttentionTransformer", _L2),
        "graph_attention_transformer_nonlinear_l2": ("GraphAttentionTransformer", {**_L2, "nonlinear_message": True}),
        "graph_attention_transformer_nonlinear_l2_e3": (
            "GraphAttentionTransformer", {**_E3, "nonlinear_message": True},
        ),
        "graph_attention_transformer_nonlinear_bessel_l2_drop00": (
            "GraphAttentionTransformer",
            {**_L2, "nonlinear_message": True, "basis_type": "bessel", "number_of_basis": 8, "alpha_drop": 0.0},
        ),
        "dot_product_attention_transformer_l2": ("DotProductAttentionTransformer", _L2),
        "graph_attention_transformer_nonlinear_exp_l2_md17": (
            "GraphAttentionTransformerMD17", {**_L2, **_EXP, "nonlinear_message": True},
        ),
        "graph_attention_transformer_nonlinear_exp_l3_md17": (
            "GraphAttentionTransformerMD17", {**_L3, **_EXP, "nonlinear_message": True},
        ),
        "dot_product_attention_transformer_exp_l2_md17": ("DotProductAttentionTransformerMD17", {**_L2, **_EXP}),
    }
)  # fmt: skip


def config_of_named(model_name: str) -> Config:
    """Our Config of a model by its registered name.

    Raises:
        CovariumError: an unknown name.
    """
    if model_name not in NAMED:
        raise CovariumError(
            f"Equiformer has no model '{model_name}'{nearest(model_name, NAMED)}; known: {', '.join(NAMED)}"
        )
    return config_from_official(*NAMED[model_name])


def config_from_official(class_name: str, constructor: Mapping[str, Any]) -> Config:
    """Our Config of an official constructor call.

    Args:
        class_name: the class decides the data set's constants and the kind of attention.
        constructor: its arguments; those that the code never reads are ignored.

    Raises:
        CovariumError: an unknown class or argument, or a value that the official code does not support.
    """
    if class_name not in CLASSES:
        raise CovariumError(
            f"Equiformer has no class '{class_name}'{nearest(class_name, CLASSES)}; known: {', '.join(CLASSES)}"
        )
    constants, dot_product = CLASSES[class_name]
    for key in constructor:
        if key not in DEFAULTS and key not in IGNORED and key != "num_targets":
            raise CovariumError(
                f"Equiformer has no argument '{key}'{nearest(key, DEFAULTS)}; known: {', '.join(DEFAULTS)}"
            )
    if constructor.get("num_targets", 1) != 1:
        raise CovariumError(f"num_targets = {constructor['num_targets']} is not supported; only 1 is")
    a = {**DEFAULTS, **{k: v for k, v in constructor.items() if k in DEFAULTS}}
    norms = {"layer": "layer", "fast_layer": "layer", "graph": "graph", "instance": "instance"}
    if a["norm_layer"] not in norms:
        raise CovariumError(f"norm_layer = {a['norm_layer']!r} is not supported; known: {', '.join(norms)}")
    linear = "linear_dot_product" if dot_product else "linear_mlp"
    config = Config.published(
        num_layers=a["num_layers"],
        irreps_node=a["irreps_node_embedding"],
        irreps_sh=a["irreps_sh"],
        irreps_feature=a["irreps_feature"],
        irreps_head=a["irreps_head"],
        num_heads=a["num_heads"],
        irreps_pre_attn=a["irreps_pre_attn"],
        irreps_mlp=a["irreps_mlp_mid"],
        cutoff=a["max_radius"],
        basis=a["basis_type"],
        num_basis=a["number_of_basis"],
        radial_channels=tuple(a["fc_neurons"]),
        attention="nonlinear_mlp" if a["nonlinear_message"] and not dot_product else linear,
        norm_type=norms[a["norm_layer"]],
        rescale_degree=a["rescale_degree"],
        energy_head="attention" if a["use_attn_head"] or a["use_attention_head"] else "mlp",
        auxiliary_head=a["use_auxiliary_task"],
        node_attributes=Irreps.parse(a["irreps_node_attr"]).channels if a["use_node_attr"] else 0,
        edge_attributes=Irreps.parse(a["irreps_atom_edge_attr"]).channels if a["use_atom_edge_attr"] else 0,
        energy_scale=1.0 if a["scale"] is None else a["scale"],
        **{key: a[key] for key in ("alpha_drop", "proj_drop", "out_drop", "drop_path_rate")},
        **constants,
    )
    if Irreps.parse(config.irreps_sh).lmax > 3:
        raise CovariumError(
            f"irreps_sh = '{config.irreps_sh}': beyond degree 3 the signs of e3nn 0.4's coupling coefficients, which "
            "official weights belong to, are arbitrary and not reproduced here"
        )
    return config


# constants of e3nn and of the radial basis, and the targets' statistics
BUFFERS = re.compile(r"(.*\.)?(output_mask|_w3j_\d+_\d+_\d+)|rbf\.(means|betas)|atomref|task_mean|task_std")


def parameters_from_official(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of an official state dict, whose names are ours; buffers, and the empty weights of products that
    have none, are left behind. Arguments and errors: see ``names.placed``.
    """
    return placed(state, expected, lambda name, value: value.numel() == 0 or BUFFERS.fullmatch(name) is not None)

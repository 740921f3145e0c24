"""Names, shapes, counts and decay of all published Equiformers, and the translation of their arguments."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from covarium.config import build
from covarium.errors import CovariumError
from covarium.models import Equiformer, EquiformerConfig
from covarium.models.equiformer import Config
from covarium.pretrained.equiformer import NAMED, config_from_official, config_of_named, parameters_from_official
from covarium.workflows.configuring import configure

LISTED: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parent / "equiformer" / "official_params.json.gz").read_bytes())
)
L2 = dict(irreps_head="32x0e+16x1e+8x2e")


def config_of(name: str) -> Config:
    arguments = dict(LISTED[name]["constructor"])
    if "model_name" in arguments:
        return config_of_named(arguments["model_name"])
    return config_from_official(arguments.pop("class_"), arguments)


@pytest.mark.parametrize("name", LISTED)
def test_published_parameters(name: str) -> None:
    listed = LISTED[name]
    with torch.device("meta"):
        model = Equiformer(config_of(name))
    shapes = {n: list(p.shape) for n, p in model.named_parameters()}
    assert shapes == listed["parameters"] and list(shapes) == list(listed["parameters"])
    assert sum(p.numel() for p in model.parameters()) == listed["num_params"]
    # its optimiser spares biases beside the listed names
    biases = {n for n in shapes if "bias." in n}
    assert model.no_weight_decay() == set(listed["no_weight_decay"]) | biases
    assert set(model.state_dict()) == set(shapes), "no constants in checkpoints"
    state = {n: torch.empty(s, device="meta") for n, s in (listed["parameters"] | listed["buffers"]).items()}
    taken = parameters_from_official(state, model.state_dict())
    assert list(taken) == list(model.state_dict())


def test_all_named_models_are_listed() -> None:
    assert set(NAMED) == {n for n in LISTED if "model_name" in LISTED[n]["constructor"]}
    assert config_of_named("graph_attention_transformer_nonlinear_exp_l2_md17") == EquiformerConfig.published()


RECIPES = {
    "md17-l2": "graph_attention_transformer_nonlinear_exp_l2_md17",
    "md17-l3": "graph_attention_transformer_nonlinear_exp_l3_md17",
    "md17-l2-dot-product": "dot_product_attention_transformer_exp_l2_md17",
    "qm9": "graph_attention_transformer_nonlinear_l2",
    "qm9-u0": "graph_attention_transformer_nonlinear_bessel_l2_drop00",
    "oc20-is2re": "oc20_graph_attention_transformer__l1_256_nonlinear_g2_local",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_published_models(recipe: str) -> None:
    model = dict(configure(recipe=f"equiformer-{recipe}").model)
    assert model.pop("name") == "equiformer"
    assert build(EquiformerConfig, model) == config_of(RECIPES[recipe])


@pytest.mark.parametrize(("recipe", "drop"), [("r2", 0.1), ("zpve", 0.2)])
def test_targets_that_share_the_model_of_the_energies(recipe: str, drop: float) -> None:
    energies = dict(configure(recipe="equiformer-qm9-u0").model)
    assert dict(configure(recipe=f"equiformer-qm9-{recipe}").model) == energies | {"alpha_drop": drop}


def test_data_sets_and_kinds_of_attention() -> None:
    qm9 = config_from_official("GraphAttentionTransformer", L2)
    assert (qm9.elements, qm9.num_tags, qm9.attention, qm9.basis) == ((1, 6, 7, 8, 9), 0, "linear_mlp", "gaussian")
    oc20 = config_from_official("DotProductAttentionTransformerOC20", L2 | {"nonlinear_message": True})
    assert (oc20.elements, oc20.num_tags, oc20.attention) == (None, 3, "linear_dot_product")
    assert (oc20.max_num_elements, oc20.avg_num_nodes) == (84, 77.81317)
    md17 = config_from_official(
        "GraphAttentionTransformerMD17", L2 | {"nonlinear_message": True, "use_attn_head": True}
    )
    assert (md17.attention, md17.energy_head, md17.max_num_elements) == ("nonlinear_mlp", "attention", 64)
    with_attributes = config_from_official(
        "GraphAttentionTransformerOC20",
        L2 | {"use_node_attr": True, "irreps_node_attr": "4x0e", "use_atom_edge_attr": True,
              "irreps_atom_edge_attr": "3x0e", "norm_layer": "fast_layer", "scale": 2.0},
    )  # fmt: skip
    assert (with_attributes.node_attributes, with_attributes.edge_attributes) == (4, 3)
    assert (with_attributes.norm_type, with_attributes.energy_scale, with_attributes.envelope) == ("layer", 2.0, "none")
    ignored = {"num_atoms": None, "otf_graph": True, "mean": 1.0, "num_targets": 1}
    assert config_from_official("GraphAttentionTransformer", L2 | ignored) == qm9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Transformer", {}), "no class 'Transformer'"),
        (("GraphAttentionTransformer", {"num_layer": 3}), "no argument 'num_layer'; did you mean 'num_layers'"),
        (("GraphAttentionTransformer", {"norm_layer": None}), "norm_layer = None is not supported"),
        (("GraphAttentionTransformerOC20", {"num_targets": 3}), "num_targets = 3 is not supported"),
        (("GraphAttentionTransformer", {}), "irreps_head '32x0e.16x1o.8x2e' has odd irreps"),
        (
            ("GraphAttentionTransformer", {**L2, "irreps_sh": "1x0e+1x1e+1x2e+1x3e+1x4e"}),
            "beyond degree 3 the signs of e3nn 0.4's coupling coefficients",
        ),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        config_from_official(*arguments)
    with pytest.raises(CovariumError, match="no model 'graph_attention_transformer'"):
        config_of_named("graph_attention_transformer")


def test_weights_are_taken_by_name_and_none_is_left_over() -> None:
    expected = {"a.tp.weight": torch.zeros(6), "a.bias.0": torch.zeros(4)}
    state = {
        "a.tp.weight": torch.ones(6), "a.bias.0": torch.ones(4), "a.tp.output_mask": torch.ones(9),
        "b.dtp.tp._compiled_main_left_right._w3j_1_1_2": torch.ones(3, 3, 5), "b.dtp.tp.weight": torch.zeros(0),
        "rbf.means": torch.ones(3), "rbf.betas": torch.ones(3),
    }  # fmt: skip
    taken = parameters_from_official(state, expected)
    assert taken.keys() == expected.keys() and all(bool(t.all()) for t in taken.values())
    with pytest.raises(CovariumError, match="lack 'a.bias.0'"):
        parameters_from_official({"a.tp.weight": torch.ones(6)}, expected)
    with pytest.raises(CovariumError, match=r"'a.bias.0' has shape \(5,\), expected \(4,\)"):
        parameters_from_official(state | {"a.bias.0": torch.ones(5)}, expected)
    with pytest.raises(CovariumError, match="hold 'c.tp.weight', which this model lacks"):
        parameters_from_official(state | {"c.tp.weight": torch.ones(5)}, expected)

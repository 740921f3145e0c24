"""Names, shapes, counts and decay lists of the published EquiformerV2, and the translation of its arguments."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from covarium.errors import CovariumError
from covarium.models import EquiformerV2, EquiformerV2Config
from covarium.pretrained.equiformer_v2 import config_from_official, parameters_from_official

HERE = Path(__file__).parent / "equiformer_v2"
COUNTS = {"31M": 31_058_690, "83M": 83_164_802, "153M": 153_602_690}


def official(size: str) -> dict[str, Any]:
    return json.loads((HERE / f"official_{size}_params.json").read_text())


@pytest.mark.parametrize("size", COUNTS)
def test_published_parameters(size: str) -> None:
    listed = official(size)
    with torch.device("meta"):
        model = EquiformerV2(config_from_official(listed["constructor"]))
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    assert shapes == listed["parameters"]
    assert sum(p.numel() for p in model.parameters()) == listed["n_params"] == COUNTS[size]
    assert model.no_weight_decay() == set(listed["no_weight_decay"])
    assert set(model.state_dict()) == set(shapes), "no constants in checkpoints"


def test_published_is_the_31m_model() -> None:
    theirs = config_from_official(official("31M")["constructor"])
    assert EquiformerV2Config.published() == theirs
    assert EquiformerV2Config.published(alpha_drop=0.0) != theirs


def test_a_new_model_is_smooth_exact_and_conservative() -> None:
    config = EquiformerV2Config()
    assert (config.envelope, config.neighbours, config.force_head) == ("polynomial", "all", False)
    assert (config.attn_activation, config.ffn_activation) == ("gate", "gate")


def test_arguments_of_the_official_constructor() -> None:
    config = config_from_official({})
    assert (config.lmax, config.mmax, config.num_layers, config.cutoff) == (6, 2, 12, 5.0)
    assert (config.norm_type, config.attn_activation, config.ffn_activation) == (
        "rms_norm_sh", "separable_s2", "separable_s2",
    )  # fmt: skip
    assert (config.weight_init, config.max_neighbours, config.neighbours) == ("normal", 500, "nearest")
    dead = {
        "num_sphere_samples": 1,
        "num_distance_basis": 3,
        "attn_activation": "x",
        "ffn_activation": "y",
        "otf_graph": False,
    }
    assert config_from_official(dead) == config


@pytest.mark.parametrize(
    ("arguments", "attention", "feed_forward"),
    [
        ({"use_gate_act": True, "use_sep_s2_act": True}, "gate", "gate"),
        ({"use_gate_act": True, "use_grid_mlp": True}, "gate", "separable_grid_mlp"),
        ({"use_gate_act": True, "use_grid_mlp": True, "use_sep_s2_act": False}, "gate", "grid_mlp"),
        ({"use_sep_s2_act": False}, "s2", "s2"),
        ({"use_grid_mlp": True}, "separable_s2", "separable_grid_mlp"),
    ],
)
def test_precedence_of_switches(arguments: dict[str, bool], attention: str, feed_forward: str) -> None:
    config = config_from_official(arguments)
    assert (config.attn_activation, config.ffn_activation) == (attention, feed_forward)


def test_element_tables_and_radial_weights() -> None:
    tables = [
        config_from_official(arguments).atom_edge_embedding
        for arguments in ({}, {"share_atom_edge_embedding": True}, {"use_atom_edge_embedding": False})
    ]
    assert tables == ["per_block", "shared", "none"]
    assert config_from_official({"use_m_share_rad": True}).radial_weights == "per_degree"
    assert config_from_official({}).radial_weights == "per_order"
    assert not config_from_official({"regress_forces": False}).force_head


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layer": 3}, "no argument 'num_layer'; did you mean 'num_layers'"),
        ({"distance_function": "sigmoid"}, "distance_function = 'sigmoid' is not supported.*'gaussian'"),
        ({"use_s2_act_attn": True}, "use_s2_act_attn = True is not supported"),
        ({"lmax_list": [6, 4], "mmax_list": [2, 2]}, "one resolution is supported"),
        ({"lmax_list": [2], "mmax_list": [3]}, r"mmax must lie in 0..lmax = 2, got 3"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        config_from_official(arguments)


def test_weights_are_taken_by_name() -> None:
    expected = {"a.weight": torch.zeros(2, 3), "b": torch.zeros(4)}
    state = {
        "a.weight": torch.ones(2, 3),
        "b": torch.ones(4),
        "a.expand_index": torch.ones(9),
        "blocks.0.SO3_grid.1.1.mapping.to_m": torch.ones(1),
    }
    taken = parameters_from_official(state, expected)
    assert taken.keys() == expected.keys() and all(bool(t.all()) for t in taken.values())
    with pytest.raises(CovariumError, match="lack 'b'"):
        parameters_from_official({"a.weight": torch.ones(2, 3)}, expected)
    with pytest.raises(CovariumError, match=r"'b' has shape \(5,\), expected \(4,\)"):
        parameters_from_official(state | {"b": torch.ones(5)}, expected)
    with pytest.raises(CovariumError, match="hold 'blocks.9.w' and 1 more, which this model lacks"):
        parameters_from_official(state | {"blocks.9.w": torch.ones(1), "c.expand_index.w": torch.ones(1)}, expected)

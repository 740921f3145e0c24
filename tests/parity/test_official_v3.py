"""Names, shapes, counts and decay lists of the published EquiformerV3, and the translation of its arguments."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from covarium.config import build
from covarium.errors import CovariumError
from covarium.models import EquiformerV3, EquiformerV3Config
from covarium.pretrained.equiformer_v3 import config_from_official, official_name, parameters_from_official
from covarium.workflows.configuring import configure

HERE = Path(__file__).parent / "equiformer_v3"
LISTS = sorted(HERE.glob("official_*.json"))
COUNTS = {
    "oc20_2m_direct_N8_L6": 91_390_274,
    "mptrj_direct_dens_N7_L4": 34_859_044,
    "omat24_gradient_N7_L6": 48_841_313,
}


def squeezed(shape: list[int]) -> list[int]:
    """The official bias of degree 0 is [1, 1, C]."""
    return shape[2:] if shape[:2] == [1, 1] and len(shape) == 3 else shape


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_published_parameters(file: Path) -> None:
    listed = json.loads(file.read_text())
    config = config_from_official(listed["constructor"], listed["model_class"])
    with torch.device("meta"):
        model = EquiformerV3(config)
    shapes = {official_name(name, config): list(p.shape) for name, p in model.named_parameters()}
    assert shapes == {name: squeezed(shape) for name, shape in listed["parameters"]}
    count = COUNTS[file.stem.removeprefix("official_")]
    assert sum(p.numel() for p in model.parameters()) == listed["num_params"] == count
    assert {official_name(name, config) for name in model.no_weight_decay()} == set(listed["no_weight_decay"])
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}, "no constants in checkpoints"
    # and back: a whole official state dict, buffers and prefixes included, leaves nothing over
    state = {name: torch.empty(shape, device="meta") for name, shape in listed["parameters"]}
    state |= {name: torch.empty(1) for name in listed["buffers"]}
    taken = parameters_from_official(state, model.state_dict(), config)
    assert {name: t.shape for name, t in taken.items()} == {n: p.shape for n, p in model.named_parameters()}


def test_a_new_model_is_smooth_exact_and_conservative() -> None:
    config = EquiformerV3Config()
    assert (config.envelope, config.neighbours, config.force_head) == ("polynomial", "all", "none")
    assert (config.grid, config.attn_activation, config.attn_grid) == (
        "gauss_legendre",
        "sep-merge_gates2_swiglu",
        None,
    )


def test_arguments_of_the_official_constructor() -> None:
    config = config_from_official({})
    assert (config.lmax, config.mmax, config.num_layers, config.cutoff, config.max_neighbours) == (6, 2, 12, 12.0, 20)
    assert (config.force_head, config.stress_head, config.denoising) == ("gate", False, False)
    assert (
        config_from_official({"use_pbc": False, "otf_graph": False, "gradient_checkpointing_block_list": []}) == config
    )
    gradient = config_from_official({"direct_prediction": False, "regress_stress": True})
    assert (gradient.force_head, gradient.stress_head) == ("none", False)
    assert config_from_official({"regress_stress": True}, "equiformer_v3_dens").denoising
    assert config_from_official({"attn_activation": "sep-merge_gates2_swiglu_mem"}) == config
    assert config_from_official({"norm_type": "merge_rms_norm"}).attn_norm == "float32_rms_norm"
    assert config_from_official({"use_attn_renorm": False}).attn_norm == "none"
    assert config_from_official({"enforce_max_neighbors_strictly": False}).neighbours == "nearest_with_ties"


@pytest.mark.parametrize(
    ("recipe", "listed"), [("oc20-2m-v3", "oc20_2m_direct_N8_L6"), ("mptrj-v3", "mptrj_direct_dens_N7_L4")]
)
def test_recipes_are_the_published_models(recipe: str, listed: str) -> None:
    official = json.loads((HERE / f"official_{listed}.json").read_text())
    theirs = config_from_official(official["constructor"], official["model_class"])
    section = dict(configure(recipe=recipe).model)
    assert section.pop("name") == "equiformer_v3"
    ours = build(EquiformerV3Config, section)
    if recipe.startswith("oc20"):
        # energies and forces share a scale here
        assert ours.avg_num_nodes == pytest.approx(77.81317 * 0.5111534595489502 / 24.901469505465872, rel=1e-12)
        ours = replace(ours, avg_num_nodes=theirs.avg_num_nodes)
    assert ours == theirs


@pytest.mark.parametrize(
    ("arguments", "grid"),
    [
        ({}, "gauss_legendre"),
        ({"attn_grid_resolution_list": [20, 6]}, "equal_angle"),  # aliased: only the same grid gives the same numbers
        ({"ffn_grid_resolution_list": [18, 18]}, "equal_angle"),
        ({"attn_activation": "sep_s2"}, "equal_angle"),
        ({"attn_activation": "gate"}, "gauss_legendre"),
        ({"use_gate_force_head": False}, "equal_angle"),
        ({"use_gate_force_head": False, "direct_prediction": False}, "gauss_legendre"),
    ],
)
def test_the_published_grid_is_kept_only_where_numbers_depend_on_it(arguments: dict[str, Any], grid: str) -> None:
    config = config_from_official(arguments)
    assert config.grid == grid
    lists = {"attn_grid_resolution_list": [20, 8], "ffn_grid_resolution_list": [20, 20]} | arguments
    kept = (tuple(lists["attn_grid_resolution_list"]), tuple(lists["ffn_grid_resolution_list"]))
    assert (config.attn_grid, config.ffn_grid) == (kept if grid == "equal_angle" else (None, None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layer": 3}, "no argument 'num_layer'; did you mean 'num_layers'"),
        ({"alpha_drop": 0.1}, "alpha_drop = 0.1 is not supported"),
        ({"norm_type": "layer_norm"}, "norm_type 'layer_norm' is not one of"),
        ({"attn_activation": "s3"}, "activation 's3' is not one of gate"),
        ({"attn_activation": "s2_swiglu_mem"}, "cannot run in the official code; use 's2_swiglu'"),
        ({"lmax": 1, "mmax": 2}, "mmax must lie in 0..lmax = 1, got 2"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        config_from_official(arguments)


def test_weights_are_taken_by_name() -> None:
    config = EquiformerV3Config()
    expected = {"proj.bias": torch.zeros(4), "a.so2_m_conv.0.fc.weight": torch.zeros(2, 3)}
    state = {
        "proj.bias": torch.ones(1, 1, 4),
        "a.so2_m_linear.0.fc.weight": torch.ones(2, 3),
        "ga.so3_rotation.wigner_inv_rescale": torch.ones(1),
    }
    taken = parameters_from_official(state, expected, config)
    assert {n: t.shape for n, t in taken.items()} == {n: t.shape for n, t in expected.items()}
    assert all(bool(t.all()) for t in taken.values())
    with pytest.raises(CovariumError, match="hold 'dens_block.proj.bias', which this model lacks"):
        parameters_from_official(state | {"dens_block.proj.bias": torch.ones(1)}, expected, config)
    with pytest.raises(CovariumError, match=r"'proj.bias' has shape \(1, 1, 5\), expected \(4,\)"):
        parameters_from_official(state | {"proj.bias": torch.ones(1, 1, 5)}, expected, config)
    with pytest.raises(CovariumError, match="lack 'proj.bias'"):
        parameters_from_official({}, expected, config)

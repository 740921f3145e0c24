"""Names, shapes and counts of the published Equivariant Transformers, and the translation of their arguments."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from covarium.errors import CovariumError
from covarium.models import TorchMDET, TorchMDETConfig
from covarium.pretrained.torchmd_et import (
    config_from_official,
    normalisation_from_official,
    parameters_from_official,
    renamed,
)

HERE = Path(__file__).parent / "torchmd_et"
RELEASES = sorted(path.stem for path in HERE.glob("ET-*.json"))


def official(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.json").read_text())


def state(listed: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {f"model.{name}": torch.zeros(shape) for name, shape, _ in listed["state_dict"]}


@pytest.mark.parametrize("name", RELEASES)
def test_every_published_name_finds_its_place(name: str) -> None:
    listed = official(name)
    config = config_from_official(listed["yaml"])
    with torch.device("meta"):
        model = TorchMDET(config)
    taken = parameters_from_official(state(listed), model.state_dict())
    assert {n: t.shape for n, t in taken.items()} == {n: t.shape for n, t in model.state_dict().items()}
    left = set(renamed(state(listed))) - set(taken)
    assert left <= {"mean", "std", "representation_model.distance.box", "prior_model.0.initial_atomref",
                    "prior_model.0.atomref.weight"}  # fmt: skip
    trained = sum(p.numel() for p in model.parameters())
    atomref = 100 if "prior_model.0.atomref.weight" in left and "0.2" in name else 0  # learnt in 0.2.x
    assert trained + atomref == listed["num_trainable"]


def test_recipes_are_the_published_models() -> None:
    for recipe, name in (("md17", "ET-MD17"), ("ani-1", "ET-ANI1"), ("qm9", "ET-QM9")):
        assert TorchMDETConfig.published(recipe) == config_from_official(official(f"{name}_v0.2.4")["yaml"])
        newer = TorchMDETConfig.published(recipe, vector_cutoff=True)
        assert newer == config_from_official(official(f"{name}_v3.1")["yaml"])
    assert TorchMDETConfig.published("spice") == config_from_official(official("ET-SPICE_v3.1")["yaml"])


def test_a_new_model_is_smooth() -> None:
    config = TorchMDETConfig()
    assert config.vector_cutoff and config.vector_epsilon > 0


def test_heads_and_arguments() -> None:
    assert config_from_official({}).output == "equivariant_scalar"
    assert config_from_official({"output_model": "DipoleMoment"}).output == "equivariant_dipole"
    assert config_from_official({"output_model": "ElectronicSpatialExtent"}).output == "spatial_extent"
    assert config_from_official({}, "Scalar").output == "scalar"
    assert config_from_official({"activation": "swish"}).activation == "silu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layer": 3}, "no argument 'num_layer'; did you mean 'num_layers'"),
        ({"model": "tensornet"}, "model = 'tensornet' is not supported; only 'equivariant-transformer'"),
        ({"output_model": "Tensor"}, "output module 'EquivariantTensor' is not supported"),
        ({"activation": "mish"}, "activation = 'mish' is not supported"),
        ({"output_mlp_num_layers": 1}, "output_mlp_num_layers = 1 is not supported; only 0 is"),
        ({"atom_filter": 1}, "atom_filter = 1 is not supported"),
    ],
)
def test_what_is_not_this_model_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        config_from_official(arguments)


def test_weights_from_before_the_fix_and_strangers_are_refused() -> None:
    listed = official("ET-MD17_v0.2.4")
    expected = TorchMDET(config_from_official(listed["yaml"])).state_dict()
    weights = state(listed)
    biased = weights | {"model.representation_model.attention_layers.0.vec_proj.bias": torch.zeros(384)}
    with pytest.raises(CovariumError, match="before 2022-02-21, when biases on vectors broke the equivariance"):
        parameters_from_official(biased, expected)
    with pytest.raises(CovariumError, match="hold 'representation_model.extra', which this model lacks"):
        parameters_from_official(weights | {"model.representation_model.extra": torch.zeros(1)}, expected)
    del weights["model.representation_model.out_norm.bias"]
    with pytest.raises(CovariumError, match="lack 'representation_model.out_norm.bias'"):
        parameters_from_official(weights, expected)


def test_normalisation() -> None:
    weights = {"model.mean": torch.tensor(-3.0), "model.std": torch.tensor(2.0)}
    found = normalisation_from_official({"reduce_op": "mean"}, weights)
    assert (found.mean, found.std, found.references, found.reduce) == (-3.0, 2.0, {}, "mean_with_zero")
    for given in ("Atomref", ["LearnableAtomref"]):
        with pytest.raises(CovariumError, match="lack 'prior_model.0.atomref.weight'"):
            normalisation_from_official({"prior_model": given}, weights)
    weights["prior_model.atomref.weight"] = torch.tensor([[0.0], [-13.5]])
    for given in (
        {"prior_model": "Atomref", "prior_args": {"max_z": 2}},
        {"prior_model": {"Atomref": None}, "prior_args": [{"max_z": 2, "enable": True}]},
        {"prior_model": [{"Atomref": {"enable": False}}], "prior_args": [{"enable": True}]},
    ):
        assert normalisation_from_official(given, weights).references == {0: 0.0, 1: -13.5}
    for given in (
        {"prior_model": [{"Atomref": {"enable": False}}]},
        {"prior_model": ["Atomref"], "prior_args": {"enable": False}},
    ):
        found = normalisation_from_official(given, weights)
        assert (found.references, found.switched_off) == ({}, True)
    with pytest.raises(CovariumError, match="hold 'prior_model.0', and the arguments name no prior"):
        normalisation_from_official({"prior_model": None}, weights)
    with pytest.raises(CovariumError, match="prior model 'ZBL' is not supported"):
        normalisation_from_official({"prior_model": [{"ZBL": {}}]}, weights)

"""A clone compares itself with the published implementations: outputs, features, attention weights, gradients."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from check import FAMILIES, check
from comparison import Comparison, errors, largest
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
CASES = [
    pytest.param(family, folder, id=f"{family}-{folder.name}")
    for family in FAMILIES
    for folder in sorted((HERE / family).iterdir())
    if folder.is_dir()
]


@pytest.mark.parametrize(("family", "folder"), CASES)
def test_equals_the_published_implementation(family: str, folder: Path) -> None:
    passed, line, worst = check(family, folder)
    assert passed, "\n".join([line, *worst])


def test_every_family_has_fixtures_with_gradients() -> None:
    assert {case.values[0] for case in CASES} == set(FAMILIES)
    files = [[f for name in ("grads.safetensors", "param_grads.npz") for f in c.values[1].rglob(name)] for c in CASES]
    assert all(files)


def test_a_wrong_weight_is_noticed(tmp_path: Path) -> None:
    folder = HERE / "equiformer_v2" / "b1_gate_mshare_energy"
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "weights.safetensors")
    weights["blocks.1.ga.alpha_dot"] = weights["blocks.1.ga.alpha_dot"] * (1 + 1e-6)
    save_file(weights, tmp_path / "weights.safetensors")
    passed, line, _ = check("equiformer_v2", tmp_path)
    assert not passed and line.endswith("FAIL")


REFERENCE = {"energy": np.array([-3.0]), "forces": np.array([[0.1, -0.2, 0.3]]), "none": np.zeros((0, 3))}
SPOILT = {
    "missing": {"energy": REFERENCE["energy"]},
    "misshapen": REFERENCE | {"forces": REFERENCE["forces"][0]},
    "nan": REFERENCE | {"forces": np.array([[0.1, np.nan, 0.3]])},
    "off": REFERENCE | {"forces": REFERENCE["forces"] * (1 + 1e-6)},
}


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("place", ["outputs", "gradients", "extra"])
def test_what_is_missing_misshapen_or_no_number_fails(place: str, spoilt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spoilt tensor comes second: a maximum that begins with a good one must not pass over it."""
    good, bad = errors(REFERENCE, REFERENCE, 1e-6), errors(SPOILT[spoilt], REFERENCE, 1e-6)
    assert good == {"energy": 0.0, "forces": 0.0}
    assert bad["energy"] == 0.0 and not bad["forces"] <= 1e-9
    assert math.isinf(bad["forces"]) == (spoilt in ("missing", "misshapen"))
    results = {
        "outputs": Comparison(bad, good, []),
        "gradients": Comparison(good, bad, []),
        "extra": Comparison(good, good, [("short path", largest(bad.values()), 1e-9)]),
    }
    monkeypatch.setitem(FAMILIES, "spoilt", (lambda folder: results[place], 1e-9))
    passed, line, worst = check("spoilt", HERE)
    assert not passed and line.endswith("FAIL")
    assert place == "extra" or "forces" in worst[0 if place == "outputs" else 2]


def test_a_reference_that_is_no_number_fails() -> None:
    broken = REFERENCE | {"energy": np.array([np.nan])}
    assert not errors(broken, broken, 1e-6)["energy"] <= 1e-9


@pytest.fixture(autouse=True)
def float64() -> object:
    """As in the tool: modules are made in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)

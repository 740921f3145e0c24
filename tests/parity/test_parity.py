"""A clone compares itself with the published implementations: outputs, features, attention weights, gradients."""

from pathlib import Path

import pytest
import torch
from check import FAMILIES, check
from comparison import Comparison
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
    counts: dict[str, int] = {}
    for family, folder in (case.values for case in CASES):
        counts[family] = max(counts.get(family, 0), len(load_file(folder / "grads.safetensors")))
    assert all(count > 50 for count in counts.values())


def test_a_wrong_weight_is_noticed(tmp_path: Path) -> None:
    folder = HERE / "equiformer_v2" / "b1_gate_mshare_energy"
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "weights.safetensors")
    weights["blocks.1.ga.alpha_dot"] = weights["blocks.1.ga.alpha_dot"] * (1 + 1e-6)
    save_file(weights, tmp_path / "weights.safetensors")
    passed, line, _ = check("equiformer_v2", tmp_path)
    assert not passed and line.endswith("FAIL")


def test_a_missing_output_is_infinitely_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(folder: Path) -> Comparison:
        return Comparison({"energy": float("inf")}, {}, [])

    monkeypatch.setitem(FAMILIES, "nothing", (nothing, 1e-9))
    assert not check("nothing", HERE)[0]


@pytest.fixture(autouse=True)
def float64() -> object:
    """As in the tool: modules are made in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)

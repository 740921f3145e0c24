"""The run configuration: layers, messages, and a file that says exactly what was meant."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covarium.config import RunConfig, build, merge, parse_assignment, parse_yaml, read_yaml, to_yaml
from covarium.errors import CovariumError


@dataclass(frozen=True)
class Sizes:
    lmax: int = 4
    cutoff: float = 5.0
    envelope: str | None = None


def refusal(values: dict, cls: type = RunConfig, where: str = "") -> str:
    with pytest.raises(CovariumError) as caught:
        build(cls, values, where)
    return str(caught.value)


def test_unknown_key_names_the_nearest_and_lists_all() -> None:
    message = refusal({"trainning": {}})
    assert "key 'trainning' is unknown; did you mean 'training'?" in message
    assert (
        "about, backend, compile, data, device, dtype, keep, memory, model, remember, seed, task, threads, tile, "
        "training" in message
    )


def test_unknown_key_inside_a_section_is_named_with_its_path() -> None:
    assert "key 'data.tets' is unknown; did you mean 'test'?" in refusal({"data": {"tets": []}})
    assert "key 'task.terms.energy.wieght' is unknown; did you mean 'weight'?" in refusal(
        {"task": {"terms": {"energy": {"wieght": 1}}}}
    )
    assert "key 'model.lmx' is unknown; did you mean 'lmax'?" in refusal({"lmx": 1}, Sizes, "model")


def test_wrong_type_is_named_with_its_value() -> None:
    assert refusal({"lmax": "four"}, Sizes, "model").startswith("model.lmax: input should be a valid integer")
    assert "'four'" in refusal({"lmax": "four"}, Sizes, "model")
    assert "seed" in refusal({"seed": -1}) and "-1" in refusal({"seed": -1})
    assert "float16" in refusal({"dtype": "float16"})


def test_scientific_notation_is_a_number() -> None:
    assert build(Sizes, merge(parse_assignment("cutoff=6e0"), {"lmax": 2})) == Sizes(lmax=2, cutoff=6.0)


def test_later_layers_win_key_by_key() -> None:
    recipe = {"model": {"name": "a", "lmax": 6}, "data": {"train": ["x"]}}
    assert merge(recipe, {"data": {"train": ["y", "z"]}}, parse_assignment("model.lmax=2")) == {
        "model": {"name": "a", "lmax": 2},
        "data": {"train": ["y", "z"]},
    }
    assert recipe["model"]["lmax"] == 6


@pytest.mark.parametrize("text", ["model.lmax", "=3", "model.=3", ".lmax=3", "model.lmax=[1"])
def test_malformed_assignment_is_refused(text: str) -> None:
    with pytest.raises(CovariumError, match="--set"):
        parse_assignment(text)


@pytest.mark.parametrize("text", ["- a list", "a: [1", "plain", "x: !!python/object/apply:os.system ['true']"])
def test_yaml_that_is_no_mapping_or_not_safe_is_refused(text: str) -> None:
    with pytest.raises(CovariumError, match=r"run\.yaml"):
        parse_yaml(text, "run.yaml")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CovariumError, match=r"absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")


@given(
    seed=st.integers(0, 2**63),
    scale=st.floats(1e-300, 1e300),
    reference=st.floats(allow_nan=False, allow_infinity=False),
    theory=st.text(st.characters(blacklist_categories=["Cs", "Cc"])),
    symbol=st.sampled_from(["H", "No", "N", "Y"]),
)
def test_what_is_written_reads_back_to_the_bit(seed, scale, reference, theory, symbol) -> None:
    config = build(
        RunConfig,
        {
            "seed": seed,
            "task": {"scale": scale, "references": {symbol: reference}, "theory": theory},
            "training": {"lr": scale},
            "data": {"train": ["a.xyz"]},
        },
    )
    assert build(RunConfig, parse_yaml(to_yaml(config, ["a comment"]), "config.resolved.yaml")) == config


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert build(RunConfig, {"data": {"train": ["a.xyz"]}}).data.train == [tmp_path / "a.xyz"]

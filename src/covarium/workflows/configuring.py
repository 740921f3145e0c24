"""From recipe, file and command line to one configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from covarium.config import RunConfig, build, check_name, merge, parse_assignment, parse_yaml, read_yaml

DEFAULT_RECIPE = "molecules"


def configure(
    *,
    recipe: str | None = None,
    file: Path | None = None,
    given: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    default: str = DEFAULT_RECIPE,
) -> RunConfig:
    """Later wins: the recipe, the file, what the command line names, ``--set``.

    Args:
        recipe: None for ``default``, unless a file is given, which then stands for itself.
        file: YAML.
        given: sections from the options of the command line.
        assignments: texts like ``model.lmax=6``.
        default: recipe of the kind of data.

    Raises:
        CovariumError: an unknown recipe, key or value.
    """
    base = recipe or (default if file is None else None)
    layers = [_recipe(base)] if base else []
    if file is not None:
        layers.append(read_yaml(file))
    layers += [dict(given or {}), *[parse_assignment(text) for text in assignments]]
    return build(RunConfig, merge(*layers))


def recipe_names() -> list[str]:
    """The recipes that come with the library."""
    folder = files("covarium.workflows") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _recipe(name: str) -> dict[str, Any]:
    check_name(name, recipe_names(), f"recipe '{name}'")
    entry = files("covarium.workflows") / "recipes" / f"{name}.yaml"
    return parse_yaml(entry.read_text(encoding="utf-8"), f"recipe {name}")

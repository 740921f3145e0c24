"""From recipe, file and command line to one configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from covarium.config import RunConfig, build, check_name, merge, parse_assignment, parse_yaml, read_yaml
from covarium.errors import CovariumError
from covarium.tasks.targets import canonical

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
        CovariumError: an unknown recipe, key or value; a target of QM9 that the recipe is not for.
    """
    base = recipe or (default if file is None else None)
    layers = [_recipe(base)] if base else []
    if file is not None:
        layers.append(read_yaml(file))
    layers += [dict(given or {}), *[parse_assignment(text) for text in assignments]]
    config = build(RunConfig, merge(*layers))
    if base and config.task.property is not None:
        _refuse_target(base, config.task.property.name)
    return config


def recipe_names() -> list[str]:
    """The recipes that come with the library."""
    folder = files("covarium.workflows") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _recipe(name: str) -> dict[str, Any]:
    check_name(name, recipe_names(), f"recipe '{name}'")
    entry = files("covarium.workflows") / "recipes" / f"{name}.yaml"
    return parse_yaml(entry.read_text(encoding="utf-8"), f"recipe {name}")


def _refuse_target(recipe: str, name: str) -> None:
    """
    Raises:
        CovariumError: the recipe is for other targets of QM9, treated in another way.
    """
    wanted, own = canonical(name), _targets(recipe)
    if wanted is not None and own and wanted not in own:
        fitting = [other for other in recipe_names() if wanted in _targets(other)]
        raise CovariumError(
            f"recipe '{recipe}' is for {', '.join(own)} and treats '{name}' wrongly; for it there is "
            f"--recipe {' or '.join(fitting)}"
        )


def _targets(recipe: str) -> list[str]:
    """The targets of QM9 that a recipe names as its own, if it names any."""
    return [word for word in _recipe(recipe).get("about", {}).get("targets", "").split(", ") if word]

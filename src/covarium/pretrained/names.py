"""Names in official state dicts: what wrappers put before them, and every weight in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from covarium.errors import CovariumError, nearest

# data parallelism, compilation, Lightning's module and the backbone of fairchem 1.x
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
HEADS = "output_heads."


def flat(name: str) -> str:
    """``module.module.backbone.X`` and ``output_heads.energy.energy_block.X`` under the names of the original code."""
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    if name.startswith(HEADS):
        name = name.removeprefix(HEADS).partition(".")[2]
    return name


def refuse_twice(given: Iterable[str], official: Callable[[str], str]) -> None:
    """Refuse two names that are one without the prefixes of wrappers.

    Args:
        given: names as they stand in a file.
        official: the name without prefixes.

    Raises:
        CovariumError: names both.
    """
    seen: dict[str, str] = {}
    for name in given:
        if (first := seen.setdefault(official(name), name)) != name:
            raise CovariumError(
                f"the file holds '{first}' and '{name}', both of which are '{official(name)}' of the model; remove the "
                "one that is not meant"
            )


def placed(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    dropped: Callable[[str, Tensor], bool],
    official: Callable[[str], str] = str,
) -> dict[str, Tensor]:
    """Every weight of a model from an official state dict, under our names; nothing may be left over.

    Args:
        state: official names without prefixes.
        expected: ``state_dict()`` of our model; on the meta device if only the fit is asked for.
        dropped: of a name and tensor that no weight of ours has: whether it is left behind (a repeated buffer).
        official: the official name of ours.

    Raises:
        CovariumError: a weight is missing or left over, or has another shape; axes of length 1 do not count.
    """
    left, taken = dict(state), {}
    for name, value in expected.items():
        theirs = official(name)
        if theirs not in left:
            raise CovariumError(f"the official weights lack '{theirs}'{nearest(theirs, left)}")
        weights = left.pop(theirs)
        if [s for s in weights.shape if s > 1] != [s for s in value.shape if s > 1]:
            raise CovariumError(f"'{theirs}' has shape {tuple(weights.shape)}, expected {tuple(value.shape)}")
        taken[name] = weights.reshape(value.shape)
    over = sorted(name for name, value in left.items() if not dropped(name, value))
    if over:
        more = f" and {len(over) - 1} more" if len(over) > 1 else ""
        raise CovariumError(f"the official weights hold '{over[0]}'{more}, which this model lacks")
    return taken

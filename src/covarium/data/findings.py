"""What can be wrong with labelled structures: the kinds of findings, how bad each is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from covarium.errors import CovariumError, nearest

Level = Literal["error", "warning"]


class Kind(NamedTuple):
    """level: an error makes a model wrong without a word, a warning may have its reasons; title, for people; remedy."""

    level: Level
    title: str
    remedy: str


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "unreadable": Kind("error", "cannot be read", "fetch or write the file again; frames that are not read train nothing"),
        "invalid": Kind("error", "not a valid structure or label", "correct or leave out these frames"),
        "labels": Kind("error", "labels missing, renamed or ambiguous", "name the key with --set data.keys.LABEL=KEY, and give every frame the label under one key"),
        "unlabelled": Kind("warning", "labels that cannot be used", "training would go without them"),
        "zero_forces": Kind("error", "forces zeroed", "write the raw forces, in ASE get_forces(apply_constraint=False), and mark frozen atoms by a constraint or a column 'fixed'"),
        "units": Kind("error", "units contradict the values", "name the units, e.g. --set data.units.energy=Hartree --set data.units.length=Bohr"),
        "unit_outlier": Kind("error", "single frames in another unit", "convert these frames"),
        "stress_sign": Kind("error", "sign or unit of the stress", "give stress as positive under tension (the opposite of pressure), with --set data.units.stress=GPa where it is so"),
        "overlap": Kind("error", "atoms on top of each other", "leave these frames out; such repulsions belong to a pair potential"),
        "conflict": Kind("error", "the same structure with different energies", "keep one of each set; settings, functional or charge may differ between them"),
        "leak": Kind("error", "structures of the training set among the others", "leave them out of one side; errors on them say nothing about new structures"),
        "species": Kind("error", "elements that training does not have", "train on structures with these elements, or leave the frames out"),
        "duplicates": Kind("warning", "the same structure more than once", "keep one of each set; copies weigh double, and leak where a split parts them"),
        "fragments": Kind("warning", "parts beyond each other's reach", "no model with this cutoff sees how the parts act on each other; raise the cutoff if that matters"),
        "energy_outlier": Kind("warning", "energies far from all others", "look whether these calculations converged"),
        "high_force": Kind("warning", "very high forces", "look whether these are meant; a few of them can govern a fit"),
        "net_force": Kind("warning", "forces do not sum to zero", "tighten the calculation (grid, convergence), or say what acts from outside; a conservative model cannot fit a net force"),
        "net_torque": Kind("warning", "forces turn the molecule", "tighten the calculation (grid, convergence), or say what acts from outside; a conservative model cannot fit a net torque"),
        "references": Kind("warning", "element references cannot be told apart", "add isolated atoms or other compositions, or give --set task.references"),
        "rare": Kind("warning", "elements in very few frames", "do not expect anything for them, or add frames"),
        "theory": Kind("warning", "different levels of theory", "train on one level only"),
        "cut": Kind("warning", "the last line has no end", "see whether its last number is complete"),
    }
)  # fmt: skip


class Place(NamedTuple):
    """Where a finding holds: file, place in it from 0 (None for the whole file), and what is there."""

    source: str
    index: int | None
    note: str = ""

    def __str__(self) -> str:
        where = self.source if self.index is None else f"{self.source}, frame {self.index}"
        return f"{where}: {self.note}" if self.note else where


@dataclass(frozen=True)
class Finding:
    """Something wrong, with every place where it is so.

    Attributes:
        kind: a key of ``KINDS``.
        level: of the kind; an error that was accepted is a warning.
        text: what was found, with numbers.
        places: all of them, in the order of the files; at least one.
    """

    kind: str
    level: Level
    text: str
    places: tuple[Place, ...]

    @property
    def title(self) -> str:
        return KINDS[self.kind].title

    @property
    def remedy(self) -> str:
        return KINDS[self.kind].remedy


def finding(kind: str, text: str, places: Iterable[Place]) -> Finding:
    """A finding at the level of its kind."""
    return Finding(kind, KINDS[kind].level, text, tuple(places))


def accepted(findings: Iterable[Finding], accept: Iterable[str]) -> list[Finding]:
    """Errors first; those of accepted kinds are warnings.

    Raises:
        CovariumError: an accepted kind does not exist.
    """
    kinds = set(accept)
    for kind in kinds - KINDS.keys():
        raise CovariumError(f"no finding is called '{kind}'{nearest(kind, KINDS)}; there are {', '.join(KINDS)}")
    judged = [replace(found, level="warning") if found.kind in kinds else found for found in findings]
    order = list(KINDS)
    return sorted(judged, key=lambda found: (found.level != "error", order.index(found.kind)))

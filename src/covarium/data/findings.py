"""What can be wrong with labelled structures: the kinds of findings, how bad each is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from covarium.errors import CovariumError, nearest

Level = Literal["error", "warning"]


class Kind(NamedTuple):
    """
    Attributes:
        level: an error makes a model wrong without a word; a warning may have its reasons.
        title: in a few words.
        remedy: what to do.
        text: for kinds that frames have by themselves; {count} frames, {cutoff} in Å.
    """

    level: Level
    title: str
    remedy: str
    text: str = ""


TIGHTEN = "tighten the calculation (grid, convergence), or say what acts from outside; no conservative model can fit it"
MEANT = "look whether these are meant; a few of them can govern a fit"

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "unreadable": Kind(
            "error",
            "cannot be read",
            "fetch or write the file again; what is not read is not learnt",
            "{count} times something could not be read",
        ),
        "invalid": Kind(
            "error",
            "no valid structure or label",
            "correct these frames or leave them out",
            "{count} frames are left out",
        ),
        "labels": Kind(
            "error",
            "labels missing, renamed or ambiguous",
            "give every frame the label under one key, and name it with --set data.keys.LABEL=KEY",
        ),
        "zero_forces": Kind(
            "error",
            "forces zeroed",
            "write the raw forces, in ASE get_forces(apply_constraint=False), and mark frozen atoms by a constraint or "
            "a column 'fixed'",
            "{count} frames have atoms whose force is exactly zero, though they are not marked as frozen and their "
            "surroundings are not symmetric",
        ),
        "units": Kind(
            "error",
            "units contradict the values",
            "name the units, e.g. --set data.units.energy=Hartree --set data.units.length=Bohr",
        ),
        "alone": Kind(
            "error",
            "no atom has a neighbour",
            "name the unit of length, e.g. --set 'data.units.length=0.01 Å', or let the model look farther, --set "
            "model.cutoff=…; nothing but the elements can be learnt",
        ),
        "unit_outlier": Kind("error", "single frames in another unit", "convert these frames"),
        "force_outlier": Kind(
            "error",
            "single frames with forces in another unit or of the other sign",
            "convert the forces of these frames, or turn their sign: forces are minus the gradient of the energy",
        ),
        "stress_sign": Kind(
            "error",
            "sign or unit of the stress",
            "give stress as positive under tension (minus pressure), and its unit, e.g. --set data.units.stress=GPa",
        ),
        "overlap": Kind(
            "error",
            "atoms on top of each other",
            "leave these frames out",
            "{count} frames have atoms closer than 0.4 Å or 0.3 of the sum of their covalent radii",
        ),
        "conflict": Kind(
            "error",
            "one structure, several energies",
            "keep one of each set; settings, functional or charge may differ between them",
        ),
        "leak": Kind(
            "error",
            "structures of the training set",
            "leave them out on one side; errors on them say nothing about new structures",
        ),
        "species": Kind(
            "error",
            "elements that training does not have",
            "train on structures with these elements, or leave the frames out",
        ),
        "unlabelled": Kind("warning", "labels that cannot be used", "training goes without them"),
        "close": Kind(
            "warning",
            "atoms closer than any bond",
            MEANT,
            "{count} frames have atoms closer than half the sum of their covalent radii",
        ),
        "valence": Kind(
            "warning",
            "elements that hardly belong to these positions",
            "look whether elements and positions are in one order; leave out what is not meant",
            "{count} frames have hydrogen with three atoms or more within 1.35 Å, C, N or O among them, or two carbon "
            "atoms or more that are bound to one hydrogen and nothing else",
        ),
        "duplicates": Kind(
            "warning",
            "the same structure more than once",
            "keep one of each set; copies weigh double, and leak where a split parts them",
        ),
        "fragments": Kind(
            "warning",
            "parts out of each other's reach",
            "a model with this cutoff does not see how the parts act on each other; raise it if that matters",
            "{count} frames have parts more than {cutoff:g} Å apart",
        ),
        "energy_outlier": Kind("warning", "energies far from all others", "look whether these calculations converged"),
        "high_force": Kind("warning", "very high forces", MEANT, "{count} frames have a force above 50 eV/Å"),
        "net_force": Kind(
            "warning",
            "forces do not sum to zero",
            TIGHTEN,
            "{count} frames have a net force above 1 meV/Å per atom",
        ),
        "net_torque": Kind(
            "warning",
            "forces turn the molecule",
            TIGHTEN,
            "{count} molecules have a torque above 1 meV/Å times their lever arms",
        ),
        "references": Kind(
            "warning",
            "element references cannot be told apart",
            "add isolated atoms or other compositions, or give --set task.references",
        ),
        "rare": Kind("warning", "elements in very few frames", "expect nothing for them, or add frames"),
        "theory": Kind("warning", "several levels of theory", "train on one level only"),
        "cut": Kind(
            "warning",
            "the last line has no end",
            "see whether its last number is complete",
            "{count} files end without a line break",
        ),
    }
)


class Place(NamedTuple):
    """Where a finding holds: file, frame in it from 0 (None for the whole file), and what is there."""

    source: str
    frame: int | None
    note: str = ""

    def __str__(self) -> str:
        where = self.source if self.frame is None else f"{self.source}, frame {self.frame}"
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

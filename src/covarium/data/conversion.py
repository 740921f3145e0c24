"""The units a file is in: named by the user, stated in the file, or eV and Å."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from covarium.data.names import STATED_UNITS, plain
from covarium.data.record import Record
from covarium.errors import CovariumError, nearest
from covarium.units import ENERGY, GPA, LENGTH

SHORT: Mapping[str, str] = MappingProxyType(
    {"ha": "Hartree", "eh": "Hartree", "a0": "Bohr", "a": "Å", "ang": "Å", "angstroms": "Å", "kcalmol": "kcal/mol"}
)
PRESSURE: Mapping[str, float] = MappingProxyType({"GPa": GPA, "kbar": 0.1 * GPA, "bar": 1e-4 * GPA})
QUANTITIES = ("energy", "length", "forces", "stress")


@dataclass(frozen=True)
class Units:
    """The file's units by quantity (``energy``, ``length``, ``forces``, ``stress``) and their size in eV and Å.

    Attributes:
        names: unit names, forces and stress derived from energy and length unless given.
        size: what one unit is in eV, Å, eV/Å, eV/Å³.
        origin: ``given``, ``stated`` or ``assumed``.
    """

    names: dict[str, str]
    size: dict[str, float]
    origin: str


def resolve(given: Mapping[str, str], records: Sequence[Record]) -> Units:
    """The units of the records: those given, completed by those stated in the files, completed by eV and Å.

    Raises:
        CovariumError: a unit is unknown, or the files state different ones.
    """
    for quantity in given:
        if quantity not in QUANTITIES:
            hint = nearest(quantity, QUANTITIES)
            raise CovariumError(f"units are named for {', '.join(QUANTITIES)}, not for '{quantity}'{hint}")
    stated = {} if {"energy", "length"} <= given.keys() else _stated(records)
    named = {**stated, **given}
    energy, energy_size = _simple(named.get("energy", "eV"), ENERGY, "energy")
    length, length_size = _simple(named.get("length", "Å"), LENGTH, "length")
    names = {"energy": energy, "length": length}
    size = {"energy": energy_size, "length": length_size}
    names["forces"], size["forces"] = _forces(named.get("forces", f"{energy}/{length}"))
    names["stress"], size["stress"] = _stress(named.get("stress", f"{energy}/{length}^3"))
    return Units(names, size, "given" if given else "stated" if stated else "assumed")


def length_size(given: Mapping[str, str], records: Sequence[Record]) -> float:
    """What the records' unit of length is in Å: given, else stated in the files, else 1."""
    named = given.get("length") or _stated(records).get("length", "Å")
    return _simple(named, LENGTH, "length")[1]


def _simple(name: str, table: Mapping[str, float], what: str) -> tuple[str, float]:
    """The proper name of a unit and its size; a number may stand before it: ``1e-6 Å``."""
    times = re.match(r"(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?=\s*[^\d\s])", name.strip(), re.IGNORECASE)
    if times is not None:
        proper_name, size = _simple(name.strip()[times.end() :], table, what)
        return f"{times[0]} {proper_name}", float(times[0]) * size
    proper = {_plain_unit(key): key for key in reversed(list(table))}  # the first of two spellings wins
    key = _plain_unit(name)
    key = _plain_unit(SHORT.get(key, key))
    if key not in proper:
        raise CovariumError(f"unit of {what} '{name}' is unknown{nearest(name, table)}; allowed: {', '.join(table)}")
    return proper[key], table[proper[key]]


def _plain_unit(name: str) -> str:
    return re.sub(r"[\s_*]|\(|\)", "", name.lower()).replace("å", "angstrom")


def _forces(name: str) -> tuple[str, float]:
    energy, _, length = name.rpartition("/")
    if not energy:
        raise CovariumError(f"unit of forces '{name}' is not energy/length; write for example eV/Å or kcal/mol/Å")
    energy, energy_size = _simple(energy, ENERGY, "energy in that of forces")
    length, length_size = _simple(length, LENGTH, "length in that of forces")
    return f"{energy}/{length}", energy_size / length_size


def _stress(name: str) -> tuple[str, float]:
    for pressure, size in PRESSURE.items():
        if name.lower() == pressure.lower():
            return pressure, size
    cubed = re.fullmatch(r"(.+?)(\^3|\*\*3|³)", name.strip())
    if not cubed or "/" not in name:
        raise CovariumError(f"unit of stress '{name}' is unknown; allowed: {', '.join(PRESSURE)}, or such as eV/Å^3")
    energy, _, length = cubed.group(1).rpartition("/")
    energy, energy_size = _simple(energy, ENERGY, "energy in that of stress")
    length, length_size = _simple(length, LENGTH, "length in that of stress")
    return f"{energy}/{length}³", energy_size / length_size**3


def _stated(records: Sequence[Record]) -> dict[str, str]:
    """What the files say of their units, in ``units`` or in ``energy_unit`` and the like."""
    roles = {name: role for role, names in STATED_UNITS.items() for name in names}
    found: dict[str, tuple[str, Record]] = {}
    for record in records:
        for key, value in record.values.items():
            role = roles.get(plain(key))
            if role is None or not isinstance(value, (str, dict)):
                continue
            for quantity, unit in _parse(role, value, record).items():
                known, first = found.setdefault(quantity, (unit, record))
                if known != unit:
                    raise CovariumError(
                        f"{record.where} states {quantity} in {unit}, {first.where} in {known}; read them separately"
                    )
    return {quantity: unit for quantity, (unit, _) in found.items()}


def _parse(role: str, value: str | dict[str, str], record: Record) -> dict[str, str]:
    if isinstance(value, dict):
        return {quantity: unit for quantity, unit in value.items() if quantity in QUANTITIES}
    if role != "all":
        return {role: value}
    units = {}
    for word in re.split(r"[,;\s]+", value.strip()):
        for quantity, table in (("energy", ENERGY), ("length", LENGTH)):
            try:
                units[quantity], _ = _simple(word, table, quantity)
                break
            except CovariumError:
                continue
        else:
            try:
                units["forces"], _ = _forces(word)
            except CovariumError as error:
                raise CovariumError(
                    f"{record.where} states its units as '{value}', which is not understood; "
                    "say them with --set data.units.energy=eV --set data.units.length=Å"
                ) from error
    return units

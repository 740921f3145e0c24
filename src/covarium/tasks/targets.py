"""The twelve targets of QM9 as the published models treat them (Thölke 2022, arXiv 2202.02541, and its code; Gilmer
2017, arXiv 1704.01212, for the list).

Energies at 0 and 298 K, enthalpy and free energy: a sum over atoms, element references taken off. Zero-point energy,
heat capacity and polarizability are sums too; references of the elements explain most of them. Frontier orbitals and
their gap: a sum, standardised by mean and standard deviation. |μ| is the length of Σ q_i (r_i − c) + μ_i, ⟨R²⟩ is
Σ x_i ‖r_i − c‖², where the model has such heads; elsewhere a standardised sum, as in Equiformer (Liao 2023, code).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from covarium.tasks.property import Readout


@dataclass(frozen=True)
class Target:
    """How to learn one target.

    Attributes:
        what: in words.
        readout: see ``Property``.
        references: of the elements.
        output: the head of models that have a choice of heads; None for one of scalars of the atoms.
    """

    what: str
    readout: Readout
    references: Literal["auto", "none"] = "auto"
    output: str | None = None


_ENERGY = Target("a total energy", "sum")
_SUM = Target("a sum over atoms", "sum")
_ORBITAL = Target("an orbital energy", "sum", "none")

QM9: Mapping[str, Target] = MappingProxyType(
    {
        "mu": Target("the length of the dipole moment", "length", "none", "equivariant_dipole"),
        "alpha": _SUM,
        "homo": _ORBITAL,
        "lumo": _ORBITAL,
        "gap": _ORBITAL,
        "r2": Target("the electronic spatial extent", "value", "none", "spatial_extent"),
        "zpve": _SUM,
        "u0": _ENERGY,
        "u298": _ENERGY,
        "h298": _ENERGY,
        "g298": _ENERGY,
        "cv": _SUM,
    }
)
# the same targets under the names of other files and libraries
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "dipolemoment": "mu", "isotropicpolarizability": "alpha", "electronicspatialextent": "r2", "energyu0": "u0",
        "energyu": "u298", "enthalpyh": "h298", "freeenergy": "g298", "heatcapacity": "cv",
    }
)  # fmt: skip
SYMBOLS: Mapping[str, str] = MappingProxyType({"U": "u298", "H": "h298", "G": "g298"})


def canonical(name: str) -> str | None:
    """Our name of a target of QM9, compared without case and punctuation unless it is one letter; None for others."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    found = SYMBOLS.get(name) or ALIASES.get(plain, plain)
    return found if found in QM9 else None


def target(name: str) -> Target | None:
    """The rule for a property of this name (``canonical``); None for a name of the user's own."""
    found = canonical(name)
    return None if found is None else QM9[found]

"""The names under which files keep things, compared without case and punctuation, the most usual first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "energy": (
            "energy", "refenergy", "dftenergy", "energyref", "energydft", "totalenergy", "totenergy", "etot",
            "potentialenergy", "e", "energies", "epbe0mbd", "freeenergy",
        ),
        "forces": (
            "forces", "force", "refforces", "refforce", "dftforces", "dftforce", "forcesref", "forcesdft", "f",
            "totfor",
        ),
        "stress": ("stress", "refstress", "dftstress", "stressref", "stressdft"),
        "virial": ("virial", "virials", "refvirial", "refvirials", "dftvirial", "dftvirials"),
        "charge": ("charge", "totalcharge"),
        "spin": ("spin", "unpairedelectrons"),
        "multiplicity": ("multiplicity", "spinmultiplicity"),
        "fixed": ("fixed",),
        "property": (),  # only the user knows which
    }
)  # fmt: skip
FORCE_CONSISTENT = "freeenergy"  # a second, well-defined energy beside "energy" (ASE, VASP), not a rival for its name

NPZ_STRUCTURE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "positions": (
            "r",
            "positions",
            "position",
            "pos",
            "coords",
            "coord",
            "coordinates",
            "xyz",
            "atxyz",
            "conformations",
        ),
        "numbers": ("z", "numbers", "atomicnumbers", "nuclearcharges", "species", "symbols", "elements", "atnum"),
        "cell": ("cell", "cells", "lattice", "box"),
        "pbc": ("pbc",),
    }
)

NPZ_SIZES = ("natoms", "natom", "numatoms")  # of each structure, where all atoms stand one after another

STATED_UNITS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "energy": ("energyunit", "energyunits", "eunit", "unitenergy"),
        "length": ("lengthunit", "lengthunits", "distanceunit", "positionsunit", "runit", "unitlength"),
        "forces": ("forcesunit", "forcesunits", "forceunit", "forceunits", "funit", "unitforces"),
        "all": ("units", "unit"),
    }
)
MADE_BY = "covarium"  # in the metadata of data bases that keep every value with its shape
REST_ARRAYS = "covarium_rest_arrays"  # the same of what is per atom
REST = "covarium_rest"  # where formats of plain arrays keep, as JSON, what has no array of its own
THEORY = (
    "theory", "level", "leveloftheory", "functional", "dftfunctional", "xc", "xcfunctional", "gga", "method", "basis",
    "basisset",
)  # fmt: skip
GROUPS = ("group", "mol", "molecule", "molid", "sid", "system", "systemid", "dimer", "trajectory", "trajid")


@lru_cache(maxsize=4096)
def plain(key: str) -> str:
    """A key without case and punctuation: ``REF_energy`` → ``refenergy``."""
    return re.sub(r"[^a-z0-9]", "", key.lower())

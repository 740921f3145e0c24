"""One labelled structure, in the units of the library, checked when it is made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from ase.geometry import minkowski_reduce

from covarium.errors import CovariumError

LABEL_UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³", "property": ""}
LARGEST = 1e12  # of any number in eV and Å; squares of much larger ones overflow
FAR = 10.0  # Å between an atom and its periodic images, beyond which it counts as isolated


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure with its labels; numpy float64, eV and Å.

    Attributes:
        numbers: [n] int64 atomic numbers.
        positions: [n, 3] Å.
        cell: [3, 3] lattice vectors as rows, Å; zeros if there is none.
        pbc: [3] bool.
        labels: any of ``energy`` (0-d, eV, of the whole structure), ``forces`` ([n, 3] eV/Å), ``stress``
            ([3, 3] eV/Å³, positive under tension, as ASE has it) and ``property`` (0-d or [3], in the file's unit).
        fixed: [n] bool, frozen atoms; left out of force losses and force errors.
        charge: total charge in e.
        spin: number of unpaired electrons.
        config_type: the kind of configuration, for tables of errors.
        group: frames that share it belong to one molecule or trajectory and are never split; empty if unknown.
        source: the file it came from.
        index: its place in that file, from 0.
        tags: [n] int64, kinds of atoms in slabs, see ``AtomGraph``; zeros unless given.

    Raises:
        CovariumError: an array has the wrong shape, a value is not finite or absurdly large, an atomic number is not an
            element, or periodic directions lack lattice vectors.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    labels: dict[str, np.ndarray]
    fixed: np.ndarray
    charge: float = 0.0
    spin: float = 0.0
    config_type: str = ""
    group: str = ""
    source: str = ""
    index: int = 0
    tags: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        n = len(self.numbers)
        if len(self.tags) == 0:
            object.__setattr__(self, "tags", np.zeros(n, dtype=np.int64))
        if n == 0:
            raise CovariumError(f"{self.where}: it has no atoms; leave it out")
        self._check("numbers", self.numbers, (n,), "")
        if self.numbers.min() < 1 or self.numbers.max() > 118:
            atom = int(np.flatnonzero((self.numbers < 1) | (self.numbers > 118))[0])
            raise CovariumError(f"{self.where}: atom {atom} has atomic number {self.numbers[atom]}; allowed: 1 to 118")
        self._check("positions", self.positions, (n, 3), "Å")
        self._check("cell", self.cell, (3, 3), "Å")
        self._check("pbc", self.pbc, (3,), "")
        self._check("fixed", self.fixed, (n,), "")
        self._check("tags", self.tags, (n,), "")
        shapes: dict[str, tuple[int, ...]] = {"energy": (), "forces": (n, 3), "stress": (3, 3), "property": ()}
        if "property" in self.labels and self.labels["property"].ndim:
            shapes["property"] = (3,)
        for label, value in self.labels.items():
            if label not in shapes:
                raise CovariumError(f"{self.where}: label '{label}' is unknown; allowed: {', '.join(shapes)}")
            self._check(label, value, shapes[label], LABEL_UNITS[label])
        periodic = self.cell[self.pbc]
        if len(periodic) and np.linalg.matrix_rank(periodic, tol=1e-3) < len(periodic):
            raise CovariumError(
                f"{self.where}: periodic directions {np.flatnonzero(self.pbc).tolist()} have lattice vectors "
                f"{periodic.tolist()}, which span no volume; set pbc to False there or give a cell"
            )

    @property
    def where(self) -> str:
        """The frame's name in messages."""
        return f"{self.source}, frame {self.index}" if self.source else f"frame {self.index}"

    @property
    def isolated(self) -> bool:
        """Whether it is one atom alone: not periodic, or its images far away, or declared so by its config type."""
        if len(self.numbers) != 1:
            return False
        if not self.pbc.any() or re.sub(r"[^a-z]", "", self.config_type.lower()) == "isolatedatom":
            return True
        reduced, _ = minkowski_reduce(self.cell, pbc=self.pbc)
        return bool(np.linalg.norm(reduced[self.pbc], axis=1).min() > FAR)

    def _check(self, name: str, value: np.ndarray, shape: tuple[int, ...], unit: str) -> None:
        if value.shape != shape:
            raise CovariumError(f"{self.where}: {name} has shape {value.shape}, expected {shape}")
        # written so that NaN is beyond too
        if value.dtype.kind == "f" and not (np.abs(value) < LARGEST).all():
            place = tuple(int(k) for k in np.argwhere(~(np.abs(value) < LARGEST))[0])
            spot = f"{name}{list(place)}" if place else name
            raise CovariumError(f"{self.where}: {spot} is {value[place]} {unit}; leave the frame out")

"""The door to ASE: a calculator over any potential.

atoms.calc = Calculator(potential)
forces = atoms.get_forces()
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from covarium.data import charge_and_spin
from covarium.errors import CovariumError
from covarium.simulation.skin import Pairs, SkinList
from covarium.systems import AtomGraph, near_origin
from covarium.tasks import Potential, Prediction


class StressUndefinedError(CovariumError, PropertyNotImplementedError):
    """Stress of a structure without a volume, or of a potential without one; for ASE, a property not implemented."""


class NotFiniteError(CovariumError):
    """The model answered with an energy, force or stress that is not finite."""


class Calculator(BaseCalculator):
    """Energy, forces and stress for ASE.

    Properties: ``energy`` and ``free_energy`` (eV, equal), ``energies`` [N] (eV per atom), ``forces`` [N, 3] (eV/Å),
    ``stress`` [6] (eV/Å³, Voigt order xx yy zz yz xz xy, > 0 under tension). The total charge and the number of
    unpaired electrons are read as by ``covarium.data.charge_and_spin``. Answers are kept until numbers, positions,
    cell, pbc, tags, charge or spin change by a single bit; a failure leaves no answers behind.

    Args:
        potential: copied, so that later training or moving does not change a running simulation.
        device: None leaves it where it is.
        dtype: None leaves it as it is; a potential without parameters is evaluated in float64.
        skin: Å, see ``SkinList``.

    Attributes:
        potential: the copy, in evaluation mode, with frozen parameters.
        neighbours: the neighbour list.
        pairs: the neighbours of the last structure, None before the first.

    Raises (on calculation):
        StressUndefinedError: stress of a structure that is not periodic in three directions, or of a potential that
            has none (``Potential.has_stress``).
        NotFiniteError: the answer is not finite.
        CovariumError: an unknown element, a charge or spin that the model ignores, positions that are not finite.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(
        self,
        potential: Potential,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        skin: float = 0.5,
    ) -> None:
        super().__init__()
        self.potential = copy.deepcopy(potential).eval().requires_grad_(False)
        if device is not None or dtype is not None:
            self.potential = self.potential.to(device=device, dtype=dtype)
        parameter = next((p for p in self.potential.parameters() if p.is_floating_point()), None)
        self._dtype = dtype or (torch.float64 if parameter is None else parameter.dtype)
        self._device = self.potential.scale.device
        self.neighbours = SkinList(self.potential.model.spec, skin)
        self.pairs: Pairs | None = None
        self._charges: tuple[float, float] | None = None

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What has changed since the last calculation, compared exactly; ``tol`` is there for ASE's interface only."""
        last = self.atoms
        if last is None:
            return list(all_changes)
        compared = {
            "numbers": (last.numbers, atoms.numbers),
            "positions": (last.positions, atoms.positions),
            "cell": (last.cell.array, atoms.cell.array),
            "pbc": (last.pbc, atoms.pbc),
            "tags": (last.get_tags(), atoms.get_tags()),
        }
        changes = [name for name, (a, b) in compared.items() if a.shape != b.shape or not (a == b).all()]
        try:
            same = self._charges == charge_and_spin(atoms)
        except CovariumError:  # a change, of which the calculation says what is wrong
            same = False
        return changes if same else [*changes, "charge"]

    def calculate(
        self,
        atoms: Atoms,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Everything in one pass, the stress too where there is one, whatever is asked for first."""
        if "stress" in properties:
            require_stress(self.potential, atoms, "get_stress()")
        self.results: dict[str, Any] = {}
        stress = self.potential.has_stress and bool(atoms.pbc.all())
        self.pairs, self._charges = None, None
        graph = self._graph(atoms)
        prediction = self.potential.predict(graph, forces=True, stress=stress)
        self.results = _results(prediction, atoms)

    def _graph(self, atoms: Atoms) -> AtomGraph:
        charge, spin = self._charges = charge_and_spin(atoms)
        cell = atoms.cell.array
        self.pairs = self.neighbours.pairs(atoms.positions, cell, atoms.pbc)
        device, dtype = self._device, self._dtype
        positions, shifts = near_origin(
            atoms.positions, cell, atoms.pbc, self.pairs.edge_index, self.pairs.shifts, dtype
        )
        return AtomGraph(
            positions=torch.from_numpy(positions).to(device, dtype),
            numbers=torch.as_tensor(atoms.numbers, dtype=torch.int64, device=device),
            cell=torch.from_numpy(cell[None]).to(device, dtype),
            pbc=torch.from_numpy(atoms.pbc[None]).to(device),
            batch=torch.zeros(len(atoms), dtype=torch.int64, device=device),
            edge_index=torch.from_numpy(self.pairs.edge_index).to(device),
            shifts=torch.from_numpy(shifts).to(device),
            charge=torch.tensor([charge], dtype=dtype, device=device),
            spin=torch.tensor([spin], dtype=dtype, device=device),
            tags=torch.as_tensor(atoms.get_tags(), dtype=torch.int64, device=device),
        )


def require_stress(potential: Potential, atoms: Atoms, purpose: str) -> None:
    """
    Raises:
        StressUndefinedError: the structure is not periodic in three directions, or the potential has no stress.
    """
    if not atoms.pbc.all():
        raise StressUndefinedError(
            f"{purpose} needs three periodic directions, or there is no volume; pbc is {atoms.pbc.tolist()}"
        )
    if not potential.has_stress:
        raise StressUndefinedError(
            f"{purpose} needs a stress, and this potential with direct forces has none; use one that was trained with "
            "task.forces=gradient, or with model.stress_head=true"
        )


def _results(prediction: Prediction, atoms: Atoms) -> dict[str, Any]:
    """ASE's dictionary of a prediction.

    Raises:
        NotFiniteError: names the first atom, or the quantity, that is not finite.
    """
    energy = float(prediction.energy)
    arrays = {"energies": prediction.atom_energy, "forces": prediction.forces, "stress": prediction.stress}
    values = {name: a.cpu().numpy().astype(np.float64) for name, a in arrays.items() if a is not None}
    for name in ("energies", "forces"):
        if not np.isfinite(values[name]).all():
            atom = int(np.argwhere(~np.isfinite(values[name]))[0, 0])
            raise NotFiniteError(
                f"the model's {name} are not finite: atom {atom} ({atoms.symbols[atom]}) has "
                f"{values[name][atom].tolist()}; the structure is far from the training data, or the model is broken"
            )
    if not np.isfinite(energy) or not np.isfinite(values.get("stress", 0.0)).all():
        raise NotFiniteError("the model's energy or stress is not finite")
    if "stress" in values:
        values["stress"] = full_3x3_to_voigt_6_stress(values["stress"][0])
    return {"energy": energy, "free_energy": energy, **values}

"""A potential that also learns to denoise non-equilibrium structures (Liao 2024, arXiv 2403.09549, "DeNS").

Some structures of a batch are displaced. The model is told the forces that the displaced atoms had before, which
make the answer unique, and predicts their displacements, beside the energy of the structure as it was and the forces of
the atoms that stayed. Trained or not, it is used as a potential. Letters: N atoms, B structures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from covarium.data import Batch
from covarium.errors import CovariumError
from covarium.ops.gather import scatter_sum
from covarium.systems import AtomGraph, AtomModel, Denoising, renew_edges
from covarium.tasks.potential import Potential, arguments, norm


@dataclass(frozen=True)
class DenoisingSettings:
    """How structures are displaced. The defaults are those of the published MPtrj run (Liao 2026, arXiv 2604.09130).

    Attributes:
        probability: that a structure is displaced (official code: a whole batch).
        std: of the displacements in Å, which the model predicts in units of it.
        corrupt_ratio: probability that an atom of such a structure is displaced.
        max_ratio: structures with a larger part of their atoms drawn are left as they are.
        max_force: structures with a larger force in eV/Å on an atom are left as they are; None for no limit.
        weight: of the mean norm of the error in the loss.
    """

    probability: float = 0.5
    std: float = 0.025
    corrupt_ratio: float = 0.5
    max_ratio: float = 0.75
    max_force: float | None = None
    weight: float = 0.5

    def __post_init__(self) -> None:
        for name in ("probability", "corrupt_ratio", "max_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise CovariumError(f"task.denoising.{name} must lie above 0 and up to 1, got {getattr(self, name)}")
        for name in ("std", "max_force"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise CovariumError(f"task.denoising.{name} must be positive, got {value}")
        if self.weight < 0:
            raise CovariumError(f"task.denoising.weight must be 0 or more, got {self.weight}")


class Displaced(NamedTuple):
    """A batch in which some atoms have moved.

    system: with their neighbours. noise: [N, 3] displacements in units of their standard deviation. structures: [B]
    bool, those that take part. atoms: [N] bool, those that moved.
    """

    system: AtomGraph
    noise: Tensor
    structures: Tensor
    atoms: Tensor


class Denoise(Potential):
    """A potential whose training loss has a term more; all else is the potential's.

    Args:
        model: with ``noise`` among its outputs.
        denoising: how structures are displaced.
        potential: arguments of ``Potential``.

    Raises:
        CovariumError: the model cannot denoise.
    """

    def __init__(self, model: AtomModel, *, denoising: DenoisingSettings, **potential: Any) -> None:  # noqa: ANN401
        super().__init__(model, **potential)
        if "noise" not in model.outputs:
            raise CovariumError(
                "the task denoise needs a model that reads forces and predicts displacements: equiformer_v3 with "
                "model.denoising=true"
            )
        self.denoising = denoising

    @property
    def weights(self) -> dict[str, float]:
        return {**super().weights, "noise": self.denoising.weight}

    def asked(self, batch: Batch) -> list[str]:
        """The quantities of the loss; forces are an input beside.

        Raises:
            CovariumError: the labels lack one of them, or the forces.
        """
        if "forces" not in batch.labels:
            raise CovariumError("the task denoise reads the forces of the structures, but the data have none")
        return super().asked(batch)

    def forward(self, batch: Batch, rng: torch.Generator | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """{term: (sum, count)} in float64.

        As in the official code, forces of atoms that stayed and displacements of those that moved are means over all
        free atoms together, and the stress of displaced structures counts as exact.
        """
        asked = self.asked(batch)
        moved = self.displace(batch, rng)
        forces = batch.labels["forces"].to(batch.system.positions)
        raw = self.evaluate(
            moved.system, forces="forces" in asked, stress="stress" in asked, create_graph=True, rng=rng,
            denoising=Denoising(forces, moved.atoms),
        )  # fmt: skip
        errors = self.differences(raw, batch)
        if "forces" in errors:
            errors["forces"] = errors["forces"] * ~moved.atoms[batch.free].unsqueeze(1)
        if "stress" in errors:
            errors["stress"] = errors["stress"] * ~moved.structures[:, None, None]
        assert raw.noise is not None
        error = norm(((raw.noise - moved.noise) * moved.atoms.unsqueeze(1))[batch.free])
        count = torch.tensor(error.numel(), dtype=torch.float64, device=error.device)
        return {**self.sums(errors, batch), "noise": (error.double().sum(), count)}

    def displace(self, batch: Batch, rng: torch.Generator | None = None) -> Displaced:
        """Draw structures, their atoms, and displacements; frozen atoms stay."""
        s, system = self.denoising, batch.system
        device, dtype = system.positions.device, system.positions.dtype
        drawn = torch.rand(system.num_graphs, generator=rng, device=device) < s.probability
        atoms = torch.rand(system.num_atoms, generator=rng, device=device) < s.corrupt_ratio
        noise = torch.randn(system.num_atoms, 3, generator=rng, device=device, dtype=dtype)
        part = scatter_sum(atoms.to(dtype), system.batch, system.num_graphs)
        drawn &= part <= s.max_ratio * system.atoms_per_graph()
        if s.max_force is not None:
            large = (batch.labels["forces"].norm(dim=1) > s.max_force).to(dtype)
            drawn &= scatter_sum(large, system.batch, system.num_graphs) == 0
        atoms &= drawn[system.batch] & batch.free
        noise = noise * atoms.unsqueeze(1)
        moved = replace(system, positions=system.positions + s.std * noise)
        return Displaced(renew_edges(moved, self.model.spec, drawn), noise, drawn, atoms)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "kind": "denoise", "denoising": asdict(self.denoising)}

    @classmethod
    def from_description(cls, model: AtomModel, description: Mapping[str, Any]) -> Denoise:
        given = dict(description)
        denoising = DenoisingSettings(**given.pop("denoising"))
        return cls(model, denoising=denoising, **arguments(given))

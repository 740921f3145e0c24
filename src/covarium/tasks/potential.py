"""The potential-energy task: total energy, forces and stress from a model of atomic energies.

E = offset + scale · Σ_i e_i + Σ_i reference(Z_i), F = −∂E/∂r or a direct head, σ = (∂E/∂ε)/V with symmetric ε
(the strain derivative of F. Knuth et al., Comput. Phys. Commun. 190, 33 (2015), Eq. 7).
Letters: N atoms, B structures. Energies of structures are float64 whatever the dtype of the model, because totals
of 10⁴ eV are to be told apart at 10⁻⁴ eV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from covarium.algebra.rounding import unrounded
from covarium.data import Batch
from covarium.errors import CovariumError, nearest
from covarium.ops.gather import gather, scatter_sum
from covarium.ops.norm import norm
from covarium.systems import AtomGraph, AtomModel, AtomOutput, Denoising, rounding_of

ForceRule = Literal["gradient", "direct"]
QUANTITIES = ("energy", "forces", "stress", "property")
LOSSES = ("mae", "mse", "huber", "l2")


@dataclass(frozen=True)
class Term:
    """One term of the training loss; errors are divided by the task's scale first, so weights have no unit.

    Attributes:
        quantity: ``energy``, ``forces`` or ``stress`` of a potential, or ``property``.
        loss: ``mae``, ``mse``, ``huber`` over components, or ``l2``, the Euclidean norm of a vector's error.
        weight: factor of the mean in the loss.
        per_atom: energies are divided by the number of atoms of their structure.
        delta: where the Huber loss turns linear, in units of the scale.
    """

    quantity: str
    loss: str = "mae"
    weight: float = 1.0
    per_atom: bool = True
    delta: float = 0.1

    def __post_init__(self) -> None:
        for value, allowed in ((self.quantity, QUANTITIES), (self.loss, LOSSES)):
            if value not in allowed:
                hint = nearest(value, allowed)
                raise CovariumError(f"loss term: '{value}' is not one of {', '.join(allowed)}{hint}")
        if self.loss == "l2" and self.quantity not in ("forces", "property"):
            raise CovariumError(
                f"loss 'l2' is a norm over the components of a vector; '{self.quantity}' has mae, mse, huber"
            )
        if self.weight < 0 or self.delta <= 0:
            raise CovariumError(
                f"loss term '{self.quantity}': weight ≥ 0 and delta > 0, got {self.weight} and {self.delta}"
            )

    def elements(self, error: Tensor) -> Tensor:
        """The loss of every element of ``error`` (every row for ``l2``)."""
        match self.loss:
            case "mae":
                return error.abs()
            case "mse":
                return error.square()
            case "huber":
                a = error.abs()
                return torch.where(a < self.delta, 0.5 * error.square() / self.delta, a - 0.5 * self.delta)
            case _:
                return norm(error)


@dataclass(frozen=True)
class EnergySemantics:
    """What the energies mean; travels with every checkpoint and is printed.

    Attributes:
        kind: ``total``, ``adsorption``, ``formation`` or ``unknown``.
        functional: level of theory, as far as the data state it.
        note: anything a user of the energies must know.
    """

    kind: Literal["total", "adsorption", "formation", "unknown"] = "unknown"
    functional: str = ""
    note: str = ""


@dataclass(frozen=True)
class Prediction:
    """What a potential says of a batch.

    Attributes:
        energy: [B] float64 eV, total.
        atom_energy: [N] float64 eV.
        forces: [N, 3] eV/Å.
        stress: [B, 3, 3] eV/Å³, positive under tension.
        noise: [N, 3], of a denoising pass in training only.
    """

    energy: Tensor
    atom_energy: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None
    noise: Tensor | None = None

    def transform(self, g: Tensor) -> Prediction:
        """What the prediction becomes when the system is transformed by the orthogonal [3, 3] matrix g."""
        forces = None if self.forces is None else self.forces @ g.to(self.forces).T
        stress = None if self.stress is None else g.to(self.stress) @ self.stress @ g.to(self.stress).T
        return replace(self, forces=forces, stress=stress)


class Potential(nn.Module):
    """A model of atomic energies together with its scale, element references, force rule and loss terms.

    Args:
        model: of atomic energies.
        forces: ``gradient`` (conservative) or ``direct`` (the model's own head; not conservative).
        scale: eV per unit of the model's output.
        offset: eV of every structure; published models subtract the mean of their energies.
        head_scales: of direct heads, ``forces`` in eV/Å and ``stress`` in eV/Å³; those not named have ``scale``.
        references: eV of each element the model may be used for, by atomic number.
        terms: of the training loss.
        semantics: meaning of the energies.

    Attributes:
        compiled: what computes in the place of single operations, see ``tasks.compiled``; None for these.

    Raises:
        CovariumError: direct forces are asked of a model that has no force head.
    """

    scale: Tensor
    reference_table: Tensor

    def __init__(
        self,
        model: AtomModel,
        *,
        references: Mapping[int, float],
        forces: ForceRule = "gradient",
        scale: float = 1.0,
        offset: float = 0.0,
        head_scales: Mapping[str, float] | None = None,
        terms: Sequence[Term] = (Term("energy"), Term("forces")),
        semantics: EnergySemantics | None = None,
    ) -> None:
        super().__init__()
        if forces not in ("gradient", "direct"):
            raise CovariumError(f"force rule '{forces}' is unknown; allowed: gradient, direct")
        if "energy" not in model.outputs:
            raise CovariumError(
                f"a potential needs a model of atomic energies; this one gives {', '.join(sorted(model.outputs))}"
            )
        if forces == "direct" and "forces" not in model.outputs:
            raise CovariumError(
                "direct forces need a model with a force head: equiformer_v2 with force_head=true, equiformer_v3 with "
                "force_head=gate; else forces=gradient"
            )
        quantities = [t.quantity for t in terms]
        if len(set(quantities)) < len(quantities):
            raise CovariumError(f"one loss term per quantity, got {', '.join(quantities)}")
        if "property" in quantities:
            raise CovariumError("a potential has loss terms of energy, forces and stress, not of a property")
        self.model = model
        self.compiled: Callable[..., Prediction] | None = None
        self.forces: ForceRule = forces
        if "stress" in quantities and not self.has_stress:
            raise CovariumError(
                "a stress term needs task.forces=gradient, or a model with a stress head (model.stress_head=true): a "
                "direct force head has no strain derivative"
            )
        self.offset = float(offset)
        self.head_scales = {name: float(value) for name, value in (head_scales or {}).items()}
        if unknown := sorted(self.head_scales.keys() - {"forces", "stress"}):
            raise CovariumError(f"head_scales are of forces and stress, got '{unknown[0]}'")
        self.terms = tuple(terms)
        self.semantics = semantics or EnergySemantics()
        self.references = {int(z): float(e) for z, e in sorted(references.items())}
        self.register_buffer("scale", torch.tensor(float(scale), dtype=torch.float64), persistent=False)
        table = torch.full((max(self.references, default=0) + 1,), float("nan"), dtype=torch.float64)
        for z, energy in self.references.items():
            table[z] = energy
        self.register_buffer("reference_table", table, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Potential:  # noqa: ANN401 - torch's own signature
        """Move with the module, but keep scale and references in float64."""
        scale, table = self.scale, self.reference_table
        super()._apply(fn, recurse)
        self.scale = scale.to(self.scale.device)
        self.reference_table = table.to(self.reference_table.device)
        return self

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that have a reference, the only ones that may occur."""
        return tuple(self.references)

    @property
    def stress(self) -> ForceRule:
        """``direct`` where forces are and the model has a head for the stress too, else the strain derivative."""
        return "direct" if self.forces == "direct" and "stress" in self.model.outputs else "gradient"

    @property
    def has_stress(self) -> bool:
        """Whether forces and stress are of one kind; no strain derivative is offered beside direct forces."""
        return self.stress == self.forces

    @property
    def weights(self) -> dict[str, float]:
        return {t.quantity: t.weight for t in self.terms}

    @property
    def selection(self) -> dict[str, float]:
        """Weights of the validation metrics in the choice of the best model."""
        names = {"energy": "energy_mae_per_atom", "forces": "forces_mae", "stress": "stress_mae"}
        return {names[t.quantity]: 1.0 for t in self.terms if t.weight > 0}

    def no_weight_decay(self) -> set[str]:
        return {f"model.{name}" for name in self.model.no_weight_decay()}

    def admit(self, system: AtomGraph) -> None:
        """Refuse what the potential was not made for.

        Raises:
            CovariumError: an element without reference, or a charge or spin that the model ignores.
        """
        refuse_unknown(system, self.reference_table, self.model.reads)

    def reference_energy(self, system: AtomGraph) -> Tensor:
        """What is no matter of the model, [B] float64 eV: references and offset."""
        return _sum(self.reference_table[system.numbers], system) + self.offset

    def evaluate(
        self,
        system: AtomGraph,
        *,
        forces: bool,
        stress: bool,
        create_graph: bool = False,
        rng: torch.Generator | None = None,
        denoising: Denoising | None = None,
    ) -> Prediction:
        """Energies without references, as needed in training: everything in units of the scale.

        Args:
            system: see ``predict``.
            forces, stress: what is asked for, each by its rule.
            create_graph: keep the graph of gradients, for a loss of forces.
            rng: for dropout.
            denoising: inputs of a denoising pass, for a model that has them.

        Returns:
            A prediction with energy Σ e_i in float64, forces and stress in the model's dtype; multiply by the scale.

        Raises:
            CovariumError: stress of a structure that is not periodic in three directions; gradients under
                ``torch.inference_mode()``, which makes none.
        """
        if stress:
            _refuse_without_volume(system)
        by_gradient = (forces and self.forces == "gradient") or (stress and self.stress == "gradient")
        if by_gradient and torch.is_inference_mode_enabled():
            raise CovariumError(
                "forces and stress are gradients, which torch.inference_mode() excludes; leave it out: no graph is "
                "kept in prediction, or use torch.no_grad()"
            )
        if self.compiled is not None:
            said = self.compiled(self, system, forces=forces, stress=stress, rng=rng, denoising=denoising)
        else:
            named = {} if denoising is None else {"denoising": denoising}
            said = self.of_model(
                lambda moved: self.model(moved, rng, **named),
                system, forces=forces, stress=stress, create_graph=create_graph,
            )  # fmt: skip
        return self._in_units_of_scale(said)

    def of_model(
        self,
        model: Callable[[AtomGraph], AtomOutput],
        system: AtomGraph,
        *,
        forces: bool,
        stress: bool,
        create_graph: bool,
    ) -> Prediction:
        """What ``evaluate`` returns but for the scale of direct heads, from what ``model`` says of a system."""
        by_strain = stress and self.stress == "gradient"
        by_gradient = by_strain or (forces and self.forces == "gradient")
        with torch.set_grad_enabled(torch.is_grad_enabled() or by_gradient):
            variables: list[Tensor] = []
            moved = system
            if by_gradient:
                positions = system.positions.detach().requires_grad_()
                variables.append(positions)
                moved = replace(system, positions=positions)
            if by_strain:
                strain = positions.new_zeros(system.num_graphs, 3, 3).requires_grad_()
                variables.append(strain)
                moved = _strained(moved, strain)
            with rounding_of(self.model):
                output = model(moved)
            assert output.energy is not None
            energy = _sum(output.energy.double(), system)
            gradients: tuple[Tensor, ...] = ()
            if by_gradient and energy.requires_grad:
                gradients = torch.autograd.grad(
                    energy.sum(), variables, create_graph=create_graph, allow_unused=True, materialize_grads=True
                )
            elif by_gradient:
                gradients = tuple(torch.zeros_like(v) for v in variables)
        f = None
        if forces:
            f = -gradients[0] if self.forces == "gradient" else output.forces
        s = output.stress if stress else None
        if by_strain:
            s = gradients[1] / _volume(system.cell)[:, None, None]
        return Prediction(energy=energy, atom_energy=output.energy.double(), forces=f, stress=s, noise=output.noise)

    def _in_units_of_scale(self, said: Prediction) -> Prediction:
        """What direct heads say in units of ``scale``; they may have scales of their own."""
        direct = {"forces": self.forces, "stress": self.stress}
        rescaled = {
            name: getattr(said, name) * (head_scale / float(self.scale))
            for name, head_scale in self.head_scales.items()
            if direct[name] == "direct" and getattr(said, name) is not None
        }
        return replace(said, **rescaled)

    def predict(self, system: AtomGraph, *, forces: bool = True, stress: bool = False) -> Prediction:
        """Energy, forces and stress in eV and Å; no graph is kept. Parameters that do not require grad save memory.

        Args:
            system: on the device and in the dtype of the model.
            forces: by the force rule of the task.
            stress: needs three periodic directions.

        Raises:
            CovariumError: see ``admit`` and ``evaluate``.
        """
        self.admit(system)
        with torch.no_grad():
            raw = self.evaluate(system, forces=forces, stress=stress)
        scale = self.scale
        return Prediction(
            energy=(raw.energy * scale + self.reference_energy(system)).detach(),
            atom_energy=(raw.atom_energy * scale + self.reference_table[system.numbers]).detach(),
            forces=None if raw.forces is None else (raw.forces * scale.to(raw.forces)).detach(),
            stress=None if raw.stress is None else (raw.stress * scale.to(raw.stress)).detach(),
        )

    def errors(self, batch: Batch, *, create_graph: bool, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """prediction − label per quantity of the loss, over the scale: energy [B], forces [free, 3], stress [B, 3, 3].

        Raises:
            CovariumError: the loss has a term that the labels lack.
        """
        asked = self.asked(batch)
        raw = self.evaluate(
            batch.system, forces="forces" in asked, stress="stress" in asked, create_graph=create_graph, rng=rng
        )
        return self.differences(raw, batch)

    def asked(self, batch: Batch) -> list[str]:
        """The quantities of the loss.

        Raises:
            CovariumError: the labels lack one of them.
        """
        asked = [t.quantity for t in self.terms if t.weight > 0]
        for quantity in asked:
            if quantity not in batch.labels:
                raise CovariumError(
                    f"the loss has a '{quantity}' term, but the data have no {quantity} label (they have: "
                    f"{', '.join(batch.labels) or 'none'}); set task.weights.{quantity}=0 or give the label's key"
                )
        return asked

    def differences(self, raw: Prediction, batch: Batch) -> dict[str, Tensor]:
        """What ``errors`` returns, of an ``evaluate``d batch."""
        asked = self.asked(batch)
        errors: dict[str, Tensor] = {}
        if "energy" in asked:
            target = (batch.labels["energy"] - self.reference_energy(batch.system)) / self.scale
            errors["energy"] = raw.energy - target
        if "forces" in asked and raw.forces is not None:
            target = (batch.labels["forces"] / self.scale).to(raw.forces)
            errors["forces"] = (raw.forces - target)[batch.free]
        if "stress" in asked and raw.stress is not None:
            errors["stress"] = raw.stress - (batch.labels["stress"] / self.scale).to(raw.stress)
        return errors

    def forward(self, batch: Batch, rng: torch.Generator | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """{term: (sum, count)} in float64; the loss is Σ weight · sum / count over the whole step."""
        return self.sums(self.errors(batch, create_graph=True, rng=rng), batch)

    def sums(self, errors: Mapping[str, Tensor], batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Sum and count of each term's losses of ``errors``."""
        sums = {}
        for term in self.terms:
            if term.weight == 0:
                continue
            error = errors[term.quantity]
            if term.quantity == "energy" and term.per_atom:
                error = error / batch.system.atoms_per_graph()
            losses = term.elements(error)
            count = torch.tensor(losses.numel(), dtype=torch.float64, device=losses.device)
            sums[term.quantity] = (losses.double().sum(), count)
        return sums

    def metrics(self, batch: Batch) -> dict[str, tuple[float, float]]:
        """{name: (sum, count)} in eV and Å for validation: MAE and MSE of energy, energy per atom, forces, stress."""
        with torch.no_grad():
            errors = self.errors(batch, create_graph=False)
        scaled = {name: error.detach().double() * self.scale for name, error in errors.items()}
        if "energy" in scaled:
            scaled["energy_per_atom"] = scaled["energy"] / batch.system.atoms_per_graph()
        names = {
            "energy": ("energy_mae", "energy_mse"),
            "energy_per_atom": ("energy_mae_per_atom", "energy_mse_per_atom"),
            "forces": ("forces_mae", "forces_mse"),
            "stress": ("stress_mae", "stress_mse"),
        }
        out = {}
        for name, error in scaled.items():
            absolute, squared = names[name]
            out[absolute] = (float(error.abs().sum()), float(error.numel()))
            out[squared] = (float(error.square().sum()), float(error.numel()))
        return out

    def describe(self) -> dict[str, Any]:
        """Everything but the weights and the model's Config, as JSON; ``from_description`` is its inverse."""
        return {
            "kind": "potential",
            "forces": self.forces,
            "scale": float(self.scale),
            "offset": self.offset,
            "head_scales": self.head_scales,
            "references": {str(z): e for z, e in self.references.items()},
            "terms": [asdict(t) for t in self.terms],
            "semantics": asdict(self.semantics),
        }

    @classmethod
    def from_description(cls, model: AtomModel, description: Mapping[str, Any]) -> Potential:
        """Rebuild from ``describe``.

        Raises:
            CovariumError: a key is missing or unknown.
        """
        return cls(model, **arguments(description))


def arguments(description: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments of a description."""
    given = {key: value for key, value in description.items() if key != "kind"}
    expected = {"forces", "scale", "offset", "head_scales", "references", "terms", "semantics"}
    if given.keys() != expected:
        raise CovariumError(f"description of a potential has keys {sorted(given)}, expected {sorted(expected)}")
    return {
        **given,
        "references": {int(z): e for z, e in given["references"].items()},
        "terms": tuple(Term(**t) for t in given["terms"]),
        "semantics": EnergySemantics(**given["semantics"]),
    }


def refuse_unknown(system: AtomGraph, table: Tensor, reads: frozenset[str]) -> None:
    """Refuse elements that are NaN in a task's table by atomic number, and charge and spin that its model ignores.

    Raises:
        CovariumError: names the first such atom or structure.
    """
    z = system.numbers
    known = z < len(table)
    known &= ~torch.isnan(table[z.clamp(max=len(table) - 1)])
    if not bool(known.all()):
        atom = int((~known).nonzero()[0])
        elements = (~torch.isnan(table)).nonzero().flatten().tolist()
        raise CovariumError(
            f"atom {atom} has atomic number {int(z[atom])}; this model knows {elements}: "
            "use one that was trained on that element"
        )
    for name, value in (("charge", system.charge), ("spin", system.spin)):
        if name not in reads and bool((value != 0).any()):
            structure = int((value != 0).nonzero()[0])
            which = "the structure" if system.num_graphs == 1 else f"structure {structure} of the batch"
            raise CovariumError(
                f"{which} has {name} {float(value[structure])}, but this model does not read {name}: "
                f"its answer would be that of the neutral closed-shell system. Remove the {name} to ask for that"
            )


def _refuse_without_volume(system: AtomGraph) -> None:
    if not bool(system.pbc.all()):
        structure = int((~system.pbc.all(1)).nonzero()[0])
        raise CovariumError(
            f"stress of structure {structure} is undefined: pbc is {system.pbc[structure].tolist()}, and only a system "
            "periodic in three directions has a volume"
        )


def _sum(values: Tensor, system: AtomGraph) -> Tensor:
    """Sum over the atoms of each structure: [N] → [B]."""
    return scatter_sum(values, system.batch, system.num_graphs)


def _volume(cell: Tensor) -> Tensor:
    """|a · (b × c)| of [B, 3, 3]: arithmetic alone, which a CUDA graph can hold, unlike a factorisation."""
    a, b, c = cell.unbind(1)
    return (a * torch.linalg.cross(b, c)).sum(1).abs()


def _strained(system: AtomGraph, strain: Tensor) -> AtomGraph:
    """Positions and lattice vectors r → r (1 + ε), ε the symmetric part of ``strain`` [B, 3, 3]."""
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    exact = unrounded(symmetric)
    moved = torch.bmm(system.positions.unsqueeze(1).to(exact.dtype), gather(exact, system.batch)).squeeze(1)
    stretched = system.cell.to(exact.dtype) @ exact
    return replace(
        system,
        positions=system.positions + moved.to(system.positions.dtype),
        cell=system.cell + stretched.to(system.cell.dtype),
    )

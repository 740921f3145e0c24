"""The property task: one scalar or vector of every structure, from a model of atoms.

y = reduce_i (scale · e_i + reference(Z_i)) + offset from the scalars of the atoms, or y = scale · value + offset from a
head of the model's own. Letters: N atoms, B structures. Values of structures are float64 whatever the dtype of the
model. Units are those of the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from covarium.data import Batch
from covarium.errors import CovariumError, nearest
from covarium.ops.gather import scatter_sum
from covarium.ops.norm import norm
from covarium.systems import AtomGraph, AtomModel, rounding_of
from covarium.tasks.potential import Term, refuse_unknown

Reduction = Literal["sum", "mean", "mean_with_zero"]
Readout = Literal["sum", "mean", "mean_with_zero", "value", "length"]


def reduce_atoms(values: Tensor, system: AtomGraph, how: Reduction) -> Tensor:
    """[N] → [B]: ``sum`` (extensive), ``mean`` (intensive), or ``mean_with_zero``, the sum over one atom more than
    there are, as TorchMD-NET 3.x computes its mean."""
    total = scatter_sum(values, system.batch, system.num_graphs)
    if how == "sum":
        return total
    atoms = system.atoms_per_graph()
    return total / (atoms + 1 if how == "mean_with_zero" else atoms.clamp(min=1))


@dataclass(frozen=True)
class PropertySemantics:
    """What the values mean; travels with every checkpoint and is printed.

    Attributes:
        name: of the property, as its data call it.
        unit: as far as it was stated; empty if it was not.
        theory: level of theory, as far as the data state it.
    """

    name: str
    unit: str = ""
    theory: str = ""

    @property
    def unit_or_not(self) -> str:
        """The unit in words."""
        return self.unit or "unit not stated"


@dataclass(frozen=True)
class PropertyPrediction:
    """``value``: [B] or [B, 3] float64, in the unit of the labels."""

    value: Tensor

    def transform(self, g: Tensor) -> PropertyPrediction:
        """What the prediction becomes when the system is transformed by the orthogonal [3, 3] matrix g."""
        return self if self.value.ndim == 1 else replace(self, value=self.value @ g.to(self.value).T)


class Property(nn.Module):
    """A model together with the way from its output to a property.

    Args:
        model: of scalars of the atoms, or with a ``value`` of its own.
        semantics: name, unit, theory.
        readout: ``sum``, ``mean``, ``mean_with_zero`` of the atoms' scalars; or of the model's own head its ``value``,
            or the ``length`` of it where that is a vector and the label is not (a dipole moment's magnitude).
        references: of each element the model may be used for, by atomic number, in the unit of the property; added to
            the atoms' scalars, zero where there is no such part.
        scale: unit of the property per unit of the model's output.
        offset: added to every structure; zero for vectors.
        spread: what errors are divided by in the loss.
        term: of the training loss.

    Raises:
        CovariumError: the model does not give what ``readout`` reads, or a vector has an offset or references.
    """

    scale: Tensor
    reference_table: Tensor

    def __init__(
        self,
        model: AtomModel,
        *,
        semantics: PropertySemantics,
        readout: Readout,
        references: Mapping[int, float],
        scale: float = 1.0,
        offset: float = 0.0,
        spread: float = 1.0,
        term: Term | None = None,
    ) -> None:
        super().__init__()
        if readout not in get_args(Readout):
            hint = nearest(readout, get_args(Readout))
            raise CovariumError(f"readout '{readout}' is unknown{hint}; allowed: {', '.join(get_args(Readout))}")
        own = readout in ("value", "length")
        if own == ("energy" in model.outputs):
            gives = ", ".join(sorted(model.outputs))
            raise CovariumError(
                f"readout '{readout}' does not fit a model that gives {gives}: "
                "sum and mean read scalars of the atoms, value and length read a head of the model's own"
            )
        vector = own and bool(model.outputs & {"dipole", "vector"})
        if readout == "length" and not vector:
            raise CovariumError(f"readout 'length' needs a vector, but the model gives {', '.join(model.outputs)}")
        if own and any(references.values()):
            raise CovariumError(f"readout '{readout}' has no atoms to add references to; they must be zero")
        if vector and offset != 0:
            raise CovariumError(f"an offset of {offset} has no direction; it must be 0 for a vector")
        if term is not None and term.loss == "l2" and (not vector or readout == "length"):
            raise CovariumError("loss 'l2' is a norm over the components of a vector; scalars have mae, mse, huber")
        self.model = model
        self.semantics = semantics
        self.readout: Readout = readout
        self.term = term or Term("property")
        self.offset, self.spread = float(offset), float(spread)
        self.references = {int(z): float(e) for z, e in sorted(references.items())}
        self.register_buffer("scale", torch.tensor(float(scale), dtype=torch.float64), persistent=False)
        table = torch.full((max(self.references, default=0) + 1,), float("nan"), dtype=torch.float64)
        for z, value in self.references.items():
            table[z] = value
        self.register_buffer("reference_table", table, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Property:  # noqa: ANN401 - torch's own signature
        """Move with the module, but keep scale and references in float64."""
        scale, table = self.scale, self.reference_table
        super()._apply(fn, recurse)
        self.scale = scale.to(self.scale.device)
        self.reference_table = table.to(self.reference_table.device)
        return self

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that may occur."""
        return tuple(self.references)

    @property
    def vector(self) -> bool:
        """Whether a value is a vector."""
        return self.readout == "value" and "spatial_extent" not in self.model.outputs

    @property
    def weights(self) -> dict[str, float]:
        return {"property": self.term.weight}

    @property
    def selection(self) -> dict[str, float]:
        """Weights of the validation metrics in the choice of the best model."""
        return {"property_mae": 1.0}

    def no_weight_decay(self) -> set[str]:
        return {f"model.{name}" for name in self.model.no_weight_decay()}

    def admit(self, system: AtomGraph) -> None:
        """Refuse what the model was not made for.

        Raises:
            CovariumError: an element that training lacked, or a charge or spin that the model ignores.
        """
        refuse_unknown(system, self.reference_table, self.model.reads)

    def values(self, system: AtomGraph, rng: torch.Generator | None = None) -> Tensor:
        """[B] or [B, 3] float64 in the unit of the labels, differentiable."""
        with rounding_of(self.model):
            output = self.model(system, rng)
        if self.readout == "value" or self.readout == "length":
            assert output.value is not None
            value = output.value.double() * self.scale + self.offset
            return norm(value) if self.readout == "length" else value
        assert output.energy is not None
        atoms = output.energy.double() * self.scale + self.reference_table[system.numbers]
        return reduce_atoms(atoms, system, self.readout) + self.offset

    def predict(self, system: AtomGraph) -> PropertyPrediction:
        """The property of every structure; no graph is kept.

        Raises:
            CovariumError: see ``admit`` and the model.
        """
        self.admit(system)
        with torch.no_grad():
            return PropertyPrediction(self.values(system))

    def errors(self, batch: Batch, rng: torch.Generator | None = None) -> Tensor:
        """[B] or [B, 3], prediction − label in the unit of the labels.

        Raises:
            CovariumError: the data have no such label, or one of another shape.
        """
        if "property" not in batch.labels:
            raise CovariumError(
                f"the data have no label for '{self.semantics.name}'; name its key with --set data.keys.property=KEY"
            )
        values, labels = self.values(batch.system, rng), batch.labels["property"]
        if values.shape != labels.shape:
            raise CovariumError(
                f"'{self.semantics.name}' is {_kind(labels)} in the data, but this model gives {_kind(values)}"
            )
        return values - labels

    def forward(self, batch: Batch, rng: torch.Generator | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """{"property": (sum, count)} in float64, of errors over the spread."""
        losses = self.term.elements(self.errors(batch, rng) / self.spread)
        count = torch.tensor(losses.numel(), dtype=torch.float64, device=losses.device)
        return {"property": (losses.sum(), count)}

    def metrics(self, batch: Batch) -> dict[str, tuple[float, float]]:
        """{name: (sum, count)} for validation: MAE and MSE over the components, in the unit of the labels."""
        with torch.no_grad():
            error = self.errors(batch)
        count = float(error.numel())
        return {
            "property_mae": (float(error.abs().sum()), count),
            "property_mse": (float(error.square().sum()), count),
        }

    def describe(self) -> dict[str, Any]:
        """Everything but the weights and the model's Config, as JSON; ``from_description`` is its inverse."""
        return {
            "kind": "property",
            "readout": self.readout,
            "scale": float(self.scale),
            "offset": self.offset,
            "spread": self.spread,
            "references": {str(z): e for z, e in self.references.items()},
            "term": asdict(self.term),
            "semantics": asdict(self.semantics),
        }

    @classmethod
    def from_description(cls, model: AtomModel, description: Mapping[str, Any]) -> Property:
        """Rebuild from ``describe``.

        Raises:
            CovariumError: a key is missing or unknown.
        """
        given = dict(description)
        given.pop("kind", None)
        expected = {"readout", "scale", "offset", "spread", "references", "term", "semantics"}
        if given.keys() != expected:
            raise CovariumError(f"description of a property has keys {sorted(given)}, expected {sorted(expected)}")
        return cls(
            model,
            semantics=PropertySemantics(**given["semantics"]),
            readout=given["readout"],
            references={int(z): e for z, e in given["references"].items()},
            scale=given["scale"],
            offset=given["offset"],
            spread=given["spread"],
            term=Term(**given["term"]),
        )


def _kind(values: Tensor) -> str:
    return "a vector" if values.ndim == 2 else "a scalar"

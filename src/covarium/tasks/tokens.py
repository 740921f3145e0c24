"""The token task: new positions, vectors or scalars of every token, from a model of tokens.

Positions are centred on the mean of their sample and scalars on that of the training data (in float64), all inputs are
divided by constants of the training data, and answers restored: a position comes out as p + δ · vector. So translations
are exact for every model with ``centre``, and float32 is enough far from the origin. Letters: N tokens, B samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from covarium.data.tokens import TARGETS, TokenBatch
from covarium.errors import CovariumError, nearest
from covarium.ops.gather import gather, scatter_sum
from covarium.systems import TokenModel, Tokens

LOSSES = ("mae", "mse")


@dataclass(frozen=True)
class TokenTerm:
    """One term of the loss: ``mae`` or ``mse`` over components of errors in units of the target's scale, and its
    weight."""

    loss: str = "mse"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise CovariumError(
                f"loss '{self.loss}' is unknown for tokens; allowed: {', '.join(LOSSES)}{nearest(self.loss, LOSSES)}"
            )
        if self.weight < 0:
            raise CovariumError(f"the weight of a loss term is 0 or more, got {self.weight}")


@dataclass(frozen=True)
class Scaling:
    """What inputs are divided by and answers multiplied by; numbers of the training data.

    Attributes:
        length: of centred positions.
        vectors: of each vector of a token.
        scalar_means, scalars: of each scalar, taken off and divided by.
        positions: δ, of changes of position.
        out_vectors: of each vector that comes out.
        out_scalar_means, out_scalars: of each scalar that comes out.
    """

    length: float = 1.0
    vectors: tuple[float, ...] = ()
    scalar_means: tuple[float, ...] = ()
    scalars: tuple[float, ...] = ()
    positions: float = 1.0
    out_vectors: tuple[float, ...] = ()
    out_scalar_means: tuple[float, ...] = ()
    out_scalars: tuple[float, ...] = ()


@dataclass(frozen=True)
class TokenPrediction:
    """Answers for N tokens, those that the task was made for: positions [N, 3] and scalars [N, S'] in float64,
    vectors [N, V', 3]."""

    positions: Tensor | None = None
    vectors: Tensor | None = None
    scalars: Tensor | None = None

    def transform(self, g: Tensor) -> TokenPrediction:
        """What the answer becomes when the system is transformed by the orthogonal [3, 3] matrix g."""
        turned = {
            name: None if value is None else value @ g.to(value).T
            for name, value in (("positions", self.positions), ("vectors", self.vectors))
        }
        return replace(self, **turned)


class TokenRegression(nn.Module):
    """A model of tokens together with its scaling and loss terms.

    Args:
        model: its first vector is the change of position when positions are asked for, further ones are the vectors.
        targets: what is asked for, from ``positions``, ``vectors``, ``scalars``.
        scaling: see there.
        terms: of the loss, by target; targets without one are not trained.
        centre: take the mean position of each sample off; without, the model sees where samples are.

    Raises:
        CovariumError: an unknown target or term, or none.
    """

    def __init__(
        self,
        model: TokenModel,
        *,
        targets: tuple[str, ...],
        scaling: Scaling,
        terms: Mapping[str, TokenTerm],
        centre: bool = True,
    ) -> None:
        super().__init__()
        if not targets or set(targets) - set(TARGETS):
            raise CovariumError(f"targets of tokens are {', '.join(TARGETS)}; got {', '.join(targets) or 'none'}")
        for name in terms:
            if name not in targets:
                raise CovariumError(
                    f"loss term '{name}' has no target; the data have {', '.join(targets)}{nearest(name, targets)}"
                )
        self.model = model
        self.targets = tuple(targets)
        self.scaling = scaling
        self.terms = dict(terms)
        self.centre = centre

    @property
    def weights(self) -> dict[str, float]:
        return {name: term.weight for name, term in self.terms.items()}

    @property
    def selection(self) -> dict[str, float]:
        """Mean squared errors in units of the scales decide on the best model."""
        scales = {"positions": [self.scaling.positions], "vectors": self.scaling.out_vectors}
        scales["scalars"] = self.scaling.out_scalars
        return {
            f"{name}_mse": term.weight / (sum(s * s for s in scales[name]) / len(scales[name]))
            for name, term in self.terms.items()
            if term.weight > 0
        }

    def no_weight_decay(self) -> set[str]:
        return {f"model.{name}" for name in self.model.no_weight_decay()}

    def scaled(self, system: Tokens) -> Tokens:
        """The system as the model sees it.

        Raises:
            CovariumError: other vectors or scalars than the task was made for.
        """
        s, one = self.scaling, next(self.model.parameters())
        found, own = (system.vectors.shape[1], system.scalars.shape[1]), (len(s.vectors), len(s.scalars))
        if found != own:
            raise CovariumError(
                f"the samples have {found[0]} vectors and {found[1]} scalars per token, this model was trained on "
                f"{own[0]} and {own[1]}"
            )
        x = system.positions.double()
        if self.centre:
            sums = scatter_sum(x, system.batch, system.num_samples)
            x = x - gather(sums / system.counts.to(x).unsqueeze(1), system.batch)
        vectors = system.vectors / system.vectors.new_tensor(s.vectors)[:, None]
        scalars = system.scalars.double()
        means, widths = (scalars.new_tensor(values) for values in (s.scalar_means, s.scalars))
        return replace(
            system,
            positions=(x / s.length).to(one.dtype),
            vectors=vectors.to(one.dtype),
            scalars=((scalars - means) / widths).to(one.dtype),
        )

    def evaluate(self, system: Tokens, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """Answers in units of the scales: changes of position, vectors, scalars; differentiable."""
        output = self.model(self.scaled(system), rng)
        moved = int("positions" in self.targets)
        # the first of the vectors, as a slice: there is none when only scalars are asked for
        found = {"positions": output.vectors[:, :1].flatten(1), "vectors": output.vectors[:, moved:]}
        found["scalars"] = output.scalars
        return {name: found[name] for name in self.targets}

    def predict(self, system: Tokens) -> TokenPrediction:
        """Answers in the units of the data; no graph is kept."""
        s = self.scaling
        with torch.no_grad():
            raw = self.evaluate(system)
        out: dict[str, Tensor] = {}
        if "positions" in raw:
            out["positions"] = system.positions.double() + s.positions * raw["positions"].double()
        if "vectors" in raw:
            out["vectors"] = raw["vectors"] * raw["vectors"].new_tensor(s.out_vectors)[:, None]
        if "scalars" in raw:
            scalars = raw["scalars"].double()
            out["scalars"] = scalars * scalars.new_tensor(s.out_scalars) + scalars.new_tensor(s.out_scalar_means)
        return TokenPrediction(**out)

    def errors(self, batch: TokenBatch, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """Answer − target in units of the scales.

        Raises:
            CovariumError: the data lack a target.
        """
        s, raw = self.scaling, self.evaluate(batch.system, rng)
        errors = {}
        for name in self.terms:
            if name not in batch.targets:
                raise CovariumError(f"the loss has a term '{name}', the data have only {', '.join(batch.targets)}")
            target, own = batch.targets[name].double(), raw[name]
            if name == "positions":
                target = (target - batch.system.positions.double()) / s.positions
            elif name == "vectors":
                target = target / target.new_tensor(s.out_vectors)[:, None]
            else:
                target = (target - target.new_tensor(s.out_scalar_means)) / target.new_tensor(s.out_scalars)
            errors[name] = own - target.to(own)
        return errors

    def forward(self, batch: TokenBatch, rng: torch.Generator | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """{term: (sum, count)} in float64; the loss is Σ weight · sum / count over the whole step."""
        sums = {}
        for name, error in self.errors(batch, rng).items():
            losses = error.abs() if self.terms[name].loss == "mae" else error.square()
            count = torch.tensor(losses.numel(), dtype=torch.float64, device=losses.device)
            sums[name] = (losses.double().sum(), count)
        return {name: value for name, value in sums.items() if self.terms[name].weight > 0}

    def metrics(self, batch: TokenBatch) -> dict[str, tuple[float, float]]:
        """{name: (sum, count)} in the units of the data: MAE and MSE over components of each trained target."""
        s = self.scaling
        with torch.no_grad():
            errors = self.errors(batch)
        scales = {"vectors": s.out_vectors, "scalars": s.out_scalars}
        out = {}
        for name, error in errors.items():
            wide = error.double()
            size = wide.new_tensor(s.positions if name == "positions" else scales[name])
            wide = wide * (size[:, None] if name == "vectors" else size)
            out[f"{name}_mae"] = (float(wide.abs().sum()), float(wide.numel()))
            out[f"{name}_mse"] = (float(wide.square().sum()), float(wide.numel()))
        return out

    def describe(self) -> dict[str, Any]:
        """Everything but the weights and the model's Config, as JSON; ``from_description`` is its inverse."""
        return {
            "kind": "tokens",
            "targets": list(self.targets),
            "scaling": asdict(self.scaling),
            "terms": {name: asdict(term) for name, term in self.terms.items()},
            "centre": self.centre,
        }

    @classmethod
    def from_description(cls, model: TokenModel, description: Mapping[str, Any]) -> TokenRegression:
        """Rebuild from ``describe``.

        Raises:
            CovariumError: a key is missing or unknown.
        """
        given = {key: value for key, value in description.items() if key != "kind"}
        expected = {"targets", "scaling", "terms", "centre"}
        if given.keys() != expected:
            raise CovariumError(f"description of a token task has keys {sorted(given)}, expected {sorted(expected)}")
        scaling: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given["scaling"].items()}
        return cls(
            model,
            targets=tuple(given["targets"]),
            scaling=Scaling(**scaling),
            terms={name: TokenTerm(**term) for name, term in given["terms"].items()},
            centre=given["centre"],
        )

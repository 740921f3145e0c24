"""What a self-learning Monte Carlo run is told: typed, written resolved, and read again when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field

from covarium.config import Section, build, merge, parse_assignment, read_yaml
from covarium.models.spin_transformer import Config as ModelConfig
from covarium.physics.double_exchange import DoubleExchange
from covarium.training import Settings

# Measured on 4 × 4 and 6 × 6: lower rates end higher, larger ones gain nothing.
TRAINING: Mapping[str, Any] = {
    "steps": 1500, "lr": 3e-3, "batch_size": 256, "weight_decay": 0.0, "ema_decay": 0.99, "clip_norm": 1.0,
    "save_s": 10.0,
}  # fmt: skip


class LatticeSection(Section):
    """The double-exchange model on an L × L lattice; the defaults lie where its spins begin to order, at half filling.

    Attributes:
        size: L.
        hopping: t.
        hund: J, coupling of an electron to the spin of its site.
        chemical_potential: μ, 0 at half filling.
        inverse_temperature: β.
    """

    size: int = Field(default=6, ge=2)
    hopping: float = Field(default=1.0, allow_inf_nan=False)
    hund: float = Field(default=1.0, allow_inf_nan=False)
    chemical_potential: float = Field(default=0.0, allow_inf_nan=False)
    inverse_temperature: float = Field(default=20.0, gt=0, allow_inf_nan=False)


class PlainSection(Section):
    """Local updates with the exact weight: where the first samples come from, and what everything is compared with.

    Attributes:
        chains: independent chains.
        warmup: sweeps before anything is kept; the width of the moves is chosen in them.
        sweeps: measured sweeps of each chain.
        every: sweeps between samples for the first fit.
    """

    chains: int = Field(default=32, ge=1)
    warmup: int = Field(default=150, ge=10)
    sweeps: int = Field(default=300, ge=40)
    every: int = Field(default=3, ge=1)


class SampleSection(Section):
    """Samples for the fits, made by self-learning with the first linear model.

    Attributes:
        train: configurations to learn from.
        valid: to choose the best weights by.
        test: for the errors that are shown.
        every: steps of self-learning between samples; more where few are accepted, as a refusal repeats a sample.
    """

    train: int = Field(default=12000, ge=100)
    valid: int = Field(default=2000, ge=10)
    test: int = Field(default=4000, ge=10)
    every: int = Field(default=1, ge=1)


class EffectiveSection(Section):
    """The effective models.

    Attributes:
        layers: of the deepest; all from 0, the linear model, are fitted.
        attention_shells: shells of neighbours in the block spins of attention; None for all.
        coupling_shells: shells of the couplings; None for all.
    """

    layers: int = Field(default=6, ge=0)
    attention_shells: int | None = Field(default=None, ge=1)
    coupling_shells: int | None = Field(default=None, ge=1)


class ProposalSection(Section):
    """How the effective models propose.

    Attributes:
        chains: independent chains.
        warmup: steps before anything is kept.
        steps: measured steps, one exact weight each.
        sweeps: of overrelaxation and heat bath in the linear model, for one of its proposals.
        corrections: proposals of the linear model that attention corrects before the exact weight decides.
    """

    chains: int = Field(default=256, ge=1)
    warmup: int = Field(default=10, ge=1)
    steps: int = Field(default=40, ge=8)
    sweeps: int = Field(default=3, ge=1)
    corrections: int = Field(default=5, ge=1)


class SlmcConfig(Section):
    """Everything that determines a run.

    Attributes:
        training: fields of ``covarium.training.Settings``, for each number of layers.
        seed: of spins, moves, decisions and order.
        threads: of torch; None leaves its own choice.
    """

    lattice: LatticeSection = LatticeSection()
    plain: PlainSection = PlainSection()
    samples: SampleSection = SampleSection()
    model: EffectiveSection = EffectiveSection()
    proposal: ProposalSection = ProposalSection()
    training: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=1, gt=0)

    @property
    def physics(self) -> DoubleExchange:
        lattice = self.lattice
        return DoubleExchange(
            lattice.size, lattice.hopping, lattice.hund, lattice.chemical_potential, lattice.inverse_temperature
        )

    @property
    def settings(self) -> Settings:
        return build(Settings, self.training, "training")

    def effective(self, layers: int) -> ModelConfig:
        """Configuration of the effective model with so many layers."""
        return ModelConfig(self.lattice.size, layers, self.model.attention_shells, self.model.coupling_shells)


def configure(file: Path | None, given: Mapping[str, Any], assignments: Sequence[str]) -> SlmcConfig:
    """Later wins: defaults, the file, options, ``--set``; everything is checked and filled in.

    Raises:
        CovariumError: an unknown key, with the nearest one, or a value that is not allowed.
    """
    base = {"training": dict(TRAINING)}
    layers = [read_yaml(file)] if file else []
    config = build(SlmcConfig, merge(base, *layers, given, *[parse_assignment(text) for text in assignments]))
    config.effective(config.model.layers)
    return config.model_copy(update={"training": asdict(config.settings) | {"betas": list(config.settings.betas)}})

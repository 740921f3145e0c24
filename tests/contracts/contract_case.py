"""One case of the contracts: a model with a configuration, how exact it claims to be, and its potential."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from covarium.analysis.check import Probe
from covarium.models import MODELS
from covarium.tasks import Potential, Term

ELEMENTS = (1, 6, 8)
REFERENCES = {1: -13.6, 6: -1030.0, 8: -2040.0}


@dataclass(frozen=True)
class Case:
    """``rotation``: highest relative deviation of energies and forces under rotations, 1e-10 where the model is exact;
    ``smooth``: neighbours enter and leave without a jump, so forces are a continuous derivative everywhere;
    ``local``: an atom knows nothing of atoms it is not connected with (norms over whole structures do)."""

    name: str
    model: str
    config: Any
    rotation: float = 1e-10
    smooth: bool = True
    forces: str = "gradient"
    local: bool = True

    @property
    def exact(self) -> bool:
        return self.rotation == 1e-10


def perturb(model: nn.Module, size: float = 0.1) -> nn.Module:
    """Away from the special values of a new model: zero biases, unit norms, nearly empty element tables."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def build(case: Case) -> nn.Module:
    """The model in float64 with reproducible weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return perturb(MODELS[case.model][0](case.config).double())


def potential(case: Case) -> Potential:
    return Potential(
        build(case), references=REFERENCES, forces=case.forces, scale=1.0, terms=(Term("energy"), Term("forces"))
    )


@cache
def probe(case: Case) -> Probe:
    return Probe(potential(case))

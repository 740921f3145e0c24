"""Models of tokens: every entry of MODELS as it is, and each with every value of every switch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from contract_case import perturb

from covarium.data.tokens import TokenSample
from covarium.models import MODELS
from covarium.tasks import TokenRegression
from covarium.tasks.tokens import Scaling, TokenTerm

VECTORS, SCALARS = 2, 3
TINY: dict[str, dict[str, Any]] = {
    "gatr": {"hidden_mv_channels": 4, "hidden_s_channels": 8, "num_blocks": 2, "num_heads": 2},
    "transformer": {"hidden_channels": 16, "num_blocks": 2, "num_heads": 2},
}


@dataclass(frozen=True)
class TokenCase:
    """``sizes``: tokens of the samples to look at."""

    name: str
    model: str
    fields: dict[str, Any]
    sizes: tuple[int, ...] = (5, 1, 8)
    centre: bool = True

    def __hash__(self) -> int:
        return hash(self.name)


def _of(model: str, name: str, sizes: tuple[int, ...] = (5, 1, 8), centre: bool = True, **fields: Any) -> TokenCase:
    return TokenCase(f"{model}-{name}", model, TINY[model] | fields, sizes, centre)


GRID = {"axial": 4, "rotary": (False, False)}
CASES = [
    *(TokenCase(f"{name}-default", name, {}) for name, (model, _) in MODELS.items() if model.system == "tokens"),
    *(_of("gatr", variant, variant=variant) for variant in ("E", "P", "iP", "C")),
    _of("gatr", "multi_head", multi_query=False),
    _of("gatr", "relu", activation="relu", head_factor=1),
    _of("gatr", "sigmoid", activation="sigmoid"),
    _of("gatr", "canonical", join_reference="canonical"),
    _of("gatr", "reinsert", reinsert_mv_channels=(0, 2), reinsert_s_channels=(1,)),
    _of("gatr", "reinsert_multi_head", multi_query=False, reinsert_mv_channels=(1,), variant="C"),
    _of("gatr", "rotary", rotary=(True,)),
    _of("gatr", "axial", (8, 8), **GRID),
    _of("gatr", "axial_rotary", (12, 12), axial=4, rotary=(True, False), variant="E"),
    _of("gatr", "not_centred", centre=False),
    _of("gatr", "C_not_centred", centre=False, variant="C"),
    _of("transformer", "multi_query", multi_query=True),
    _of("transformer", "rotary", rotary=(True,), rotary_base=100.0),
    _of("transformer", "axial", (8, 8), **GRID),
    _of("transformer", "not_centred", centre=False),
]


def task(case: TokenCase) -> TokenRegression:
    """The model in float64 with reproducible weights, asked for everything."""
    model_class, config_class = MODELS[case.model]
    config = config_class(**(config_class.for_tokens(VECTORS, SCALARS, 2, 1) | case.fields))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = perturb(model_class(config).double())
    scaling = Scaling(1.3, (0.7, 2.0), (0.1, 0.0, -0.2), (1.0, 2.0, 0.5), 0.4, (3.0,), (0.3,), (1.5,))
    terms = {"positions": TokenTerm(), "vectors": TokenTerm("mae"), "scalars": TokenTerm()}
    return TokenRegression(model, targets=tuple(terms), scaling=scaling, terms=terms, centre=case.centre).double()


def samples(case: TokenCase, seed: int = 0, shift: float = 0.0) -> list[TokenSample]:
    """Random tokens with random targets."""
    rng = np.random.default_rng(seed)
    return [
        TokenSample(
            positions=shift + rng.normal(size=(n, 3)), vectors=rng.normal(size=(n, VECTORS, 3)),
            scalars=rng.normal(size=(n, SCALARS)), index=k,
            targets={"positions": shift + rng.normal(size=(n, 3)), "vectors": rng.normal(size=(n, 1, 3)),
                     "scalars": rng.normal(size=(n, 1))},
        )
        for k, n in enumerate(case.sizes)
    ]  # fmt: skip

"""What the contracts run over: every entry of MODELS as it is, and each model with every value of every switch."""

import cases_equiformer_v2
from contract_case import Case

from covarium.models import MODELS
from covarium.systems import AtomModel

ENTRIES = [Case(f"{n}-default", n, config()) for n, (model, config) in MODELS.items() if issubclass(model, AtomModel)]
CASES = ENTRIES + cases_equiformer_v2.VARIANTS

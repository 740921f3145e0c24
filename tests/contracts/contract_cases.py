"""What the contracts run over: every entry of MODELS as it is, and each model with every value of every switch."""

import cases_equiformer
import cases_equiformer_v2
import cases_equiformer_v3
import cases_torchmd_et
from contract_case import Case

from covarium.models import MODELS

ENTRIES = [Case(f"{name}-default", name, config()) for name, (_, config) in MODELS.items()]
VARIANTS = (cases_equiformer, cases_equiformer_v2, cases_equiformer_v3, cases_torchmd_et)
CASES = ENTRIES + [case for module in VARIANTS for case in module.VARIANTS]

"""What the contracts run over: every entry of MODELS as it is, and each model with every value of every switch."""

import cases_equiformer
import cases_equiformer_v2
from contract_case import Case

from covarium.models import MODELS

ENTRIES = [Case(f"{name}-default", name, config()) for name, (_, config) in MODELS.items()]
CASES = ENTRIES + cases_equiformer_v2.VARIANTS + cases_equiformer.VARIANTS

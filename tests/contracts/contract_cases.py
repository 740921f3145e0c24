"""What the contracts run over: every entry of MODELS as it is, and each model with every value of every switch."""

import cases_equiformer_v2
from contract_case import Case

from covarium.models import MODELS

ENTRIES = [Case(f"{name}-default", name, config()) for name, (m, config) in MODELS.items() if m.system == "atoms"]
CASES = ENTRIES + cases_equiformer_v2.VARIANTS

"""What the contracts run over: every model of atoms as it is, and with every value of every switch."""

import cases_equiformer
import cases_equiformer_v2
import cases_equiformer_v3
import cases_torchmd_et
from contract_case import Case

from covarium.models import MODELS

ENTRIES = [Case(f"{n}-default", n, config()) for n, (model, config) in MODELS.items() if model.system == "atoms"]
VARIANTS = (cases_equiformer, cases_equiformer_v2, cases_equiformer_v3, cases_torchmd_et)
CASES = ENTRIES + [case for module in VARIANTS for case in module.VARIANTS]

"""Where the linear model is rarely accepted: what 1 to 6 layers of attention make of it, on 6 × 6.

    python benchmarks/slmc_depth.py [--out DIR]

One run of ``covarium slmc``; DIR keeps it, report included, and an interrupted run goes on there. Acceptance is that of
end points which do not remember their start: ten proposals of three sweeps of heat bath and overrelaxation, there and
back, each corrected by the attention. Beside it stands what the errors on the test samples give for independent pairs.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from record import write_record

from covarium import checkpoint
from covarium.analysis.lattice_plots import difference, power_law
from covarium.config import parse_assignment
from covarium.files import replace_text
from covarium.workflows.slmc import CONFIG, Stages, resumed_config, slmc
from covarium.workflows.slmc_config import SlmcConfig, configure
from covarium.workflows.slmc_report import worst

SETTINGS = (
    "lattice.size=6", "lattice.hund=4", "lattice.chemical_potential=-3", "lattice.inverse_temperature=26",
)  # fmt: skip


def independent(log_ratio: torch.Tensor) -> float:
    """Acceptance between independent configurations, from log W + H_eff [n] of samples of W alone.

    Proposals have the weight exp(−H_eff), which reweights one configuration of each pair by exp(−log_ratio).
    """
    inverse = torch.exp(-(log_ratio - log_ratio.mean())).sort().values
    # the sum of min(a, b) over all pairs: the k-th smallest is the smaller of n − 1 − k of them
    n = len(inverse)
    smaller = (inverse * torch.arange(n - 1, -1, -1)).sum() * 2 / (n * (n - 1))
    return float(smaller / inverse.mean())

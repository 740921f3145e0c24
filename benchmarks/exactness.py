"""How exact the models are, in float64: equivariance under 20 random elements of the declared group, finite-difference
forces with bonds exactly on the axes, the energy jump at the cutoff.

    python benchmarks/exactness.py

Random weights; each row is EquiformerV2 with other switches. The published grid is reported beside the exact choices.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from covarium.analysis import equivariance, smoothness
from covarium.analysis.check import Probe, axes_star, cluster
from covarium.models.equiformer_v2 import Config, EquiformerV2
from covarium.tasks import Potential

sys.path.insert(0, str(Path(__file__).parent))
from record import write_record

SMALL = {"num_layers": 2, "sphere_channels": 16, "num_heads": 2, "edge_channels": 16, "ffn_hidden_channels": 16}
PUBLISHED = {
    "norm_type": "layer_norm_sh",
    "attn_activation": "separable_s2",
    "ffn_activation": "separable_grid_mlp",
    "grid": "equal_angle",
}
CONFIGS = {
    "default (gates, envelope), lmax 2": Config(**SMALL),
    "gates, lmax 6, mmax 2": Config(**SMALL, lmax=6, mmax=2),
    "separable S2, 60 × 60 points, lmax 2": Config(
        **SMALL, attn_activation="separable_s2", ffn_activation="separable_s2", grid_resolution=60
    ),
    "31M switches: lmax 4, mmax 2, 18 × 18": Config.published(
        **SMALL, attn_hidden_channels=16, attn_alpha_channels=8, attn_value_channels=8, cutoff=5.0
    ),
    "153M switches: lmax 6, mmax 3, 18 × 18": Config.published(
        **SMALL, attn_hidden_channels=16, attn_alpha_channels=8, attn_value_channels=8, cutoff=5.0, lmax=6, mmax=3
    ),
    "published default grid: lmax 4, mmax 4": Config(**SMALL, **PUBLISHED, lmax=4, mmax=4),
}


def perturbed(config: Config) -> Potential:
    """A model whose every parameter was moved, so that no zero bias hides an error."""
    torch.manual_seed(0)
    model = EquiformerV2(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Potential(model, references={1: 0.0, 6: 0.0, 8: 0.0}).eval()


def main() -> None:
    rows = []
    for name, config in CONFIGS.items():
        probe = Probe(perturbed(config))
        blob, star = cluster((1, 6, 8), 1.3), axes_star((1, 6, 8), 1.3)
        turned = {check.name.split()[-1]: check.value for check in equivariance.equivariance(probe, blob)}
        difference = smoothness.finite_difference_forces(probe, star)
        jumps = list(smoothness.cutoff_jump(probe))
        rows.append(
            {
                "model": name,
                **{f"rotation error, {key} (relative)": value for key, value in turned.items()},
                "finite-difference forces (eV/Å)": difference.value,
                "energy jump at the cutoff (eV)": jumps[0].value,
            }
        )
    write_record("exactness", rows, note="float64, random weights, 9 atoms; forces by gradient")


if __name__ == "__main__":
    main()

"""A run of a small EquiformerV2, by as many processes as started this; the first writes it. Used by test_ranks.py."""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from covarium.data import Frame, FrameDataset
from covarium.models.equiformer_v2 import Config, EquiformerV2
from covarium.tasks import Potential, Term
from covarium.training import Settings, launched, train


def frames(count: int, seed: int) -> list[Frame]:
    """Clusters of 2 to 5 atoms with the energies and forces of springs between all pairs."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(count):
        positions = rng.normal(size=(2 + k % 4, 3)) * 1.2
        apart = positions[:, None] - positions[None]
        labels = {"energy": np.array(0.25 * (apart**2).sum()), "forces": -apart.sum(1)}
        numbers = np.array([1, 6, 8, 1, 6])[: len(positions)]
        made.append(
            Frame(numbers, positions, np.zeros((3, 3)), np.zeros(3, bool), labels, np.zeros(len(positions), bool))
        )
    return made


def main(out: Path) -> None:
    torch.manual_seed(5)
    config = Config(
        num_layers=1, sphere_channels=8, attn_hidden_channels=8, num_heads=2, attn_alpha_channels=4,
        attn_value_channels=4, ffn_hidden_channels=8, edge_channels=8, num_distance_basis=8, avg_degree=3.0,
    )  # fmt: skip
    task = Potential(
        EquiformerV2(config), references={1: 0.0, 6: 0.0, 8: 0.0}, forces="gradient", scale=1.0,
        terms=(Term("energy"), Term("forces", loss="l2")),
    ).to(torch.float64)  # fmt: skip
    data, valid = (FrameDataset(frames(n, seed), config.spec, torch.float64) for n, seed in ((10, 0), (3, 1)))
    settings = Settings(steps=3, batch_size=5, lr=1e-3, eval_every=1)
    with launched(torch.device("cpu")) as ranks:
        result = train(task, data, valid, settings, out / "potential", save_best=lambda task, card: None, ranks=ranks)
        if ranks.first:
            scores = torch.tensor([row["score"] for row in result.history], dtype=torch.float64)
            save_file({**task.state_dict(), "scores": scores}, out / "potential.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

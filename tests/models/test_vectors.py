"""A force head computes of its output degree 1 alone: the same numbers and gradients as of the whole."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from covarium.models import equiformer_v2, equiformer_v3
from covarium.systems import atom_graph

V2 = dict(num_layers=1, sphere_channels=4, attn_hidden_channels=4, num_heads=2, attn_alpha_channels=2,
          attn_value_channels=2, ffn_hidden_channels=4, edge_channels=4, force_head=True)  # fmt: skip
V3 = dict(num_layers=1, num_channels=4, attn_hidden_channels=4, num_heads=2, attn_alpha_channels=2,
          attn_value_channels=2, ffn_hidden_channels=4, edge_channels=4, force_head="gate")  # fmt: skip


@pytest.mark.parametrize("tile", [None, 3])
@pytest.mark.parametrize(("lmax", "mmax"), [(1, 0), (1, 1), (2, 0), (3, 1), (3, 2)])
@pytest.mark.parametrize("name", ["v2", "v3"])
def test_degree_one_is_that_of_the_whole(name: str, lmax: int, mmax: int, tile: int | None) -> None:
    torch.manual_seed(0)
    model: nn.Module
    if name == "v2":
        model = equiformer_v2.EquiformerV2(equiformer_v2.Config(lmax=lmax, mmax=mmax, **V2)).double()
    else:
        model = equiformer_v3.EquiformerV3(equiformer_v3.Config(lmax=lmax, mmax=mmax, **V3)).double()
    model.tile = tile
    positions = np.random.default_rng(0).normal(0, 1.5, (5, 3))
    graph = atom_graph(np.array([8, 1, 1, 6, 1]), positions, model.spec)
    x = torch.randn(5, (lmax + 1) ** 2, 4, dtype=torch.float64, requires_grad=True)
    edges, beside = model.edges(graph, None), ((),) if name == "v2" else ()

    def gradients(y: Tensor) -> list[Tensor]:
        block = model.force_block
        found = torch.autograd.grad(y.sin().sum(), [x, *block.parameters()], allow_unused=True)
        given = [x, *block.parameters()]
        return [torch.zeros_like(t) if g is None else g for g, t in zip(found, given, strict=True)]

    whole = model.force_block(x, edges, *(beside or (None,)))[:, 1:4]
    alone = model.force_block.vectors(x, edges, *beside)
    torch.testing.assert_close(alone, whole, rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(gradients(alone), gradients(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)

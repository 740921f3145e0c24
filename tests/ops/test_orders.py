"""Features by order times radial weights: the sum of the definition, to third derivatives."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from covarium.algebra.layout import m_primary
from covarium.ops.orders import orders, weigh

EDGES, CHANNELS = 3, 2


@pytest.mark.parametrize("per_degree", [True, False])
@pytest.mark.parametrize(("lmax", "mmax"), [(2, 2), (3, 1), (2, 0)])
def test_every_row_has_the_weight_of_its_degree_and_order(lmax: int, mmax: int, per_degree: bool) -> None:
    torch.manual_seed(0)
    plan, rows = orders(lmax, mmax, per_degree=per_degree), m_primary(lmax, mmax)
    blocks = [(l, 0) for l in range(lmax + 1)] if per_degree else [(l, m) for l, m in rows if m >= 0]
    assert plan.all_weights == len(blocks)
    y = torch.randn(EDGES, len(rows), CHANNELS, dtype=torch.float64, requires_grad=True)
    w = torch.randn(EDGES, len(blocks) * CHANNELS, dtype=torch.float64, requires_grad=True)
    parts = weigh(y, w, plan)
    assert all(part.is_contiguous() for part in parts)
    for row, ((l, m), z) in enumerate(zip(rows, torch.cat(parts, dim=1).unbind(1), strict=True)):
        block = blocks.index((l, 0 if per_degree else abs(m)))
        assert torch.equal(z, y[:, row] * w[:, block * CHANNELS : (block + 1) * CHANNELS])

    def together(y: Tensor, w: Tensor) -> Tensor:
        return torch.cat(weigh(y, w, plan), dim=1)

    def first(y: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(together(y, w).sin().sum(), (y, w), create_graph=True)

    assert gradcheck(together, (y, w))
    assert gradgradcheck(together, (y, w))
    assert gradgradcheck(first, (y, w))

"""The softmax over edges against a loop in numpy, and its behaviour at the cutoff."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from covarium.ops.attention import edge_softmax, smooth_leaky_relu

TARGET = torch.tensor([0, 0, 0, 2, 2, 3])


def logits() -> torch.Tensor:
    return torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loop(z: np.ndarray, e: np.ndarray) -> np.ndarray:
    out = np.zeros_like(z)
    for i in np.unique(TARGET):
        rows = TARGET.numpy() == i
        w = e[rows, None] * np.exp(z[rows])
        out[rows] = w / w.sum(0)
    return out


@pytest.mark.parametrize("offset", [0.0, 700.0, -700.0])
def test_equals_a_loop(offset: float) -> None:
    z = logits()
    expected = loop(z.numpy(), np.ones(6))
    assert np.abs(edge_softmax(z + offset, TARGET, 4).numpy() - expected).max() < 1e-12


def test_with_envelope_equals_a_loop() -> None:
    e = torch.tensor([1.0, 0.3, 1e-3, 0.5, 0.0, 0.2], dtype=torch.float64)
    z = logits()
    assert np.abs(edge_softmax(z, TARGET, 4, e).numpy() - loop(z.numpy(), e.numpy())).max() < 1e-12


def test_weights_of_every_target_add_up_to_one() -> None:
    total = torch.zeros(4, 2, dtype=torch.float64).index_add(0, TARGET, edge_softmax(logits(), TARGET, 4))
    assert torch.allclose(total, torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)[:, None].expand(4, 2))


def test_an_edge_of_weight_zero_is_as_good_as_absent_even_with_a_huge_logit() -> None:
    z = logits()
    z[4] = 300.0
    e = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    kept = [0, 1, 2, 3, 5]
    without = edge_softmax(z[kept], TARGET[kept], 4, e[kept])
    assert (edge_softmax(z, TARGET, 4, e)[kept] - without).abs().max() < 1e-15


def test_no_edges() -> None:
    empty = edge_softmax(logits()[:0], TARGET[:0], 4)
    assert empty.shape == (0, 2)


def test_derivatives() -> None:
    z = logits().requires_grad_()
    e = torch.tensor([1.0, 0.3, 0.1, 0.5, 0.7, 0.2], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda a, b: edge_softmax(a, TARGET, 4, b), (z, e))
    assert gradgradcheck(lambda a, b: edge_softmax(a, TARGET, 4, b), (z, e))


def test_smooth_leaky_relu() -> None:
    x = torch.linspace(-5, 5, 21, dtype=torch.float64)
    published = (1 + 0.2) / 2 * x + (1 - 0.2) / 2 * x * (2 * torch.sigmoid(x) - 1)
    assert (smooth_leaky_relu(x) - published).abs().max() < 1e-15
    far = torch.tensor([-60.0, 60.0], dtype=torch.float64)
    assert torch.allclose(smooth_leaky_relu(far), torch.tensor([-12.0, 60.0], dtype=torch.float64))


def test_the_published_softmax() -> None:
    """e exp(z − max z) / (Σ e exp(z − max z) + eps): with a large eps the choice of the maximum shows."""
    z, e = logits(), torch.tensor([1.0, 0.3, 1e-3, 0.5, 0.1, 0.2], dtype=torch.float64)
    expected = torch.zeros_like(z)
    for i in TARGET.unique():
        rows = i == TARGET
        w = e[rows, None] * torch.exp(z[rows] - z[rows].amax(0))
        expected[rows] = w / (w.sum(0) + 0.01)
    assert (edge_softmax(z, TARGET, 4, e, eps=0.01, shift="logit") - expected).abs().max() < 1e-15
    assert (edge_softmax(z, TARGET, 4, e, eps=0.01) - expected).abs().max() > 1e-4
    assert (edge_softmax(z, TARGET, 4, e, shift="logit") - edge_softmax(z, TARGET, 4, e)).abs().max() < 1e-15

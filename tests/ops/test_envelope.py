"""The envelope: its published form, its ends, its smoothness at the cutoff."""

import numpy as np
import pytest
import torch
from torch.autograd import grad

from covarium.ops.envelope import polynomial_envelope


@pytest.mark.parametrize("p", [1, 3, 5, 6])
def test_equals_the_published_polynomial(p: int) -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    published = 1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1) - p * (p + 1) / 2 * u ** (p + 2)
    assert (polynomial_envelope(u, p) - published).abs().max() < 1e-13


def test_value_and_two_derivatives_vanish_at_the_cutoff() -> None:
    u = torch.tensor([0.0, 1.0, 1.0 + 1e-9, 1.7], dtype=torch.float64, requires_grad=True)
    f = polynomial_envelope(u)
    (first,) = grad(f.sum(), u, create_graph=True)
    (second,) = grad(first.sum(), u)
    assert f.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert first[1:].abs().max() == 0 and second[1:].abs().max() == 0
    assert first[0].abs() < 1e-15


def test_falls_and_keeps_its_digits() -> None:
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    f = polynomial_envelope(u)
    assert (f >= 0).all() and (f.diff() <= 1e-16).all()
    # near the cutoff f ≈ 35 (1 − u)³·(1 + …): sums of powers would have lost all digits at 1e-6
    near = polynomial_envelope(torch.tensor([1 - 1e-6], dtype=torch.float64))
    assert near.item() == pytest.approx(35e-18, rel=1e-4)


def test_float32() -> None:
    u = np.linspace(0, 1.2, 50)
    single = polynomial_envelope(torch.tensor(u, dtype=torch.float32))
    assert single.dtype == torch.float32
    assert (single.double() - polynomial_envelope(torch.tensor(u))).abs().max() < 1e-6

"""Cutoffs and radial bases against their formulas, their borders, and their two ways of being stored."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from covarium.layers.expnormal import ExpNormalBasis, SpacedGaussianBasis, cosine_cutoff

R = torch.tensor([0.0, 0.3, 1.0, 1.7, 2.5, 3.999, 4.0, 5.0], dtype=torch.float64)


def test_cosine_cutoff() -> None:
    plain = cosine_cutoff(R, 0.0, 4.0)
    assert torch.allclose(plain[:6], 0.5 * (torch.cos(torch.pi * R[:6] / 4) + 1), atol=1e-15)
    assert plain[0] == 1 and plain[6:].tolist() == [0.0, 0.0]
    window = cosine_cutoff(R, 1.0, 4.0)
    assert window[:3].tolist() == [0.0, 0.0, 0.0] and window[4] == pytest.approx(1.0) and window[6] == 0


@pytest.mark.parametrize("lower", [0.0, 1.0])
def test_cutoff_has_no_step_and_no_kink(lower: float) -> None:
    border = torch.tensor([4.0 - 1e-7, lower + 1e-7], dtype=torch.float64, requires_grad=True)
    value = cosine_cutoff(border, lower, 4.0)
    (slope,) = torch.autograd.grad(value.sum(), border)
    assert value[0] < 1e-13 and slope[0].abs() < 1e-6 and slope[1].abs() < 1e-6


def test_exponential_basis_is_its_formula() -> None:
    basis = ExpNormalBasis(5, 4.0, 0.5).double()
    means = np.linspace(np.exp(-3.5), 1, 5)
    beta = (2 / 5 * (1 - np.exp(-3.5))) ** -2
    r = R.numpy()[:, None]
    expected = np.where(r < 4, 0.5 * (np.cos(np.pi * r / 4) + 1), 0) * np.exp(
        -beta * (np.exp(5 / 3.5 * (0.5 - r)) - means) ** 2
    )
    assert np.abs(basis(R).numpy() - expected).max() < 1e-15


def test_gaussian_basis_is_its_formula() -> None:
    basis = SpacedGaussianBasis(5, 4.0).double()
    expected = np.exp(-0.5 * (R.numpy()[:, None] - np.arange(5.0)) ** 2)
    assert np.abs(basis(R).numpy() - expected).max() < 1e-15


@pytest.mark.parametrize("kind", [ExpNormalBasis, SpacedGaussianBasis])
def test_derivatives_and_storage(kind: type) -> None:
    basis = kind(4, 4.0, stored=True).double()
    r = torch.tensor([0.7, 2.1, 3.6], dtype=torch.float64, requires_grad=True)
    assert gradcheck(basis, r) and gradgradcheck(basis, r)
    assert not list(basis.parameters()) and len(basis.state_dict()) == 2
    assert not kind(4, 4.0).state_dict()
    learnt = kind(4, 4.0, trainable=True)
    assert {n for n, _ in learnt.named_parameters()} == set(basis.state_dict())

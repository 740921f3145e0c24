"""Equiformer's radial bases and radial function against their definitions."""

import math

import numpy as np
import pytest
import torch

from covarium.layers.distance_bases import BASES, BesselBasis, ExpNormalBasis, RadialProfile, TrainedGaussianBasis

D = torch.linspace(0.3, 5.3, 41, dtype=torch.float64)


def test_exp_normal() -> None:
    basis = ExpNormalBasis(32, 5.0).float().double()
    d, low = D.numpy()[:, None], math.exp(-5.0)
    beta = (2 / 32 * (1 - low)) ** -2
    expected = np.exp(-beta * (np.exp(-d) - np.linspace(low, 1, 32)) ** 2) * 0.5 * (np.cos(np.pi * d / 5) + 1)
    assert np.abs(basis(D).numpy() - np.where(d < 5, expected, 0)).max() < 1e-15
    assert not basis.state_dict() and not list(basis.parameters())


def test_gaussian() -> None:
    torch.manual_seed(0)
    basis = TrainedGaussianBasis(16, 5.0).double()
    assert 0 <= basis.mean.min() and basis.mean.max() <= 1 and 1 / 16 <= basis.std.min() and basis.std.max() <= 1
    with torch.no_grad():
        basis.weight.fill_(1.3)
        basis.bias.fill_(-0.1)
        basis.std[0, 0] = -0.4
    mean, std = basis.mean.detach().numpy(), np.abs(basis.std.detach().numpy()) + 1e-5
    x = 1.3 * D.numpy()[:, None] / 5 - 0.1
    expected = np.exp(-0.5 * ((x - mean) / std) ** 2) / (np.sqrt(2 * 3.14159) * std)
    assert np.abs(basis(D).detach().numpy() - expected).max() < 1e-14


def test_bessel() -> None:
    basis = BesselBasis(8, 5.0).double()
    x = D.numpy()[:, None] / 5
    envelope = np.where(x < 1, 1 - 21 * x**5 + 35 * x**6 - 15 * x**7, 0)
    f = basis.rbf["frequencies"].detach().numpy()
    assert np.abs(f - np.pi * np.arange(1, 9)).max() < 1e-6
    expected = envelope * np.sqrt(2 / 125) * np.sin(f * x) / x
    assert np.abs(basis(D).detach().numpy() - expected).max() < 1e-13


@pytest.mark.parametrize("name", BASES)
def test_bases_in_both_precisions(name: str) -> None:
    basis = BASES[name](8, 5.0)
    assert basis.float()(D.float()).dtype == torch.float32 and basis.double()(D[:0]).shape == (0, 8)


def test_radial_profile_gives_the_chosen_columns() -> None:
    torch.manual_seed(0)
    profile = RadialProfile(6, (8, 8), 20).double()
    scalars = torch.randn(5, 6, dtype=torch.float64)
    everything = profile.net(scalars) + profile.offset
    columns = torch.tensor([7, 3, 19])
    assert (profile(scalars, columns) - everything[:, columns]).abs().max() < 1e-14
    assert profile.offset.abs().max() <= 1 / math.sqrt(8)
    assert all(float(profile.net[k].bias.detach().abs().max()) == 0 for k in (0, 3)) and profile.net[6].bias is None

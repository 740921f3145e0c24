"""Gaussian basis and radial function against their definition."""

import numpy as np
import torch
from torch import nn

from covarium.layers.linear import Linear
from covarium.layers.radial import GaussianBasis, RadialFunction


def test_gaussians() -> None:
    basis = GaussianBasis(10, 4.5).double()
    d = torch.linspace(0, 4.5, 31, dtype=torch.float64)
    expected = np.exp(-0.5 * ((d.numpy()[:, None] - np.linspace(0, 4.5, 10)) / (2 * 0.5)) ** 2)
    assert np.abs(basis(d).numpy() - expected).max() < 1e-15


def test_gaussians_stay_exact_through_float32() -> None:
    d = torch.rand(5, dtype=torch.float64)
    assert torch.equal(GaussianBasis(600, 12.0).float().double()(d), GaussianBasis(600, 12.0).double()(d))


def test_split_first_layer_equals_the_concatenated_one() -> None:
    torch.manual_seed(0)
    function = RadialFunction(6, 4, 8, 5).double()
    basis = torch.rand(9, 6, dtype=torch.float64)
    source, target = torch.randn(2, 20, 4, dtype=torch.float64)
    z = torch.randint(0, 20, (2, 9))
    joined = torch.cat([basis, source[z[0]], target[z[1]]], dim=1)
    assert (function(basis, (source, target), (z[0], z[1])) - function.net(joined)).abs().max() < 1e-13
    kinds = [Linear, nn.LayerNorm, nn.SiLU, Linear, nn.LayerNorm, nn.SiLU, Linear]
    assert [type(layer) for layer in function.net] == kinds


def test_without_element_channels() -> None:
    function = RadialFunction(6, 0, 8, 5).double()
    basis = torch.rand(9, 6, dtype=torch.float64)
    z = torch.zeros(9, dtype=torch.int64)
    assert torch.equal(function(basis, None, (z, z)), function.net(basis))
    assert function(basis[:0], None, (z[:0], z[:0])).shape == (0, 5)

"""Equivariance of the layers under Wigner D, and the SO(2) convolution against complex arithmetic written out."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from covarium.algebra.layout import l_primary, m_primary
from covarium.algebra.rotations import random_rotations
from covarium.algebra.sphere import s2_grid
from covarium.algebra.wigner import wigner_d
from covarium.layers.irreps.activation import S2Activation, SeparableS2Activation, gate, gate_orders
from covarium.layers.irreps.linear import SO2Convolution, SO2MLinear, SO3Linear, join_orders, split_orders
from covarium.layers.irreps.norm import EPS, NORMS

LMAX, CHANNELS, ATOMS = 3, 5, 7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(lmax: int = LMAX, channels: int = CHANNELS, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(ATOMS, (lmax + 1) ** 2, channels, generator=generator(seed), dtype=torch.float64)


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """D(R) x for features [N, S, C]."""
    lmax = int(x.shape[1] ** 0.5) - 1
    return torch.block_diag(*[block[0] for block in wigner_d(rotation.unsqueeze(0), lmax)]) @ x


def perturbed(module: nn.Module) -> nn.Module:
    """float64, and every parameter away from its special initial value."""
    module = module.double()
    with torch.no_grad():
        for k, parameter in enumerate(module.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator(k), dtype=torch.float64)
    return module


ROTATIONS = random_rotations(5, generator(9))


def test_so3_linear_is_equivariant_and_equals_a_loop() -> None:
    layer = perturbed(SO3Linear(CHANNELS, 4, LMAX))
    x = features()
    for r in ROTATIONS:
        assert (layer(rotated(x, r)) - rotated(layer(x), r)).abs().max() < 1e-13
    for row, (l, _) in enumerate(l_primary(LMAX)):
        expected = x[:, row] @ layer.weight[l].T + (layer.bias if l == 0 else 0)
        assert (layer(x)[:, row] - expected).abs().max() < 1e-14
    assert torch.equal(layer.scalars(x[:, 0]), layer(x)[:, 0])


@pytest.mark.parametrize("name", sorted(NORMS))
@pytest.mark.parametrize("lmax", [1, 3])
def test_norms_are_equivariant_and_insensitive_to_scale(name: str, lmax: int) -> None:
    norm = perturbed(NORMS[name](lmax, CHANNELS))
    x = features(lmax, scale=3.0)
    for r in ROTATIONS:
        assert (norm(rotated(x, r)) - rotated(norm(x), r)).abs().max() < 1e-13
    assert (norm(1e6 * x) - norm(1e3 * x)).abs().max() < 1e-9
    assert torch.isfinite(norm(0 * x)).all()
    other = x.clone()
    other[0] *= 5
    assert torch.equal(norm(other)[1:], norm(x)[1:]), "atoms do not see each other"


def test_norms_as_written() -> None:
    """Formulas of the published code, degree by degree in numpy."""
    x = features(scale=2.0)
    modules = {name: perturbed(NORMS[name](LMAX, CHANNELS)) for name in NORMS}
    a = x.numpy()
    centred = a.copy()
    centred[:, 0] -= centred[:, 0].mean(1, keepdims=True)
    degree = np.array([l for l, _ in l_primary(LMAX)])

    def mean_square(array: np.ndarray, degrees: list[int]) -> np.ndarray:
        terms = [(array[:, degree == l] ** 2).sum((1, 2)) / (2 * l + 1) for l in degrees]
        return sum(terms)[:, None, None] / (len(degrees) * CHANNELS)

    weight = {n: m.affine_weight.detach().numpy() for n, m in modules.items()}
    expected = centred / np.sqrt(mean_square(centred, [0, 1, 2, 3]) + EPS) * weight["rms_norm_sh"][degree]
    expected[:, 0] += modules["rms_norm_sh"].affine_bias.detach().numpy()
    assert np.abs(modules["rms_norm_sh"](x).detach().numpy() - expected).max() < 1e-13

    parts = np.stack([mean_square(centred, [l]) for l in degree])[:, :, 0, 0].T[:, :, None]
    expected = centred / np.sqrt(parts + EPS) * weight["layer_norm"][degree]
    expected[:, 0] += modules["layer_norm"].affine_bias.detach().numpy()
    assert np.abs(modules["layer_norm"](x).detach().numpy() - expected).max() < 1e-13

    sh = modules["layer_norm_sh"]
    expected = a / np.sqrt(mean_square(a, [1, 2, 3]) + EPS)
    expected[:, 1:] *= weight["layer_norm_sh"][degree[1:] - 1]
    variance = a[:, 0].var(1, keepdims=True)
    scalars = centred[:, 0] / np.sqrt(variance + EPS)
    expected[:, 0] = scalars * sh.norm_l0.weight.detach().numpy() + sh.norm_l0.bias.detach().numpy()
    assert np.abs(sh(x).detach().numpy() - expected).max() < 1e-13


def test_gate_is_exactly_equivariant() -> None:
    x, gates = features(scale=3.0), torch.randn(ATOMS, LMAX, CHANNELS, generator=generator(1), dtype=torch.float64)
    for r in ROTATIONS:
        assert (gate(rotated(x, r), gates) - rotated(gate(x, gates), r)).abs().max() < 1e-13
    out = gate(x, gates)
    assert torch.allclose(out[:, 0], torch.nn.functional.silu(x[:, 0]))
    for row, (l, _) in list(enumerate(l_primary(LMAX)))[1:]:
        assert torch.allclose(out[:, row], x[:, row] * torch.sigmoid(gates[:, l - 1]))


@pytest.mark.parametrize("mmax", [0, 1, 3])
def test_gate_in_the_edge_frame(mmax: int) -> None:
    rows = m_primary(LMAX, mmax)
    x = torch.randn(ATOMS, len(rows), CHANNELS, generator=generator(2), dtype=torch.float64)
    gates = torch.randn(ATOMS, LMAX, CHANNELS, generator=generator(3), dtype=torch.float64)
    out = join_orders(gate_orders(split_orders(x, LMAX, mmax), gates))
    assert torch.allclose(out[:, 0], torch.nn.functional.silu(x[:, 0]))
    for row, (l, _) in list(enumerate(rows))[1:]:
        assert torch.allclose(out[:, row], x[:, row] * torch.sigmoid(gates[:, l - 1]))


def s2_error(points: int | None, scale: float, lmax: int = LMAX) -> float:
    act = S2Activation(s2_grid(lmax, lmax, "gauss_legendre", points, points), l_primary(lmax)).double()
    x = features(lmax, scale=scale)
    return max(float((act(rotated(x, r)) - rotated(act(x), r)).abs().max()) for r in ROTATIONS)


def test_s2_activation_is_equivariant_up_to_its_grid() -> None:
    # SiLU is analytic near the real axis: the error falls geometrically, the faster the smaller the signal
    coarse, fine, exact = (s2_error(points, 0.5) for points in (None, 16, 40))
    assert 1e-3 < coarse < 2e-2 and fine < 1e-3 and exact < 1e-10
    assert s2_error(80, 1.0) < 1e-12


def test_s2_activation_of_a_function_by_hand() -> None:
    # a signal of degree 0 is constant on the sphere: SiLU acts on the number itself
    act = S2Activation(s2_grid(LMAX, LMAX, "equal_angle"), l_primary(LMAX)).double()
    x = torch.zeros(1, (LMAX + 1) ** 2, 1, dtype=torch.float64)
    x[0, 0, 0] = 2.0
    value = 2.0 / np.sqrt(LMAX + 1)
    expected = value / (1 + np.exp(-value)) * np.sqrt(LMAX + 1)
    out = act(x)
    assert out[0, 0, 0].item() == pytest.approx(expected, abs=1e-14)
    assert out[0, 1:].abs().max() < 1e-14


def test_separable_s2() -> None:
    s2 = S2Activation(s2_grid(LMAX, LMAX, "gauss_legendre", 80, 80), l_primary(LMAX))
    act = SeparableS2Activation(s2).double()
    x, scalars = features(), torch.randn(ATOMS, CHANNELS, generator=generator(4), dtype=torch.float64)
    out = act(scalars, x)
    assert torch.allclose(out[:, 0], torch.nn.functional.silu(scalars))
    assert torch.equal(out[:, 1:], s2(x)[:, 1:])
    for r in ROTATIONS:
        assert (act(scalars, rotated(x, r)) - rotated(out, r)).abs().max() < 1e-10


@pytest.mark.parametrize(("lmax", "mmax"), [(3, 2), (2, 2), (4, 0), (2, 1)])
def test_so2_convolution_is_complex_arithmetic(lmax: int, mmax: int) -> None:
    inputs, outputs, extra, edges = 3, 4, 5, 6
    conv = perturbed(SO2Convolution(inputs, outputs, lmax, mmax, extra))
    rows = {pair: k for k, pair in enumerate(m_primary(lmax, mmax))}
    x = torch.randn(edges, len(rows), inputs, generator=generator(5), dtype=torch.float64)
    scalars, y = conv(split_orders(x, lmax, mmax))
    y = join_orders(y).detach().numpy()
    a = x.numpy()

    zero = a[:, [rows[l, 0] for l in range(lmax + 1)]].reshape(edges, -1)
    zero = zero @ conv.fc_m0.weight.detach().numpy().T + conv.fc_m0.bias.detach().numpy()
    assert np.abs(scalars.detach().numpy() - zero[:, :extra]).max() < 1e-13
    found = y[:, [rows[l, 0] for l in range(lmax + 1)]].reshape(edges, -1)
    assert np.abs(found - zero[:, extra:]).max() < 1e-13
    for m in range(1, mmax + 1):
        weight = conv.so2_m_conv[m - 1].fc.weight.detach().numpy()
        half = len(weight) // 2
        w = weight[:half] + 1j * weight[half:]
        plus, minus = ([rows[l, sign * m] for l in range(m, lmax + 1)] for sign in (1, -1))
        z = (a[:, plus] + 1j * a[:, minus]).reshape(edges, -1) @ w.T
        assert np.abs(y[:, plus].reshape(edges, -1) - z.real).max() < 1e-13
        assert np.abs(y[:, minus].reshape(edges, -1) - z.imag).max() < 1e-13


def test_so2_convolution_commutes_with_turns_about_the_edge() -> None:
    lmax, mmax = 3, 2
    conv = perturbed(SO2Convolution(2, 3, lmax, mmax))
    pairs = m_primary(lmax, mmax)
    x = torch.randn(4, len(pairs), 2, generator=generator(6), dtype=torch.float64)
    turn = torch.zeros(len(pairs), len(pairs), dtype=torch.float64)
    for k, (l, m) in enumerate(pairs):
        turn[k, k] = np.cos(m * 0.7)
        if m:
            turn[k, pairs.index((l, -m))] = -np.sin(m * 0.7)
    one, other = (join_orders(conv(split_orders(y, lmax, mmax))[1]) for y in (turn @ x, x))
    assert (one - turn @ other).abs().max() < 1e-13


def test_orders_come_apart_and_together() -> None:
    x = torch.randn(4, len(m_primary(3, 2)), 2, generator=generator(8), dtype=torch.float64)
    parts = split_orders(x, 3, 2)
    assert [tuple(part.shape) for part in parts] == [(4, 4, 2), (4, 3, 2), (4, 3, 2), (4, 2, 2), (4, 2, 2)]
    assert torch.equal(parts[2][:, 0], x[:, m_primary(3, 2).index((1, -1))])
    assert torch.equal(join_orders(parts), x)


def test_so2_initial_scale_keeps_the_variance() -> None:
    torch.manual_seed(0)
    weight = SO2MLinear(64, 64).fc.weight
    # uniform in ±1/√64, times 1/√2
    assert weight.abs().max() <= 1 / 64**0.5 / 2**0.5
    assert weight.std().item() == pytest.approx(1 / 64**0.5 / 3**0.5 / 2**0.5, rel=0.05)


def test_constants_come_back_exact_from_float32() -> None:
    module = S2Activation(s2_grid(LMAX, LMAX, "equal_angle"), l_primary(LMAX)).double()
    norm = NORMS["rms_norm_sh"](LMAX, CHANNELS).double()
    for exact in (module, norm):
        there_and_back = copy.deepcopy(exact).float().double()
        for (name, one), (_, other) in zip(exact.named_buffers(), there_and_back.named_buffers(), strict=True):
            assert torch.equal(one, other), name
    assert module.float().to_grid.dtype == torch.float32
    assert not module.state_dict(), "constants are derived, not stored"
    grid = s2_grid(LMAX, LMAX, "equal_angle").to_grid
    assert np.array_equal(S2Activation(s2_grid(LMAX, LMAX, "equal_angle"), l_primary(LMAX)).double().to_grid, grid)

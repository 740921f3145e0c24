"""The contour against diagonalisation, its elliptic functions against scipy."""

import numpy as np
import pytest
import torch
from scipy.special import ellipj, ellipk

from covarium.errors import CovariumError
from covarium.physics.contour import complete_elliptic, contour, jacobi
from covarium.physics.double_exchange import DoubleExchange
from covarium.systems.spin_field import SpinField


@pytest.mark.parametrize("k", [1e-6, 0.1, 0.9, 0.9999])
def test_elliptic_functions(k: float) -> None:
    x = np.linspace(-3, 3, 41)
    assert abs(complete_elliptic(k) / ellipk(k * k) - 1) < 1e-14
    np.testing.assert_allclose(jacobi(x, k), ellipj(x, k * k)[:3], atol=1e-13)


@pytest.mark.parametrize("tolerance", [1e-6, 1e-9, 1e-11])
@pytest.mark.parametrize(
    ("beta", "mu", "hund", "size"),
    [(0.5, 0.0, 1.0, 4), (20.0, 0.0, 4.0, 4), (20.0, -1.3, 2.0, 4), (200.0, -0.7, 8.0, 4), (10.0, 0.0, 1.0, 3)],
)
def test_difference_of_log_weights(beta: float, mu: float, hund: float, size: int, tolerance: float) -> None:
    model = DoubleExchange(size, 1.0, hund, mu, beta)
    rng = torch.Generator().manual_seed(0)
    old, new = SpinField.random(1, size, rng).spins, SpinField.random(1, size, rng).spins
    new = torch.where(torch.arange(size**2)[:, None] == 5, new, old)
    h, other = (model.hamiltonian(spins)[0].numpy() for spins in (old, new))
    exact = float(model.log_weight(model.spectrum(new)) - model.log_weight(model.spectrum(old)))
    for symmetric in {False, model.symmetric}:
        z, w = contour(beta, mu, model.bound, tolerance=tolerance, symmetric=symmetric)
        one = np.eye(len(h))
        ratio = np.array([np.linalg.det(one - (other - h) @ np.linalg.inv(node * one - h)) for node in z])
        found = float((w * np.log(ratio)).sum().imag)
        assert abs(found - exact) < tolerance * max(1.0, abs(exact)) * 5 + 1e-12
        assert (z.imag > 0).all()


def test_more_digits_take_more_nodes() -> None:
    counts = [len(contour(20.0, 0.0, 5.0, tolerance=10.0**-k)[0]) for k in (4, 8, 12)]
    assert counts == sorted(counts) and counts[2] - counts[1] == pytest.approx(counts[1] - counts[0], abs=2)
    assert 2 * len(contour(20.0, 0.0, 5.0, symmetric=True)[0]) == len(contour(20.0, 0.0, 5.0)[0])


@pytest.mark.parametrize("wrong", [(0.0, 1.0, 1e-9), (1.0, 0.0, 1e-9), (1.0, 1.0, 0.0)])
def test_refuses_nonsense(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(CovariumError, match="positive"):
        contour(wrong[0], 0.0, wrong[1], tolerance=wrong[2])

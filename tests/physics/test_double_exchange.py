"""Double exchange against answers on paper, stored numbers, and an independent dense calculation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from covarium.errors import CovariumError
from covarium.physics.double_exchange import DoubleExchange, hamiltonian
from covarium.systems.spin_field import SpinField, lattice_elements
from covarium.systems.square_lattice import coordinates, shells, sublattice

FIXTURES = Path(__file__).parents[1] / "parity" / "lattice"


@pytest.mark.parametrize(("size", "beta"), [(4, 10.0), (6, 20.0)])
def test_stored_spectra_and_weights(size: int, beta: float) -> None:
    folder = FIXTURES / f"double_exchange_L{size}"
    given, expected = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    model = DoubleExchange(size, 1.0, 1.0, 0.0, beta)
    spectrum = model.spectrum(torch.from_numpy(given["spins"]))
    np.testing.assert_allclose(spectrum.numpy(), expected["eigenvalues"], atol=1e-13)
    np.testing.assert_allclose(model.log_weight(spectrum).numpy(), expected["log_weight"], rtol=1e-14)
    np.testing.assert_array_equal(model.hopping, expected["hopping"])
    index, distances = shells(size)
    np.testing.assert_array_equal(distances, expected["shell_d2"])
    np.testing.assert_array_equal(np.stack([index == n for n in range(len(distances))]), expected["shell_adjacency"])


def test_two_sites_in_closed_form() -> None:
    """E² = J²/4 + t² ± t J cos(θ/2) with θ between the spins (Anderson & Hasegawa 1955)."""
    t, hund = 1.3, 2.1
    bond = np.array([[0.0, -t], [-t, 0.0]])
    for theta in np.linspace(0, np.pi, 7):
        spins = torch.tensor([[[0.0, 0.0, 1.0], [np.sin(theta) * 0.6, np.sin(theta) * 0.8, np.cos(theta)]]])
        found = torch.linalg.eigvalsh(hamiltonian(spins.double(), bond, hund))[0].numpy()
        squares = hund**2 / 4 + t**2 + np.array([1, -1]) * t * hund * np.cos(theta / 2)
        roots = np.sqrt(np.maximum(squares, 0))
        np.testing.assert_allclose(found, np.sort([*roots, *-roots]), atol=1e-7 if theta == 0 else 2e-8)


@pytest.mark.parametrize("size", [3, 4, 6])
def test_free_electrons_without_coupling(size: int) -> None:
    model = DoubleExchange(size, t=0.7, hund=0.0, mu=-0.4, beta=3.0)
    k = 2 * np.pi * np.arange(size) / size
    bands = -2 * 0.7 * (np.cos(k)[:, None] + np.cos(k)[None]).ravel()
    spectrum = model.spectrum(SpinField.random(2, size, torch.Generator().manual_seed(0)).spins)
    expected = np.sort(np.repeat(bands, 2))
    np.testing.assert_allclose(spectrum.numpy(), np.stack([expected, expected]), atol=1e-13)
    weight = 2 * np.log1p(np.exp(-3.0 * (bands + 0.4))).sum()
    np.testing.assert_allclose(model.log_weight(spectrum).numpy(), weight, rtol=1e-14)
    filling = 2 / (1 + np.exp(3.0 * (bands + 0.4)))
    field = SpinField.random(1, size, torch.Generator().manual_seed(0)).spins
    seen = model.observables(field, model.spectrum(field))
    assert abs(float(seen["density"]) - filling.mean()) < 1e-13
    assert abs(float(seen["energy"]) - (filling * bands).mean()) < 1e-13


def test_electrons_without_hopping_see_only_their_site() -> None:
    model = DoubleExchange(4, t=0.0, hund=3.0)
    spins = SpinField.random(1, 4, torch.Generator().manual_seed(1)).spins
    spectrum = model.spectrum(spins)
    np.testing.assert_allclose(spectrum.abs().numpy(), 1.5, atol=1e-13)
    # spins have neighbours all the same
    seen, hopping = model.observables(spins, spectrum), DoubleExchange(4, hund=3.0)
    assert seen["neighbours"] == hopping.observables(spins, hopping.spectrum(spins))["neighbours"] != 0
    assert abs(float(seen["energy"]) + 1.5 * np.tanh(7.5)) < 1e-13


def test_energy_is_the_derivative_of_the_weight() -> None:
    """⟨H − μN⟩ = −∂ log W/∂β and ⟨N⟩ = ∂ log W/∂μ / β."""
    spins = SpinField.random(3, 4, torch.Generator().manual_seed(2)).spins
    h, model = 1e-5, DoubleExchange(4, 1.0, 1.5, -0.8, 7.0)

    def log_weight(mu: float = -0.8, beta: float = 7.0) -> torch.Tensor:
        other = DoubleExchange(4, 1.0, 1.5, mu, beta)
        return other.log_weight(other.spectrum(spins))

    seen = model.observables(spins, model.spectrum(spins))
    slope = -(log_weight(beta=7 + h) - log_weight(beta=7 - h)) / (2 * h) / 16
    assert (slope - (seen["energy"] + 0.8 * seen["density"])).abs().max() < 1e-8
    filling = (log_weight(mu=-0.8 + h) - log_weight(mu=-0.8 - h)) / (2 * h) / 7.0 / 16
    assert (filling - seen["density"]).abs().max() < 1e-8


def test_everything_is_invariant_under_the_group() -> None:
    rng = torch.Generator().manual_seed(3)
    field, model = SpinField.random(2, 4, rng), DoubleExchange(4, 1.0, 2.0, 0.3, 12.0)
    spectrum = model.spectrum(field.spins)
    seen = model.observables(field.spins, spectrum)
    for g in lattice_elements(4)(16, rng):
        moved = field.transform(g)
        other = model.spectrum(moved.spins)
        assert (other - spectrum).abs().max() < 1e-13
        for name, values in model.observables(moved.spins, other).items():
            assert (values - seen[name]).abs().max() < 1e-13, name


def test_orders_that_are_known() -> None:
    model = DoubleExchange(4)
    up = torch.zeros(1, 16, 3, dtype=torch.float64)
    up[..., 2] = 1
    ferro = model.observables(up, model.spectrum(up))
    assert float(ferro["magnetisation"]) == 1 and float(ferro["neighbours"]) == 1 and float(ferro["staggered"]) == 0
    neel = up * torch.from_numpy(sublattice(4))[:, None]
    anti = model.observables(neel, model.spectrum(neel))
    assert float(anti["magnetisation"]) == 0 and float(anti["neighbours"]) == -1 and float(anti["staggered"]) == 1
    assert abs(float(anti["density"]) - 1) < 1e-13  # half filling
    assert float(anti["energy"]) < float(ferro["energy"])


def test_half_filling_is_symmetric_on_even_lattices_only() -> None:
    assert DoubleExchange(4).symmetric and not DoubleExchange(4, mu=0.1).symmetric
    assert not DoubleExchange(5).symmetric
    spectrum = DoubleExchange(4, hund=2.0).spectrum(SpinField.random(1, 4, torch.Generator().manual_seed(0)).spins)
    assert (spectrum + spectrum.flip(1)).abs().max() < 1e-13


def test_weights_do_not_overflow() -> None:
    model = DoubleExchange(4, beta=1e4)
    spectrum = model.spectrum(SpinField.random(1, 4, torch.Generator().manual_seed(0)).spins)
    assert torch.isfinite(model.log_weight(spectrum)).all()
    exact = -1e4 * spectrum[spectrum < 0].sum()
    assert abs(float(model.log_weight(spectrum) / exact) - 1) < 1e-10


def test_bound_holds() -> None:
    model = DoubleExchange(4, 1.0, 5.0, -2.0)
    up = torch.zeros(1, 16, 3, dtype=torch.float64)
    up[..., 0] = 1
    assert float((model.spectrum(up) + 2.0).abs().max()) <= model.bound + 1e-12


@pytest.mark.parametrize(
    "wrong", [{"beta": 0.0}, {"beta": float("inf")}, {"size": 1}, {"t": float("nan")}, {"mu": float("inf")}]
)
def test_refuses_nonsense(wrong: dict) -> None:
    with pytest.raises(CovariumError, match="got"):
        DoubleExchange(**({"size": 4} | wrong))


def test_sites_are_numbered_by_rows() -> None:
    assert coordinates(3).tolist()[:4] == [[0, 0], [1, 0], [2, 0], [0, 1]]

"""The spin transformer against stored numbers, finite differences and its own definition."""

from pathlib import Path

import numpy as np
import pytest
import torch

from covarium.errors import CovariumError
from covarium.models.spin_transformer import Config, SpinTransformer, deepened
from covarium.systems.spin_field import SpinField

FIXTURES = Path(__file__).parents[1] / "parity" / "lattice"


def random(config: Config, size: float = 0.1, seed: int = 0) -> SpinTransformer:
    model, rng = SpinTransformer(config).double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += size * torch.randn(p.shape, generator=rng, dtype=torch.float64)
    return model


@pytest.mark.parametrize("size", [4, 6])
@pytest.mark.parametrize("layers", [0, 2])
def test_stored_effective_spins_and_energies(size: int, layers: int) -> None:
    folder = FIXTURES / f"double_exchange_L{size}"
    given, expected = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    model = SpinTransformer(Config(size, layers, attention_shells=given["W"].shape[2] - 1)).double()
    with torch.no_grad():
        model.W.copy_(torch.from_numpy(given["W"][:layers]))
        model.J.copy_(torch.from_numpy(given["J_n"]))
        model.E0.fill_(float(given["E0"]))
        found = model(SpinField(torch.from_numpy(given["spins"]), size))
    if layers:
        np.testing.assert_allclose(found.spins.numpy(), expected["effective_spins"], atol=1e-13)
        np.testing.assert_allclose(found.pairs.numpy(), expected["pair_sums_effective"], atol=1e-12)
        np.testing.assert_allclose(found.energy.numpy(), expected["H_eff"], atol=1e-12)
    else:
        np.testing.assert_allclose(found.energy.numpy(), expected["H_eff_linear"], atol=1e-12)


def test_parameters_are_counted_as_published() -> None:
    """3 · (shells and the site itself) per layer, a coupling per shell and a constant."""
    for layers, count in ((0, 10), (1, 31), (2, 52), (4, 94)):
        model = SpinTransformer(Config(6, layers, attention_shells=6))
        assert sum(p.numel() for p in model.parameters()) == count


def test_another_layer_changes_nothing_and_learns_at_once() -> None:
    model, field = random(Config(4, 1)), SpinField.random(5, 4, torch.Generator().manual_seed(1))
    grown = deepened(model)
    assert grown.config.num_layers == 2
    assert (grown(field).energy - model(field).energy).abs().max() < 1e-12
    grown(field).energy.square().sum().backward()
    assert grown.W.grad is not None
    assert (grown.W.grad[1, 2].abs() > 1e-6).all()  # values
    assert torch.equal(deepened(SpinTransformer(Config(4, 0)).double()).J, torch.zeros(5, dtype=torch.float64))


def test_gradients() -> None:
    model, field = random(Config(3, 2)), SpinField.random(2, 3, torch.Generator().manual_seed(1))

    def energy(spins: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(dict(model.named_parameters()), weights, strict=True))
        return torch.func.functional_call(model, parts, (SpinField(spins, 3),)).energy

    inputs = (field.spins.requires_grad_(), *(p.detach().requires_grad_() for p in model.parameters()))
    assert torch.autograd.gradcheck(energy, inputs)
    assert torch.autograd.gradgradcheck(energy, inputs)


def test_couplings_are_those_of_the_energy() -> None:
    model, field = random(Config(4, 0)), SpinField.random(3, 4, torch.Generator().manual_seed(1))
    by_matrix = model.E0 - 0.5 * (field.spins * (model.couplings() @ field.spins)).sum((1, 2))
    assert (by_matrix - model(field).energy).abs().max() < 1e-13
    cut = random(Config(4, 0, coupling_shells=2))
    assert cut.couplings()[0].count_nonzero() == 8  # four neighbours and four across


def test_many_layers_stay_finite() -> None:
    model, field = random(Config(6, 12), size=1.0), SpinField.random(20, 6, torch.Generator().manual_seed(1))
    output = model(field)
    assert torch.isfinite(output.energy).all() and (output.spins.norm(dim=-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize(
    "wrong", [{"size": 1}, {"num_layers": -1}, {"attention_shells": 6}, {"coupling_shells": 0}], ids=str
)
def test_refuses_nonsense(wrong: dict) -> None:
    with pytest.raises(CovariumError, match="model."):
        Config(**({"size": 4} | wrong))


def test_refuses_another_lattice() -> None:
    with pytest.raises(CovariumError, match="size 4, the spin field of size 3"):
        SpinTransformer(Config(4))(SpinField.random(1, 3, torch.Generator()))

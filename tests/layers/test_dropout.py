"""Dropout draws from its generator, keeps the mean, and shares decisions where it says so."""

import torch

from covarium.layers.dropout import drop, drop_path


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_deterministic_with_a_generator() -> None:
    x = torch.ones(50, 4)
    one = drop(x, 0.3, (50, 4), generator())
    torch.rand(17)
    assert torch.equal(one, drop(x, 0.3, (50, 4), generator()))
    assert not torch.equal(one, drop(x, 0.3, (50, 4), generator(1)))
    assert (one == 0).any() and torch.equal(one[one != 0], torch.full_like(one[one != 0], 1 / 0.7))


def test_without_rate_nothing_happens_and_nothing_is_drawn() -> None:
    x, g = torch.randn(5, 3, 2), generator()
    assert drop(x, 0.0, (5, 3, 2), g) is x
    assert drop_path(x, 0.0, torch.zeros(5, dtype=torch.int64), 1, g) is x
    assert torch.equal(g.get_state(), generator().get_state())


def test_global_generator_without_one() -> None:
    torch.manual_seed(3)
    one = drop(torch.ones(100), 0.5, (100,), None)
    torch.manual_seed(3)
    assert torch.equal(one, drop(torch.ones(100), 0.5, (100,), None))


def test_mean_and_rate() -> None:
    x = drop(torch.ones(200_000), 0.1, (200_000,), generator())
    # five standard errors
    assert abs(x.mean() - 1) < 5 * (0.1 / 0.9 / 200_000) ** 0.5
    assert abs((x == 0).double().mean() - 0.1) < 5 * (0.09 / 200_000) ** 0.5


def test_equivariant_dropout_shares_over_orders() -> None:
    x = drop(torch.ones(30, 9, 6), 0.5, (30, 1, 6), generator())
    assert torch.equal(x, x[:, :1].expand_as(x)) and x.unique().tolist() == [0.0, 2.0]


def test_drop_path_decides_per_structure() -> None:
    batch = torch.arange(40).repeat_interleave(3)
    x = drop_path(torch.ones(120, 4, 2), 0.25, batch, 40, generator())
    per_structure = x.reshape(40, -1)
    assert (per_structure == per_structure[:, :1]).all()
    assert set(per_structure[:, 0].tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert torch.equal(x, drop_path(torch.ones(120, 4, 2), 0.25, batch, 40, generator()))

"""Batches are complete, equal, reproducible, and the same for any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covarium.data import BalancedSampler
from covarium.errors import CovariumError

costs_strategy = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


@given(costs=costs_strategy, batch_size=st.integers(1, 12), seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_every_frame_once(costs: list[int], batch_size: int, seed: int, epoch: int) -> None:
    batches = BalancedSampler(costs, batch_size, seed).batches(epoch)
    assert sorted(k for batch in batches for k in batch) == list(range(len(costs)))
    assert len(batches) == -(-len(costs) // batch_size)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    assert batches == BalancedSampler(costs, batch_size, seed).batches(epoch)


@given(costs=costs_strategy, batch_size=st.integers(1, 12), world=st.integers(1, 4))
def test_ranks_share_the_batches_of_one(costs: list[int], batch_size: int, world: int) -> None:
    whole = BalancedSampler(costs, batch_size, 7).batches(2)
    shares = [BalancedSampler(costs, batch_size, 7, rank=rank, world=world).batches(2) for rank in range(world)]
    assert all(len(share) == len(whole) for share in shares)
    for k, batch in enumerate(whole):
        joined = [frame for share in shares for frame in share[k]]
        assert sorted(joined) == sorted(batch)
        sizes = [len(share[k]) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@given(costs=costs_strategy, batch_size=st.integers(1, 12), slack=st.floats(1.0, 4.0))
def test_most_cost_holds(costs: list[int], batch_size: int, slack: float) -> None:
    limit = int(slack * max(costs))
    batches = BalancedSampler(costs, batch_size, 0, max_cost=limit).batches(0)
    assert sorted(k for batch in batches for k in batch) == list(range(len(costs)))
    assert all(0 < sum(costs[k] for k in batch) <= limit for batch in batches)


def test_costs_are_balanced_and_order_is_random() -> None:
    rng = np.random.default_rng(0)
    costs = rng.integers(100, 2000, 1000).tolist()
    batches = BalancedSampler(costs, 10, 0).batches(0)
    loads = np.array([sum(costs[k] for k in batch) for batch in batches])
    drawn = np.array(costs)[rng.permutation(1000)].reshape(100, 10).sum(1)
    assert loads.std() < drawn.std() / 3
    # cheap and costly batches come in no order
    assert abs(np.corrcoef(np.arange(100), loads)[0, 1]) < 0.3


def test_epochs_and_seeds_differ() -> None:
    costs = list(range(1, 40))
    base = BalancedSampler(costs, 4, 0)
    assert base.batches(0) != base.batches(1)
    assert base.batches(0) != BalancedSampler(costs, 4, 1).batches(0)
    still = BalancedSampler(costs, 4, 0, shuffle=False)
    assert still.batches(0) == still.batches(1)


def test_refusals() -> None:
    with pytest.raises(CovariumError, match="frame 1 alone costs 9"):
        BalancedSampler([1, 9], 2, 0, max_cost=5)
    with pytest.raises(CovariumError, match="batch_size must be at least 1"):
        BalancedSampler([1], 0, 0)
    with pytest.raises(CovariumError, match="rank must lie in 0 … 1"):
        BalancedSampler([1], 1, 0, rank=2, world=2)
    with pytest.raises(CovariumError, match="at least one frame"):
        BalancedSampler([], 1, 0)

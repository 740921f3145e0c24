"""Which frames go into which batch: random, of equal cost, and the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from covarium.errors import CovariumError


class BalancedSampler:
    """Batches of indices, a function of (seed, epoch) alone; every index occurs once per epoch.

    Batches of one epoch have equal sizes (±1) and nearly equal costs. A global batch is divided among the ranks by
    cost: the ranks' shares together are the batch that one rank alone would see, and every rank gets the same number
    of batches. A share is empty where a batch holds fewer frames than there are ranks.

    Args:
        costs: relative cost of each frame.
        batch_size: most frames in one global batch.
        seed: of the shuffling.
        max_cost: most cost of one global batch; more batches are made where needed, so that their number may vary a
            little from epoch to epoch.
        rank: which share this sampler gives.
        world: number of shares.
        shuffle: False gives the same batches in every epoch.

    Raises:
        CovariumError: a number is out of range, or one frame alone costs more than ``max_cost``.
    """

    def __init__(
        self,
        costs: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        *,
        max_cost: int | None = None,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.costs = np.asarray(costs, dtype=np.int64)
        if len(self.costs) == 0:
            raise CovariumError("a sampler needs at least one frame, got none")
        if batch_size < 1:
            raise CovariumError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world:
            raise CovariumError(f"rank must lie in 0 … {world - 1} for {world} ranks, got {rank}")
        if max_cost is not None and self.costs.max() > max_cost:
            frame = int(self.costs.argmax())
            raise CovariumError(f"frame {frame} alone costs {self.costs[frame]}, more than max_cost {max_cost}")
        self.batch_size = batch_size
        self.seed = seed
        self.max_cost = max_cost
        self.rank = rank
        self.world = world
        self.shuffle = shuffle

    def batches(self, epoch: int) -> list[list[int]]:
        """This rank's share of each batch of the epoch, in order."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.costs)) if self.shuffle else np.arange(len(self.costs))
        count = -(-len(order) // self.batch_size)
        parts = self._deal(order, count)
        if self.max_cost is not None:
            while over := sum(int(self.costs[part].sum()) > self.max_cost for part in parts):
                count = min(count + over, len(order))
                parts = self._deal(order, count)
        if self.shuffle:
            # the deal gives the costliest frame of a round to the cheapest batch; the order must not show it
            parts = [parts[k] for k in rng.permutation(len(parts))]
        if self.world > 1:
            by_cost = [part[np.argsort(-self.costs[part], kind="stable")] for part in parts]
            parts = [self._deal(part, self.world)[self.rank] for part in by_cost]
        return [part.tolist() for part in parts]

    def _deal(self, order: np.ndarray, count: int) -> list[np.ndarray]:
        """Deal frames to ``count`` hands in rounds; in each round the costliest frame goes to the cheapest hand."""
        hands: list[list[int]] = [[] for _ in range(count)]
        load = np.zeros(count, dtype=np.int64)
        for start in range(0, len(order), count):
            dealt = order[start : start + count]
            dealt = dealt[np.argsort(-self.costs[dealt], kind="stable")]
            takers = np.argsort(load, kind="stable")[: len(dealt)]
            load[takers] += self.costs[dealt]
            for taker, frame in zip(takers.tolist(), dealt.tolist(), strict=True):
                hands[taker].append(frame)
        return [np.array(hand, dtype=np.int64) for hand in hands]

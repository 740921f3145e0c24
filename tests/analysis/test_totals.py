"""What is summed up piece by piece is what numpy says of everything at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covarium.analysis import totals
from covarium.analysis.totals import Largest, Sample, Spread, Total, VectorTotal

cuts = st.lists(st.integers(0, 60), min_size=0, max_size=6).map(sorted)


def parts(rows: np.ndarray, at: list[int]) -> list[np.ndarray]:
    return np.split(rows, [k for k in at if k <= len(rows)])


@given(seed=st.integers(0, 10**6), at=cuts)
def test_errors_of_parts_are_those_of_all(seed: int, at: list[int]) -> None:
    rng = np.random.default_rng(seed)
    predicted, labels = rng.normal(size=(2, 60, 3))
    labels[rng.random(60) < 0.2] = 0.0
    total = VectorTotal()
    for a, b in zip(parts(predicted, at), parts(labels, at), strict=True):
        total.add(a, b)
    error = predicted - labels
    lengths = np.linalg.norm(predicted, axis=1) * np.linalg.norm(labels, axis=1)
    cosines = (predicted * labels).sum(1)[lengths > 0] / lengths[lengths > 0]
    assert total.errors() == pytest.approx(
        {
            "mae": np.abs(error).mean(), "rmse": np.sqrt((error**2).mean()), "components": 180,
            "norm": np.linalg.norm(error, axis=1).mean(), "cosine": cosines.mean(),
        },
        rel=1e-13,
    )  # fmt: skip


def test_no_direction_has_no_cosine() -> None:
    total = VectorTotal()
    total.add(np.ones((2, 3)), np.zeros((2, 3)))
    assert "cosine" not in total.errors()
    single = Total()
    single.add(np.array(-2.0))
    assert single.errors() == {"mae": 2.0, "rmse": 2.0}


@pytest.mark.parametrize("shape", [(), (3,)])
def test_spread_beside_a_large_mean(shape: tuple[int, ...]) -> None:
    """Total energies of 10⁵ eV that differ by 10⁻³."""
    values = 1e5 + 1e-3 * np.random.default_rng(0).normal(size=(500, *shape))
    spread = Spread()
    for value in values:
        spread.add(value)
    expected = np.sqrt(np.square((values - 1e5) - (values - 1e5).mean(axis=0)).mean())
    assert spread.value() == pytest.approx(expected, rel=1e-9)


@given(seed=st.integers(0, 10**6), at=cuts)
def test_a_sample_does_not_depend_on_the_parts(seed: int, at: list[int]) -> None:
    rng = np.random.default_rng(seed)
    numbers, rows = rng.random(60), rng.normal(size=(60, 2))
    before, totals.KEPT = totals.KEPT, 7
    try:
        sample = Sample(2)
    finally:
        totals.KEPT = before
    for n, r in zip(parts(numbers, at), parts(rows, at), strict=True):
        sample.add(n, r)
    chosen = np.sort(np.argsort(numbers)[:7])
    assert (sample.rows() == np.column_stack([numbers, rows])[chosen]).all()


def test_every_row_has_the_same_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of eight atoms: each atom of the frame is drawn equally often (sieving every k-th would take one)."""
    monkeypatch.setattr(totals, "KEPT", 4000)
    sample, rng = Sample(1), np.random.default_rng(0)
    for _ in range(20_000):
        sample.add(rng.random(8), np.arange(8.0)[:, None])
    counts = np.bincount(sample.rows()[:, 1].astype(int), minlength=8)
    assert counts.sum() == 4000
    assert (np.square(counts - 500) / 500).sum() < 24.3  # χ² of 7 degrees of freedom at 0.1 %


@given(sizes=st.lists(st.integers(0, 9), min_size=0, max_size=80))
def test_the_largest_are_kept_and_the_first_of_equals(sizes: list[int]) -> None:
    largest: Largest[int] = Largest()
    for k, size in enumerate(sizes):
        largest.add(float(size), k)
    expected = sorted(range(len(sizes)), key=lambda k: -sizes[k])[: totals.WORST]
    assert [k for _, k in largest.items] == expected

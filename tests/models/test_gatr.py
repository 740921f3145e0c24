"""Refusals of GATr and the plain transformer, sizes, and starting values."""

from typing import Any

import pytest
import torch

from covarium.errors import CovariumError
from covarium.layers.multivector.attention import Items
from covarium.models import GATr, GATrConfig, Transformer, TransformerConfig
from covarium.systems import Tokens


def tokens(count: int = 6, vectors: int = 1, scalars: int = 1) -> Tokens:
    g = torch.Generator().manual_seed(0)
    return Tokens.sample(
        torch.randn(count, 3, generator=g), torch.randn(count, vectors, 3, generator=g),
        torch.randn(count, scalars, generator=g),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_blocks": 0}, "model.num_blocks must be at least 1, got 0"),
        ({"in_s_channels": -1}, "model.in_s_channels must be 0 or more"),
        ({"rotary": (True, False)}, "one entry per axis"),
        ({"axial": 4}, "one entry per axis"),
        ({"reinsert_mv_channels": (1,)}, "below in_mv_channels = 1, got 1"),
    ],
)
def test_impossible_configurations(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        GATrConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_channels": 2}, "at least num_heads"),
        ({"out_vectors": 0}, "one of them more"),
        ({"axial": 0}, "model.axial must be at least 1"),
    ],
)
def test_impossible_transformers(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        TransformerConfig(**fields)


def test_tokens_that_do_not_fit() -> None:
    model = GATr(GATrConfig(num_blocks=1, **GATrConfig.for_tokens(1, 1, 1, 0)))
    assert model(tokens()).vectors.shape == (6, 1, 3)
    with pytest.raises(CovariumError, match="2 vectors and 1 scalars, the model reads 1 and 1"):
        model(tokens(vectors=2))
    plain = Transformer(TransformerConfig(num_blocks=1, **TransformerConfig.for_tokens(1, 1, 1, 0)))
    with pytest.raises(CovariumError, match=r"model.in_channels = 7"):
        plain(tokens(scalars=0))
    grid = GATr(GATrConfig(num_blocks=1, axial=4, rotary=(False, False), **GATrConfig.for_tokens(1, 1, 1, 0)))
    with pytest.raises(CovariumError, match="a multiple of it; got .6."):
        grid(tokens())
    with pytest.raises(CovariumError, match="N ≥ 1"):
        Tokens.sample(torch.zeros(0, 3))


def test_published_size() -> None:
    """The official n-body network has 2,209,058 parameters with one scalar in and out beside two multivectors."""
    with torch.device("meta"):
        count = {
            (a, b): sum(p.numel() for p in GATr(GATrConfig.published(in_mv_channels=a, in_s_channels=b)).parameters())
            for a, b in ((1, 1), (2, 0), (3, 0), (4, 0), (3, 1))
        }
    assert 2_200_000 < min(count.values()) and max(count.values()) < 2_220_000


@pytest.mark.parametrize("variant", ["E", "P", "iP", "C"])
def test_starting_values_keep_the_size_of_features(variant: Any) -> None:
    torch.manual_seed(0)
    model = GATr(GATrConfig(variant=variant, **GATrConfig.for_tokens(1, 1, 1, 1)))
    output = model(tokens(64))
    assert 1e-3 < float(output.vectors.detach().std()) < 10 and 1e-2 < float(output.scalars.detach().std()) < 10


def test_constants_stay_exact_when_the_precision_is_raised() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        torch.manual_seed(0)
        low = GATr(GATrConfig(num_blocks=1, rotary=(True,))).double()
    finally:
        torch.set_default_dtype(before)
    torch.set_default_dtype(torch.float64)
    try:
        high = GATr(GATrConfig(num_blocks=1, rotary=(True,)))
    finally:
        torch.set_default_dtype(before)
    high.load_state_dict(low.state_dict())
    x, items = torch.randn(5, 1, 16, dtype=torch.float64), Items((1, 5))
    assert torch.equal(low.network(x, None, items)[0], high.network(x, None, items)[0])

"""Oracles that take their precision from torch's default dtype."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def float64_oracle() -> Iterator[None]:
    """e3nn makes its constants in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)

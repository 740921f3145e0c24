"""Linear maps by the faster product."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from covarium.ops.dense import dense


class Linear(nn.Linear):
    """torch's, with the product of ``covarium.ops.dense``."""

    def forward(self, x: Float[Tensor, "*rest I"]) -> Float[Tensor, "*rest O"]:
        return dense(x, self.weight, self.bias)

"""Where attention weights come out of a model: modules whose results forward hooks can see, at no cost otherwise."""

from __future__ import annotations

from torch import Tensor, nn

from covarium.ops.attention import edge_softmax


class AttentionWeights(nn.Module):
    """Gives attention weights, [E, H], a row for every edge.

    Args:
        loops: the rows are those of the atoms instead, [N, H]: the weight that an atom has for itself.
    """

    def __init__(self, *, loops: bool = False) -> None:
        super().__init__()
        self.loops = loops


class SoftmaxWeights(AttentionWeights):
    """Softmax over the edges of each target, see ``edge_softmax``.

    With an envelope the model multiplies values by the weight and once more by the envelope.
    """

    def forward(self, logits: Tensor, i: Tensor, num_atoms: int, envelope: Tensor | None) -> Tensor:
        """Logits [E, H], targets i [E] and envelope [E] → [E, H]."""
        return edge_softmax(logits, i, num_atoms, envelope)

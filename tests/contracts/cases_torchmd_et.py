"""The Equivariant Transformer with every value of every switch."""

from dataclasses import replace
from typing import Any

from contract_case import Case

from covarium.models import TorchMDETConfig

TINY = TorchMDETConfig(
    num_layers=2, embedding_dimension=8, num_heads=2, num_rbf=8, cutoff=4.0, max_num_elements=10
)  # fmt: skip


def _et(name: str, smooth: bool = True, **fields: Any) -> Case:
    return Case(f"torchmd_{name}", "torchmd_et", replace(TINY, **fields), smooth=smooth)


VARIANTS = [
    _et("tiny"),
    _et("scalar_head", output="scalar", num_layers=3),
    _et("one_layer", num_layers=1),
    _et("keys", distance_influence="keys", attn_activation="tanh"),
    _et("values", distance_influence="values", activation="ssp", attn_activation="sigmoid"),
    _et("gauss_none", distance_influence="none", rbf_type="gauss", trainable_rbf=True, activation="tanh"),
    _et("lower_cutoff", cutoff_lower=0.8, attn_activation="ssp"),
    _et("no_neighbours", neighbour_embedding=False, activation="sigmoid", trainable_rbf=True),
    # the message to the vectors jumps at the cutoff
    _et("no_vector_cutoff", smooth=False, vector_cutoff=False),
    _et("published_lower", smooth=False, vector_cutoff=False, cutoff_lower=0.8, vector_epsilon=0.0),
    _et("published_length", vector_epsilon=0.0),
]

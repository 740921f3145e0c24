"""What is computed on. A system owns its batching, its cost and its group action."""

from covarium.systems.atom_graph import (
    AtomGraph,
    AtomModel,
    AtomOutput,
    Denoising,
    GraphSpec,
    refuse_elements,
    rounding_of,
)
from covarium.systems.neighbours import atom_graph, renew_edges
from covarium.systems.origin import near_origin
from covarium.systems.padding import padded
from covarium.systems.spin_field import LatticeElement, SpinField
from covarium.systems.tokens import TokenModel, TokenOutput, Tokens

__all__ = [
    "AtomGraph",
    "AtomModel",
    "AtomOutput",
    "Denoising",
    "GraphSpec",
    "LatticeElement",
    "SpinField",
    "TokenModel",
    "TokenOutput",
    "Tokens",
    "atom_graph",
    "near_origin",
    "padded",
    "refuse_elements",
    "renew_edges",
    "rounding_of",
]

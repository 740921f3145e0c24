"""What is computed on. A system owns its batching, its cost and its group action."""

from covarium.systems.atom_graph import AtomGraph, AtomModel, AtomOutput, GraphSpec
from covarium.systems.neighbours import atom_graph
from covarium.systems.tokens import TokenModel, TokenOutput, Tokens

__all__ = ["AtomGraph", "AtomModel", "AtomOutput", "GraphSpec", "atom_graph", "TokenModel", "TokenOutput", "Tokens"]

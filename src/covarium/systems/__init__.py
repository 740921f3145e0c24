"""What is computed on. A system owns its batching, its cost and its group action."""

from covarium.systems.atom_graph import AtomGraph, AtomModel, AtomOutput, GraphSpec
from covarium.systems.neighbours import atom_graph
from covarium.systems.spin_field import LatticeElement, SpinField

__all__ = ["AtomGraph", "AtomModel", "AtomOutput", "GraphSpec", "LatticeElement", "SpinField", "atom_graph"]

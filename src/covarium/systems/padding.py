"""Batches of few different sizes, for what is recorded once per size (CUDA graphs)."""

from __future__ import annotations

from dataclasses import replace

import torch

from covarium.systems.atom_graph import AtomGraph

APART = 0.5  # of the cutoff


def padded(graph: AtomGraph, cutoff: float, *, atoms: int = 1, edges: int = 1) -> AtomGraph:
    """``graph`` with one more structure at its end, so that the numbers of atoms and edges are multiples.

    The structure has two atoms that see each other as often as edges are missing, and perhaps more that see nothing.
    No edge joins it to the others: rows of theirs, the first ones of every answer, are what they were.

    Args:
        graph: not periodic and periodic structures alike; of at least one atom.
        cutoff: of the model, in Å.
        atoms, edges: what their numbers are to be multiples of.
    """
    more_atoms = 2 + (-graph.num_atoms - 2) % atoms
    more_edges = -graph.edge_index.shape[1] % edges
    n = graph.num_atoms
    positions = graph.positions.new_zeros(more_atoms, 3)
    positions[1, 0] = APART * cutoff
    # sorted by target: half of the edges go to the first atom, the rest to the second
    target = (torch.arange(more_edges, device=graph.batch.device) >= more_edges // 2).long()
    pairs = torch.stack([n + 1 - target, n + target])
    ghost = torch.full_like(graph.batch[:1], graph.num_graphs)
    return replace(
        graph,
        positions=torch.cat([graph.positions, positions]),
        numbers=torch.cat([graph.numbers, graph.numbers[:1].expand(more_atoms)]),
        cell=torch.cat([graph.cell, torch.zeros_like(graph.cell[:1])]),
        pbc=torch.cat([graph.pbc, torch.zeros_like(graph.pbc[:1])]),
        batch=torch.cat([graph.batch, ghost.expand(more_atoms)]),
        edge_index=torch.cat([graph.edge_index, pairs], dim=1),
        shifts=torch.cat([graph.shifts, graph.shifts.new_zeros(more_edges, 3)]),
        charge=torch.cat([graph.charge, torch.zeros_like(graph.charge[:1])]),
        spin=torch.cat([graph.spin, torch.zeros_like(graph.spin[:1])]),
        tags=torch.cat([graph.tags, graph.tags[:1].expand(more_atoms)]),
    )

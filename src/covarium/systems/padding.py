"""Batches of few different sizes, for what is recorded once per size (CUDA graphs)."""

from __future__ import annotations

from dataclasses import replace

import torch

from covarium.systems.atom_graph import AtomGraph

APART = 0.5  # of the cutoff


def padded(graph: AtomGraph, cutoff: float, *, digits: int = 4) -> AtomGraph:
    """``graph`` with one more structure at its end, so that the numbers of atoms and edges are round.

    The structure has pairs of atoms that see each other as often as edges are missing. No edge joins it to the others:
    rows of theirs, the first ones of every answer, are what they were. It is not periodic, but has a volume, so that
    nothing in it is infinite.

    Args:
        graph: not periodic and periodic structures alike; of at least one atom.
        cutoff: of the model, in Å.
        digits: binary ones that a round number may begin with; d of them are at most 1/2^(d − 1) more.
    """
    n = graph.num_atoms
    more_atoms = round_up(n + 2, digits) - n
    more_edges = round_up(graph.edge_index.shape[1], digits) - graph.edge_index.shape[1]
    positions = graph.positions.new_zeros(more_atoms, 3)
    positions[1::2, 0] = APART * cutoff
    # sorted by target, to every atom of a pair as many
    ends = more_atoms // 2 * 2
    target = torch.arange(more_edges, device=graph.batch.device) * ends // max(more_edges, 1)
    pairs = n + torch.stack([target ^ 1, target])
    ghost = torch.full_like(graph.batch[:1], graph.num_graphs)
    return replace(
        graph,
        positions=torch.cat([graph.positions, positions]),
        numbers=torch.cat([graph.numbers, graph.numbers[:1].expand(more_atoms)]),
        cell=torch.cat([graph.cell, torch.eye(3, dtype=graph.cell.dtype, device=graph.cell.device).unsqueeze(0)]),
        pbc=torch.cat([graph.pbc, torch.zeros_like(graph.pbc[:1])]),
        batch=torch.cat([graph.batch, ghost.expand(more_atoms)]),
        edge_index=torch.cat([graph.edge_index, pairs], dim=1),
        shifts=torch.cat([graph.shifts, graph.shifts.new_zeros(more_edges, 3)]),
        charge=torch.cat([graph.charge, torch.zeros_like(graph.charge[:1])]),
        spin=torch.cat([graph.spin, torch.zeros_like(graph.spin[:1])]),
        tags=torch.cat([graph.tags, graph.tags[:1].expand(more_atoms)]),
    )


def round_up(number: int, digits: int) -> int:
    """The next number whose binary form is ``digits`` digits and zeros: 2^(digits − 1) of them per factor of two."""
    zeros = max(0, number.bit_length() - digits)
    return -(-number >> zeros) << zeros

"""Pair potentials without trainable parameters, in eV and Å; they obey the model protocol.

E_i = ½ Σ_j u(r_ij): every pair is met twice, once in each direction, so each atom receives half of it.
Letters: N atoms, E directed edges.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from covarium.errors import CovariumError
from covarium.systems import AtomGraph, AtomOutput, GraphSpec


class LennardJones(nn.Module):
    """u(r) = 4ε[(σ/r)¹² − (σ/r)⁶]·S(r), J. E. Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931).

    S is the XPLOR switch (see ``switch``), so energy and force are continuous; below ``onset`` the potential is exact:
    a dimer has its minimum −ε at r = 2^(1/6) σ.

    Args:
        epsilon: well depth, eV.
        sigma: where u is zero, Å.
        cutoff: Å; 3σ if None.
        onset: where switching starts, Å; ⅔ of the cutoff if None.
    """

    group = "E(3)"
    outputs = frozenset({"energy"})
    reads: frozenset[str] = frozenset()

    def __init__(
        self, epsilon: float, sigma: float, *, cutoff: float | None = None, onset: float | None = None
    ) -> None:
        super().__init__()
        _positive(epsilon=epsilon, sigma=sigma)
        self.epsilon, self.sigma = float(epsilon), float(sigma)
        self.spec = GraphSpec(3.0 * self.sigma if cutoff is None else float(cutoff))
        self.onset = _onset(onset, self.spec.cutoff)

    def forward(self, graph: AtomGraph, rng: torch.Generator | None = None) -> AtomOutput:
        square = graph.vectors().square().sum(-1)
        sixth = (self.sigma**2 / square) ** 3
        pair = 4.0 * self.epsilon * (sixth.square() - sixth)
        return _share(pair * switch(square, self.onset, self.spec.cutoff), graph)

    def no_weight_decay(self) -> set[str]:
        return set()


class Morse(nn.Module):
    """u(r) = D[(1 − exp(−a(r − r₀)))² − 1]·S(r), P. M. Morse, Phys. Rev. 34, 57 (1929).

    Below ``onset`` the minimum is −D at r₀ with the force constant 2Da².

    Args:
        depth: D, eV.
        width: a, 1/Å.
        length: r₀, Å.
        cutoff: Å.
        onset: where switching starts, Å; ⅔ of the cutoff if None.
    """

    group = "E(3)"
    outputs = frozenset({"energy"})
    reads: frozenset[str] = frozenset()

    def __init__(self, depth: float, width: float, length: float, *, cutoff: float, onset: float | None = None) -> None:
        super().__init__()
        _positive(depth=depth, width=width, length=length)
        self.depth, self.width, self.length = float(depth), float(width), float(length)
        self.spec = GraphSpec(float(cutoff))
        self.onset = _onset(onset, self.spec.cutoff)

    def forward(self, graph: AtomGraph, rng: torch.Generator | None = None) -> AtomOutput:
        square = graph.vectors().square().sum(-1)
        decay = torch.exp(-self.width * (square.sqrt() - self.length))
        pair = self.depth * ((1.0 - decay).square() - 1.0)
        return _share(pair * switch(square, self.onset, self.spec.cutoff), graph)

    def no_weight_decay(self) -> set[str]:
        return set()


class Harmonic(nn.Module):
    """u(r) = ½k(r − r₀)² between all pairs closer than the cutoff.

    Exact for bonds that stay within the cutoff; a pair that crosses it makes the energy jump, so leave room.

    Args:
        stiffness: k, eV/Å².
        length: r₀, Å.
        cutoff: Å.
    """

    group = "E(3)"
    outputs = frozenset({"energy"})
    reads: frozenset[str] = frozenset()

    def __init__(self, stiffness: float, length: float, *, cutoff: float) -> None:
        super().__init__()
        _positive(stiffness=stiffness, length=length)
        self.stiffness, self.length = float(stiffness), float(length)
        self.spec = GraphSpec(float(cutoff))

    def forward(self, graph: AtomGraph, rng: torch.Generator | None = None) -> AtomOutput:
        distance = graph.vectors().square().sum(-1).sqrt()
        return _share(0.5 * self.stiffness * (distance - self.length).square(), graph)

    def no_weight_decay(self) -> set[str]:
        return set()


def switch(square: Tensor, onset: float, cutoff: float) -> Tensor:
    """XPLOR switch of squared distances: 1 below ``onset``, 0 beyond ``cutoff``, once continuously differentiable.

    S = (r_c² − r²)² (r_c² + 2r² − 3r_o²) / (r_c² − r_o²)³, as in HOOMD-blue and ASE's LennardJones(smooth=True).
    """
    inner, outer = onset**2, cutoff**2
    between = (outer - square).square() * (outer + 2.0 * square - 3.0 * inner) / (outer - inner) ** 3
    return torch.where(square < inner, 1.0, torch.where(square < outer, between, 0.0))


def _share(pair: Tensor, graph: AtomGraph) -> AtomOutput:
    """[E] pair energies → [N], half to each target."""
    return AtomOutput(pair.new_zeros(graph.num_atoms).index_add(0, graph.edge_index[1], 0.5 * pair))


def _onset(onset: float | None, cutoff: float) -> float:
    if onset is None:
        return 2.0 / 3.0 * cutoff
    if not 0.0 < onset < cutoff:
        raise CovariumError(f"onset of the switch must lie between 0 and the cutoff {cutoff} Å, got {onset}")
    return float(onset)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise CovariumError(f"{name} of a pair potential must be positive, got {value}")

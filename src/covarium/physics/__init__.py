"""Exact, parameter-free truth: interactions whose answers are known on paper."""

from covarium.physics.pair_potentials import Harmonic, LennardJones, Morse

__all__ = ["Harmonic", "LennardJones", "Morse"]

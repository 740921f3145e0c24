"""Exact, parameter-free truth: interactions whose answers are known on paper."""

from covarium.physics.double_exchange import DoubleExchange
from covarium.physics.pair_potentials import Harmonic, LennardJones, Morse

__all__ = ["DoubleExchange", "Harmonic", "LennardJones", "Morse"]

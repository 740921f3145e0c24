"""Exact, parameter-free mathematics; constants are derived in float64."""

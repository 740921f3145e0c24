"""Functional tensor operations; the reference is the documentation."""

"""Layers on features [N, S, C] of degrees 0..lmax in l-primary order, S = (lmax + 1)², C channels."""

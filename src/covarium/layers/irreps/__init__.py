"""Layers on features of irreps.

[N, S, C] of degrees 0..lmax in l-primary order, S = (lmax + 1)², C channels: activation, linear, norm. Lists over the
entries of an ``Irreps`` with channels of their own, [N, 2l+1, mul]: flat_linear, flat_norm, edge_product, separable.
"""

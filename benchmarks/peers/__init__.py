"""Published implementations beside ours: each is a module with ``build(row, inputs, weights, device) -> Subject``."""

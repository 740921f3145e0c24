"""Fast twins of operations in ``covarium.ops``, which alone may import them."""

"""Several stages joined: from a file of structures to a trained model, and from a trained model to its use."""

"""Official checkpoints at the border: their constructor arguments and names, translated to ours."""

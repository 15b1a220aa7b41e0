"""RLHF of distilled reasoning models from a Balanced Actor Initialization."""

"""Noise-robust methods as hooks of the training loop: what `robust.name` in a recipe chooses."""

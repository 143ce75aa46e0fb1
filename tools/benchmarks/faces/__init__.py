"""Cleaning and training on faces."""

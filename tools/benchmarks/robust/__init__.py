"""Losses against label noise."""

"""Learned margins."""

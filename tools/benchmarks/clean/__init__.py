"""Cleaning labels."""

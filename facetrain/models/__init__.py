"""Backbones: layers only, no loss and no training."""

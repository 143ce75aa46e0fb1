"""Margin softmax over class centres sharded across ranks: (embedding, label) -> per-sample loss."""

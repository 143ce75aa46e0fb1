"""Text tables and `.npz` files that somebody else may have written, read with limits."""

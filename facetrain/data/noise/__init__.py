"""Label noise with known truth, planted."""

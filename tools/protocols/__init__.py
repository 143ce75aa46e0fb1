"""Official protocols."""

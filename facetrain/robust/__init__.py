"""Training on noisy labels: per-sample weights and targets for any per-sample loss."""

"""Stage `evaluate`: backbone + verification sets -> numbers."""

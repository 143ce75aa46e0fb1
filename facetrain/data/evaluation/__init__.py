"""Verification sets (`.bin`, pair lists) and template benchmarks (IJB), read and written."""

"""Benchmarks and soak runs."""

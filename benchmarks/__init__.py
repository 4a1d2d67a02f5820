"""Measurements; each file says what it measures and writes its figures to benchmarks/results/."""

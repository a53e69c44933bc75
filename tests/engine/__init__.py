"""Engines: one conformance suite over all of them, and what is particular to the MLX worker."""

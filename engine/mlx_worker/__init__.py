"""The worker process around MLX. Nothing outside this package imports mlx.

Threads: the main thread reads commands and tokenises, long texts in one beside it; the model thread
owns every MLX object.
"""

"""Running models: the Engine contract, its implementations, and the worker process around MLX."""

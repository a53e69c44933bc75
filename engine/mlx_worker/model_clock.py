"""Measures what a step spends in MLX."""

import time


class ModelClock:
    """Adds up the seconds of `with` blocks. They must not be nested."""

    def __init__(self) -> None:
        self._total_s = 0.0
        self._began_s = 0.0

    def __enter__(self) -> None:
        self._began_s = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self._total_s += time.perf_counter() - self._began_s

    def take_s(self) -> float:
        """The sum since it was last taken."""
        total_s, self._total_s = self._total_s, 0.0
        return total_s

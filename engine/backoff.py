"""Exponential back-off."""


def backoff_s(failures: int, *, initial_s: float, max_s: float) -> float:
    """Seconds to wait after so many failures in a row: initial_s, then doubled each time, up to max_s."""
    if failures < 1:
        return 0.0
    # The exponent is bounded too, since a float overflows at 2**1024.
    return min(max_s, initial_s * 2.0 ** min(failures - 1, 62))

"""A rate with a burst, as a bucket that fills over time."""

import math

_TOLERANCE_S = 1e-6
"""A wait this short is none. Without it rounding could make an amount not ready at the time named for it."""


class TokenBucket:
    """Fills at rate_per_s up to burst; `take` may bring the level below zero, a debt that filling pays off.

    An amount is in any unit: requests, tokens. rate_per_s 0 means no limit: all can be taken at any time.
    The caller's clock never goes back.
    """

    __slots__ = ("_at_s", "_burst", "_level", "_rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        """Starts full. Raises ValueError when rate_per_s or burst is negative or not finite."""
        _check(rate_per_s, burst)
        self._rate_per_s = rate_per_s
        self._burst = burst
        # The level at the time _at_s.
        self._level = burst
        self._at_s = now_s

    def ready_at(self, amount: float, now_s: float) -> float:
        """When amount can be taken without a debt: not after now_s means now.

        An amount above the burst needs a full bucket only, since it would never be ready otherwise.
        """
        if not self._rate_per_s:
            return now_s
        wait_s = (min(amount, self._burst) - self.level(now_s)) / self._rate_per_s
        return now_s if wait_s <= _TOLERANCE_S else now_s + wait_s

    def take(self, amount: float, now_s: float) -> None:
        """Take amount whether it is ready or not; a negative one is given back, up to the burst."""
        if self._rate_per_s:
            self._level = min(self.level(now_s) - amount, self._burst)
            self._at_s = now_s

    def configure(self, rate_per_s: float, burst: float, now_s: float) -> None:
        """Change rate and burst. The level stays, up to the new burst; a bucket that had no limit is full.

        Raises ValueError as the constructor does, and changes nothing then.
        """
        _check(rate_per_s, burst)
        self._level = min(self.level(now_s), burst)
        self._at_s = now_s
        self._rate_per_s = rate_per_s
        self._burst = burst

    def level(self, now_s: float) -> float:
        """What can be taken now without a debt; below zero is a debt; infinite without a limit."""
        if not self._rate_per_s:
            return math.inf
        return min(self._burst, self._level + (now_s - self._at_s) * self._rate_per_s)


def _check(rate_per_s: float, burst: float) -> None:
    if not (0 <= rate_per_s < math.inf and 0 <= burst < math.inf):
        raise ValueError(
            f"rate_per_s and burst must be finite and not negative, got {rate_per_s} and {burst}"
        )

"""How far the limit may be raised after it was found too high."""

import math

FIRST_HOLD_INTERVALS = 5
MOST_HOLD_INTERVALS = 80


class Probe:
    """Keeps a limit from running again and again into what it has just been lowered from.

    Below an engine's last place load may be low, and one stream above it high: without a memory the limit
    swings. After a lowering, a raise goes half of the way to the limit that was too high, for a while that
    doubles each time (as in BIC, Xu, Harfoush, Rhee 2004); then up by one stream, two, four, and so on.
    """

    def __init__(self) -> None:
        self._too_high: float | None = None
        self._step = 0.0
        self._hold = FIRST_HOLD_INTERVALS
        self._left = 0
        self._raised = False

    def interval(self) -> None:
        """One interval has passed."""
        self._left = max(0, self._left - 1)

    def lowered(self, limit: float) -> None:
        """limit was too high."""
        # Only a raise that failed makes it wait longer; one that is lowered on and on is another matter.
        self._hold = min(2 * self._hold, MOST_HOLD_INTERVALS) if self._raised else FIRST_HOLD_INTERVALS
        self._too_high, self._left, self._step, self._raised = limit, self._hold, 1.0, False

    def raised(self, limit: float) -> None:
        """The limit was raised to `limit`."""
        self._raised = True
        if not self._left:
            self._step *= 2
        if self._too_high is not None and limit > self._too_high:
            self._too_high = None

    def most(self, limit: float) -> float:
        """What a raise may lead to; infinite for no bound."""
        if self._too_high is None:
            return math.inf
        return (limit + self._too_high) / 2 if self._left else limit + self._step

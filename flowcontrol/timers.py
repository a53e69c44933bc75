"""The times at which something must happen to one stream, as data."""

from enum import Enum


class Timer(Enum):
    """What ends a stream when its time comes. Of those due at once the first listed counts."""

    ACK_TIMEOUT = "ack timeout"
    """Tokens waited for credit too long."""
    DEADLINE = "deadline"
    """The stream ran for longer than a stream may."""
    IDLE = "idle"
    """The caller's next message did not come."""


class Timers:
    """At most one time for each Timer, in seconds of the owner's clock. Says what is due; does nothing."""

    __slots__ = ("_at_s",)

    def __init__(self) -> None:
        self._at_s: dict[Timer, float] = {}

    def set(self, timer: Timer, at_s: float) -> None:
        """Let the timer be due at at_s, instead of any time set before."""
        self._at_s[timer] = at_s

    def clear(self, timer: Timer) -> None:
        """The timer is not needed any more; nothing if it was not set."""
        self._at_s.pop(timer, None)

    def next_deadline(self) -> float | None:
        """When `due` must be asked next, or None when no timer is set."""
        return min(self._at_s.values(), default=None)

    def due(self, now_s: float) -> Timer | None:
        """The timer with the earliest time not after now_s, or None. It stays set."""
        earliest: Timer | None = None
        earliest_s = now_s
        # From the last to the first, so that of equal times the first listed stays.
        for timer in reversed(Timer):
            at_s = self._at_s.get(timer)
            if at_s is not None and at_s <= earliest_s:
                earliest, earliest_s = timer, at_s
        return earliest

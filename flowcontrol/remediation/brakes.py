"""What keeps the policy from doing too much: cool-down, rate, swings, and a circuit breaker."""

from collections import deque

from flowcontrol.remediation.actions import Key, Step

HOUR_S = 3600.0
"""Of the rate; also how long swings are remembered and how long the breaker stays open."""


class Pace:
    """Cool-down of each action on each subject, and the number of actions in an hour."""

    def __init__(self, *, cool_down_s: float, max_per_hour: int) -> None:
        self._cool_down_s = cool_down_s
        self._max_per_hour = max_per_hour
        self._taken_s: deque[float] = deque()
        # When each key was last taken, no longer than its cool-down.
        self._last_s: dict[Key, float] = {}

    def why_not(self, key: Key, now_s: float) -> str | None:
        """What keeps it from being taken now; None when nothing does."""
        self._forget(now_s)
        if key in self._last_s:
            return f"cool-down of {self._cool_down_s:.0f} s"
        if len(self._taken_s) >= self._max_per_hour:
            return f"{self._max_per_hour} actions within an hour"
        return None

    def take(self, key: Key, now_s: float) -> None:
        """It is taken, whether that succeeds or not."""
        self._taken_s.append(now_s)
        self._last_s[key] = now_s

    def _forget(self, now_s: float) -> None:
        while self._taken_s and now_s - self._taken_s[0] >= HOUR_S:
            self._taken_s.popleft()
        self._last_s = {key: at for key, at in self._last_s.items() if now_s - at < self._cool_down_s}


class Swings:
    """How often each action was taken and undone again within the last hour."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._undone_s: dict[Key, deque[float]] = {}

    def undone(self, key: Key, now_s: float) -> None:
        self._undone_s.setdefault(key, deque(maxlen=self._most)).append(now_s)

    def too_many(self, key: Key, now_s: float) -> bool:
        self._undone_s = {each: at for each, at in self._undone_s.items() if now_s - at[-1] < HOUR_S}
        undone_s = self._undone_s.get(key, ())
        return sum(now_s - at < HOUR_S for at in undone_s) >= self._most

    def forget(self, key: Key) -> None:
        self._undone_s.pop(key, None)


class Breaker:
    """Open for an hour after so many actions in a row that failed or did not help."""

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        self._failures = 0
        self._why = ""
        self._until_s: float | None = None

    def helped(self) -> None:
        self._failures = 0

    def failed(self, step: Step, how: str, now_s: float) -> None:
        self._failures += 1
        if self._failures >= self._max_failures:
            self._failures = 0
            self._until_s = now_s + HOUR_S
            name = f"{step.action} {step.subject}".strip()
            self._why = f"{self._max_failures} actions in a row failed or did not help, {name} last: {how}"

    def suspended(self, now_s: float) -> str:
        """Why no action is taken; empty when actions are."""
        return self._why if self._until_s is not None and now_s < self._until_s else ""

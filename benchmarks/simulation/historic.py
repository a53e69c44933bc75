"""Two rules of an earlier project for the limit on streams, as they were: without guards.

Source: defai-digital/mlx-serving, the adaptive limits of its stream registry and its AdaptiveGovernor.
They stand in for AdaptiveLimit, so they have its interface.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flowcontrol.limits.contract import LimitOptions, LimitReason


class HistoricRule(Protocol):
    """Moves a limit once per interval_s. ttft_ms: mean of the window; 0 when it had no first token."""

    interval_s: float

    def next_limit(self, limit: int, utilisation: float, ttft_ms: float) -> int: ...


@dataclass(slots=True)
class Heuristic:
    """Up by 5 when busy and fast, down by 2 when idle. Slow first tokens alone never lower the limit."""

    interval_s: float = 5.0

    def next_limit(self, limit: int, utilisation: float, ttft_ms: float) -> int:
        if utilisation > 0.8 and ttft_ms < 1000:
            limit += 5
        elif utilisation < 0.3:
            limit -= 2
        return min(50, max(5, limit))


@dataclass(slots=True)
class MillisecondPid:
    """A positional PID on an error in milliseconds, whose output is added to the limit.

    integral_bound: of the sum of errors in ms x s.
    """

    interval_s: float = 5.0
    integral_bound: float = 200.0
    _integral: float = 0.0
    _error_before: float = 0.0

    def next_limit(self, limit: int, utilisation: float, ttft_ms: float) -> int:
        error = ttft_ms - 550
        bound = self.integral_bound
        self._integral = min(bound, max(-bound, self._integral + error * self.interval_s))
        slope = (error - self._error_before) / self.interval_s
        self._error_before = error
        output = 0.35 * error + 0.08 * self._integral + 0.15 * slope
        return min(80, max(16, limit + round(-output)))


@dataclass(slots=True)
class HistoricLimit:
    """A rule behind the interface of AdaptiveLimit.

    `measured` tells it times from permit to first token, in seconds.
    """

    options: LimitOptions
    rule: HistoricRule
    limit: int
    next_s: float = 0.0
    reason: LimitReason = LimitReason.STARTED
    changed_s: float = 0.0
    last_change: int = 0
    # Nothing of these is counted: no run of the simulation looks at them.
    last_good: int = 0
    cap: None = None
    changes: Mapping[LimitReason, int] = field(default_factory=dict)
    raised: int = 0
    lowered: int = 0
    ttft_load: float | None = None
    latency_load: float | None = None
    _in_flight: int = 0
    _ttft_s: list[float] = field(default_factory=list)

    def measured(self, ttft_s: float) -> None:
        self._ttft_s.append(ttft_s)

    def sample(self, ttft_load: float, *, admitted_s: float) -> None: ...

    def latency(self, load: float | None) -> None: ...

    def dropped(self) -> None: ...

    def occupancy(self, in_flight: int, *, waiting: bool) -> None:
        self._in_flight = in_flight

    def next_deadline(self) -> float:
        return self.next_s

    def adjust(self, now_s: float) -> bool:
        if now_s < self.next_s:
            return False
        self.next_s = now_s + self.rule.interval_s
        # The mean of nothing was taken for 0 ms.
        mean_ms = 1e3 * sum(self._ttft_s) / len(self._ttft_s) if self._ttft_s else 0.0
        self._ttft_s.clear()
        before = self.limit
        self.limit = self.rule.next_limit(before, self._in_flight / before, mean_ms)
        if self.limit == before:
            self.reason = LimitReason.HELD
            return False
        self.reason = LimitReason.RAISED if self.limit > before else LimitReason.LOWERED_TTFT
        self.last_change, self.changed_s = self.limit - before, now_s
        return True

    def configure(self, options: LimitOptions, now_s: float) -> None:
        self.options = options

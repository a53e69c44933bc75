"""When one stream must end, unless something happens before."""

from collections.abc import Callable

from flowcontrol.credits import CreditSnapshot
from flowcontrol.reasons import Reason
from flowcontrol.timers import Timer, Timers
from service.errors import ServiceError
from service.options import StreamOptions

Rearm = Callable[[float | None], None]
"""Told the time of the next deadline, on the stream's clock, whenever it changes."""


class StreamDeadlines:
    """The timers of one stream. They are data: whoever gave `rearm` waits, and asks what has passed."""

    def __init__(self, options: StreamOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._timers = Timers()
        self._rearm: Rearm | None = None

    def watch(self, asked_s: float, rearm: Rearm) -> None:
        """Have `rearm` told from now on. asked_s: when the stream was asked for."""
        self._rearm = rearm
        self._set(Timer.DEADLINE, asked_s + self._options.default_timeout_s)

    def unwatch(self) -> None:
        self._rearm = None

    def await_caller(self) -> None:
        """The caller's next message is due."""
        self._set(Timer.IDLE, self._clock() + self._options.idle_timeout_s)

    def await_ack(self, since_s: float) -> None:
        """Tokens wait for credit since then."""
        self._set(Timer.ACK_TIMEOUT, since_s + self._options.ack_timeout_s)

    def clear(self, *timers: Timer) -> None:
        for timer in timers:
            self._timers.clear(timer)
        self._tell()

    def passed(self, credit: CreditSnapshot) -> ServiceError:
        """The error with which the stream ends, when the deadline last told to `rearm` has passed."""
        now_s = max(self._clock(), self._timers.next_deadline() or 0.0)
        match self._timers.due(now_s):
            case Timer.ACK_TIMEOUT:
                return ServiceError(
                    Reason.ACK_TIMEOUT,
                    f"no ack for {self._options.ack_timeout_s:g} s with {credit.unacked} chunks not acked "
                    f"(window {credit.window})",
                )
            case Timer.IDLE:
                waited = f"no prompt_part came for {self._options.idle_timeout_s:g} s"
                return ServiceError(Reason.IDLE_TIMEOUT, waited)
        limit_s = self._options.default_timeout_s
        return ServiceError(Reason.STREAM_TIMEOUT, f"the stream ran for longer than {limit_s:g} s")

    def _set(self, timer: Timer, at_s: float) -> None:
        self._timers.set(timer, at_s)
        self._tell()

    def _tell(self) -> None:
        if self._rearm is not None:
            self._rearm(self._timers.next_deadline())

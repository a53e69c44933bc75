"""What was seen of one call, and how a call may end."""

from array import array
from dataclasses import dataclass, field
from enum import StrEnum

from penstock.errors import (
    DeadlineError,
    OverloadedError,
    PenstockError,
    ProtocolError,
    UnavailableError,
)


class Ending(StrEnum):
    """Closed set of how a call ends."""

    ANSWERED = "answered"
    """With `finished`."""
    REFUSED = "refused"
    """The server said before the first token that it does not serve this request now, and why."""
    FAILED = "failed"
    """With any other status that the server explained, or the deadline passed after `accepted`."""
    LOST = "lost"
    """Without an answer of the server that says why."""
    UNFINISHED = "unfinished"
    """Ended by us, at the end of the run."""
    NOT_SENT = "not_sent"
    """As many streams were open as may be."""


def ending_of(error: PenstockError, *, accepted: bool, tokens: int) -> tuple[Ending, str]:
    """How a call that raised `error` ended, and the cause as a short name.

    accepted: whether the server had answered before. tokens: received until then.
    """
    if isinstance(error, DeadlineError) and not error.reason and accepted:
        return Ending.FAILED, error.code.name
    if not error.reason or isinstance(error, ProtocolError):
        return Ending.LOST, error.reason or error.code.name
    refusing = isinstance(error, OverloadedError | UnavailableError) and error.reason != "WORKER_LOST"
    if refusing and not tokens:
        return Ending.REFUSED, error.reason
    return Ending.FAILED, f"{error.code.name} {error.reason}"


@dataclass(slots=True)
class Attempt:
    """One call of one request. Times are seconds since the run began.

    number: of the request. tries: which call of the request this is, from 1. due_s: when it was to be sent.
    cause, message: of any end but ANSWERED. retry_after_s: as the server told. arrived_s, arrived_tokens: of
    every message with tokens. queue_s, admission_s: as the server tells with `finished`.
    """

    number: int
    tries: int
    tenant: str
    due_s: float
    sent_s: float
    ended_s: float = 0.0
    ending: Ending = Ending.UNFINISHED
    cause: str = ""
    message: str = ""
    retry_after_s: float | None = None
    arrived_s: "array[float]" = field(default_factory=lambda: array("d"))
    arrived_tokens: "array[int]" = field(default_factory=lambda: array("I"))
    queue_s: float = 0.0
    admission_s: float = 0.0

    @property
    def tokens(self) -> int:
        """Output tokens received."""
        return sum(self.arrived_tokens)

    @property
    def ttft_s(self) -> float | None:
        """From sending to the first token; None when none came."""
        return self.arrived_s[0] - self.sent_s if self.arrived_s else None

    @property
    def latency_s(self) -> float:
        """Mean time between tokens; 0 when all came in one message."""
        later = self.tokens - self.arrived_tokens[0] if self.arrived_s else 0
        return (self.arrived_s[-1] - self.arrived_s[0]) / later if later else 0.0

    def gaps_s(self) -> list[float]:
        """For every message after the first: the time since the one before, divided over its tokens."""
        times = self.arrived_s
        return [(times[i] - times[i - 1]) / self.arrived_tokens[i] for i in range(1, len(times))]

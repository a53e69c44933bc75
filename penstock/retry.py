"""What to do when a stream's call fails: raise, or wait and continue it. Pure: clock and chance are given."""

from collections.abc import Callable
from dataclasses import dataclass

from penstock.errors import AbortedError, OverloadedError, PenstockError, UnavailableError
from penstock.receiver import Receiver
from penstock.v1.generation_pb2 import Resume, Start

FIRST_WAIT_S = 0.25
MOST_WAIT_S = 8.0
READY_WAIT_S = 10.0
"""How long a new call waits for a server with a model: about what a small one takes to start."""
READY_POLL_S = 0.25


@dataclass(frozen=True)
class Retry:
    """A call failed and the stream will go on in a new one.

    error: how it failed. tokens_received: output tokens that are here; the stream goes on after them.
    wait_s: seconds until the next call. ready_s: seconds that it may then wait for a server that is ready.
    """

    error: PenstockError
    tokens_received: int
    wait_s: float
    ready_s: float


def backoff_s(failures: int, retry_after_s: float | None, chance: float) -> float:
    """Seconds to wait after a failure that came after `failures` others in a row; chance is in [0, 1).

    Exponential with "equal jitter" (M. Brooker, Exponential Backoff and Jitter, 2015), from FIRST_WAIT_S or
    the server's retry_after_s on, and on top of retry_after_s, so that callers who were told the same time
    do not all come back at that moment.
    """
    first_s = max(FIRST_WAIT_S, retry_after_s or 0.0)
    step_s: float = min(MOST_WAIT_S, first_s * 2 ** min(failures, 16))
    return (retry_after_s or 0.0) + step_s * (1 + chance) / 2


def resumed(start: Start, receiver: Receiver) -> Start:
    """The start that continues a stream after what its receiver holds; `start` itself before `accepted`."""
    accepted = receiver.first_accepted
    if accepted is None:
        return start
    again = Start()
    again.CopyFrom(start)
    again.request_id, again.model = accepted.request_id, accepted.model
    if not again.sampling.HasField("seed"):
        again.sampling.seed = accepted.seed
    again.resume.CopyFrom(
        Resume(
            token_ids=receiver.token_ids,
            last_seq=receiver.last_seq,
            model_fingerprint=accepted.model_fingerprint,
        )
    )
    return again


class Attempts:
    """The calls of one stream, one after the other.

    retries: calls in a row that may fail without a new token after the one that broke first. timeout_s:
    seconds for all calls together, from the first begin() on; None for no limit.
    """

    def __init__(
        self,
        start: Start,
        receiver: Receiver,
        *,
        retries: int,
        timeout_s: float | None,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.request_id = start.request_id
        self._start = start
        self._receiver = receiver
        self._retries = retries
        self._timeout_s = timeout_s
        self._clock = clock
        self._random = random
        self._deadline_s: float | None = None
        self._failures = 0
        self._tokens = 0

    def begin(self) -> tuple[Start, float | None]:
        """The start of the next call, and the seconds that the call may take."""
        if self._timeout_s is None:
            return resumed(self._start, self._receiver), None
        now_s = self._clock()
        if self._deadline_s is None:
            self._deadline_s = now_s + self._timeout_s
        return resumed(self._start, self._receiver), self._deadline_s - now_s

    def after(self, error: PenstockError) -> Retry | None:
        """What follows a call that ended so; None when the error is the end of the stream."""
        tokens = len(self._receiver.token_ids)
        if tokens > self._tokens:
            self._tokens, self._failures = tokens, 0
        if self._failures >= self._retries or not self._may_continue(error):
            return None
        wait_s = backoff_s(self._failures, error.retry_after_s, self._random())
        ready_s = READY_WAIT_S
        if self._deadline_s is not None:
            left_s = self._deadline_s - self._clock() - wait_s
            if left_s <= 0:
                return None  # the deadline would pass meanwhile, and this error says more than that
            ready_s = min(ready_s, left_s)
        self._failures += 1
        return Retry(error, tokens, wait_s, ready_s)

    def is_whole(self, error: PenstockError) -> bool:
        """Whether the answer is whole all the same: `finished` was here when the connection broke."""
        lost = isinstance(error, UnavailableError) and not error.reason
        return lost and self._receiver.finished is not None

    def stop(self) -> None:
        """No call follows any more."""
        self._retries = 0

    def _may_continue(self, error: PenstockError) -> bool:
        if self._receiver.finished is not None:
            return False
        if isinstance(error, OverloadedError):
            # The place of a stream that was admitted may still be held by its lost call.
            return self._receiver.first_accepted is not None
        return isinstance(error, UnavailableError | AbortedError)

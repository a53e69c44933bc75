"""What happens to streams, told to whoever measures it: metrics, objectives, the comparison of arms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.reasons import Reason


@dataclass(frozen=True, slots=True)
class StreamLabels:
    """What metrics of a stream are labelled with; bounded in number. arm: "control" or "canary"."""

    model: str
    service_class: ServiceClass
    arm: str


class Cause(StrEnum):
    """Who ended a stream that did not finish. service/causes.py maps reasons to it."""

    CLIENT = "client"
    """Cancel, lost connection, protocol errors of the caller."""
    DEADLINE = "deadline"
    """The caller's deadline, or the server's timeout for streams and idle callers."""
    ACK_TIMEOUT = "ack_timeout"
    SERVER = "server"
    """The only one that counts against the infrastructure."""


@dataclass(frozen=True, slots=True)
class StreamOutcome:
    """What is known of a stream at its end. Durations in seconds.

    cause: None when it finished. reason: the finish reason ("stop", "length"), a Reason's name, or
    "cancelled". queue_s: from asking to the permit. ttft_s: from asking to the first token; None without one.
    decode_s: first to last token, stalls and pauses left out. completion_tokens: those that were sent,
    without those that the caller had before. stages_s: of queue, tokenise, cache_lookup, prefill and
    first_token those that are known, as in the contract's Timing.
    """

    labels: StreamLabels
    tenant: str
    request_id: str
    cause: Cause | None
    reason: str
    queue_s: float
    ttft_s: float | None
    duration_s: float
    stalled_s: float
    stalls: int
    decode_s: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    stages_s: dict[str, float]


class StreamSink(Protocol):
    """Is told of streams, on the event loop. Must not block and must not raise."""

    def first_token(self, labels: StreamLabels, ttft_s: float) -> None:
        """Once for each stream that gets a token."""

    def gaps(self, labels: StreamLabels, gaps_s: Sequence[float]) -> None:
        """Times between two tokens of a stream while it had credit, of all streams with these labels."""

    def refused(self, labels: StreamLabels | None, reason: Reason) -> None:
        """A request got no stream, for load, a quota or because the model is away, perhaps after it waited.

        labels: None when it is not known which model it was meant for.
        """

    def ended(self, outcome: StreamOutcome) -> None:
        """Once for each stream that was not refused."""


class StreamObserver:
    """What one stream tells. Made by Observation.stream; `token` is called for every token.

    A gap is the time from one token's arrival to the next one's. None is taken across `hold`: the time in
    which the reader had no credit is the reader's.
    """

    __slots__ = ("_append", "_chain_s", "_decode_s", "_held", "_last_s", "_sinks", "labels", "listening")

    def __init__(
        self, labels: StreamLabels, sinks: Sequence[StreamSink], append: Callable[[float], None] | None
    ) -> None:
        """append: takes a gap in seconds; None when nobody wants to know of tokens."""
        self.labels = labels
        self._sinks = sinks
        self._append = append or (lambda gap_s: None)
        self.listening = append is not None
        """Whether somebody wants to know of tokens."""
        self._held = False
        # The last token of the chain of gaps that is open, and its first; None without a chain.
        self._last_s: float | None = None
        self._chain_s = 0.0
        self._decode_s = 0.0

    def first_token(self, ttft_s: float) -> None:
        for sink in self._sinks:
            sink.first_token(self.labels, ttft_s)

    def token(self, now_s: float) -> None:
        """A token has arrived, the first one included."""
        if self._held:
            return
        last_s = self._last_s
        if last_s is None:
            self._chain_s = now_s
        else:
            self._append(now_s - last_s)
        self._last_s = now_s

    def hold(self) -> None:
        """The stream has no credit, or its row leaves the batch: no gaps from here on."""
        self._decode_s = self.decode_s
        self._held, self._last_s = True, None

    def release(self) -> None:
        """Both are over: the next token begins a new chain."""
        self._held = False

    @property
    def decode_s(self) -> float:
        """All gaps together."""
        return self._decode_s + (0.0 if self._last_s is None else self._last_s - self._chain_s)

    def refused(self, reason: Reason) -> None:
        for sink in self._sinks:
            sink.refused(self.labels, reason)

    def ended(self, outcome: StreamOutcome) -> None:
        for sink in self._sinks:
            sink.ended(outcome)


UNOBSERVED = StreamObserver(StreamLabels("", ServiceClass.DEFAULT, ""), (), None)
"""For a stream that nobody watches."""


class Observation:
    """Hands what streams tell to the sinks; gaps are gathered until `flush`, so that a token costs little."""

    def __init__(self, sinks: Sequence[StreamSink]) -> None:
        self._sinks = tuple(sinks)
        self._gaps: dict[StreamLabels, list[float]] = {}

    def stream(self, labels: StreamLabels, *also: StreamSink) -> StreamObserver:
        """For a new stream. also: sinks for this stream alone, which get no gaps."""
        if not self._sinks:
            return StreamObserver(labels, also, None)
        # Observers keep the list's append, so it is emptied and never replaced.
        return StreamObserver(labels, (*self._sinks, *also), self._gaps.setdefault(labels, []).append)

    def refused(self, labels: StreamLabels | None, reason: Reason) -> None:
        """A request got no stream; see StreamSink.refused."""
        for sink in self._sinks:
            sink.refused(labels, reason)

    def flush(self) -> None:
        """Hand the gathered gaps to the sinks. To be called about every second."""
        for labels, gathered in self._gaps.items():
            if gathered:
                gaps_s = gathered.copy()
                gathered.clear()
                for sink in self._sinks:
                    sink.gaps(labels, gaps_s)

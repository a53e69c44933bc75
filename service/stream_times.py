"""When things happened to one stream."""

from collections import deque
from collections.abc import Callable

from penstock.v1 import generation_pb2 as pb
from service.telemetry.stream_trace import Moment, StreamTrace


class StreamTimes:
    """Times of one stream by its clock, and the durations that are told to callers. Made when it asks."""

    def __init__(self, clock: Callable[[], float], trace: StreamTrace) -> None:
        self.asked_s = clock()
        self._clock = clock
        self._trace = trace
        self.submitted_s: float | None = None
        """When it was handed to the engine; None before."""
        self.stalls = 0
        """Times that tokens waited without credit."""
        self._accepted_s = 0.0
        self._first_token_s: float | None = None
        self._arrived_s: deque[float] = deque()
        self._stalled_since_s: float | None = None
        self._stalled_s = 0.0

    def submitted(self) -> None:
        """The stream was handed to the engine."""
        self.submitted_s = self._clock()

    def accepted(self) -> None:
        """The caller is told that the stream was accepted."""
        self._accepted_s = self._clock()

    @property
    def has_token(self) -> bool:
        return self._first_token_s is not None

    def first_token(self) -> None:
        self._first_token_s = self._clock()

    def token_arrived(self) -> None:
        """For streams whose chunks are timed: once for each token."""
        self._arrived_s.append(self._clock())

    def fill(self, timing: pb.ChunkTiming, tokens: int) -> None:
        """The timing of a chunk with the next so many tokens, written now."""
        written_s = self._clock()
        arrived_s = written_s
        for _ in range(tokens):
            arrived_s = self._arrived_s.popleft()
        timing.engine_ms = (arrived_s - self._accepted_s) * 1e3
        timing.written_ms = (written_s - self._accepted_s) * 1e3

    @property
    def stalled(self) -> bool:
        return self._stalled_since_s is not None

    def stall(self) -> float:
        """Tokens wait and there is no credit, from now on. Returns the time."""
        self.stalls += 1
        self._stalled_since_s = self._clock()
        self._trace.note(Moment.STALL)
        return self._stalled_since_s

    def unstall(self) -> float:
        """Credit is back, or the stream has ended. Returns how long the stall was; 0 without one."""
        stall_s = self.current_stall_s
        self._stalled_s += stall_s
        self._stalled_since_s = None
        self._trace.note(Moment.CREDIT)
        return stall_s

    @property
    def current_stall_s(self) -> float:
        return 0.0 if self._stalled_since_s is None else self._clock() - self._stalled_since_s

    @property
    def stalled_s(self) -> float:
        """All stalls together, the current one included."""
        return self._stalled_s + self.current_stall_s

    @property
    def age_s(self) -> float:
        return self._clock() - self.asked_s

    @property
    def admission_s(self) -> float:
        """How long it waited for its permit; 0 while it waits."""
        return 0.0 if self.submitted_s is None else self.submitted_s - self.asked_s

    @property
    def to_first_token_s(self) -> float:
        """From asking to the first token; 0 without one."""
        return 0.0 if self._first_token_s is None else self._first_token_s - self.asked_s

"""The streams that are active, and the counts that status shows."""

from collections import Counter
from dataclasses import dataclass

from flowcontrol.stream_state import Input, State, next_state


@dataclass(frozen=True, slots=True)
class BackpressureSnapshot:
    """What readers that fell behind have led to, all streams together.

    stalls: times that tokens waited without credit. stalled_s: how long, for those that are over. parks,
    resumes: rows that left the batch for it, and came back. coalesced_tokens: those that shared a chunk with
    an earlier one.
    """

    stalls: int
    stalled_s: float
    parks: int
    resumes: int
    coalesced_tokens: int


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """Numbers of streams. active_by_state counts streams that have not ended, ended_by_state the others.

    slow_consumers: of all that were admitted, those found to be slow.
    """

    active_by_state: dict[State, int]
    ended_by_state: dict[State, int]
    slow_consumers: int
    backpressure: BackpressureSnapshot

    @property
    def active(self) -> int:
        return sum(self.active_by_state.values())


class Place:
    """A stream's place among the active ones, with the stream's state. Made by StreamRegistry.admit."""

    __slots__ = ("_registry", "_slow", "_state")

    def __init__(self, registry: "StreamRegistry") -> None:
        self._registry = registry
        self._state = State.QUEUED
        self._slow = False

    @property
    def state(self) -> State:
        return self._state

    def apply(self, happened: Input) -> State:
        """Move to the next state. The place is free in the same call in which the stream ends."""
        before, after = self._state, next_state(self._state, happened)
        if after is not before:
            self._state = after
            self._registry._moved(before, after)
        return after

    def found_slow(self) -> None:
        """Count the stream as a slow consumer; once, however often this is called."""
        if not self._slow:
            self._slow = True
            self._registry._slow_consumers += 1

    def stall_ended(self, stalled_s: float) -> None:
        """A stall is over, because credit came or because the stream ended. stalled_s: how long it was."""
        self._registry._stalled_s += stalled_s

    def parked(self) -> None:
        """Its row has left the batch."""
        self._registry._parks += 1

    def resumed(self) -> None:
        """Its row goes back into the batch."""
        self._registry._resumes += 1

    def coalesced(self, tokens: int) -> None:
        """So many tokens shared a chunk with an earlier one."""
        self._registry._coalesced_tokens += tokens


class StreamRegistry:
    """Counts streams by state. How many there may be is the governor's to say."""

    def __init__(self) -> None:
        self._active: Counter[State] = Counter()
        self._ended: Counter[State] = Counter()
        self._slow_consumers = 0
        self._stalls = 0
        self._stalled_s = 0.0
        self._parks = 0
        self._resumes = 0
        self._coalesced_tokens = 0

    @property
    def active(self) -> int:
        return self._active.total()

    def admit(self) -> Place:
        """A place in state QUEUED."""
        self._active[State.QUEUED] += 1
        return Place(self)

    def _moved(self, before: State, after: State) -> None:
        self._active[before] -= 1
        (self._ended if after.ended else self._active)[after] += 1
        if after is State.STALLED:
            self._stalls += 1

    def snapshot(self) -> RegistrySnapshot:
        return RegistrySnapshot(
            active_by_state={state: self._active[state] for state in State if not state.ended},
            ended_by_state={state: self._ended[state] for state in State if state.ended},
            slow_consumers=self._slow_consumers,
            backpressure=BackpressureSnapshot(
                stalls=self._stalls,
                stalled_s=self._stalled_s,
                parks=self._parks,
                resumes=self._resumes,
                coalesced_tokens=self._coalesced_tokens,
            ),
        )

"""What is seen of the load since the limit last changed."""

from collections import deque

from flowcontrol.limits.contract import Window

MEMORY = 8
"""Intervals over which it forgets: about as long as a stream, over which its own mean is taken."""
DROPPED_LOAD = 1.5
"""What a dropped stream says at least: it left without the sample that would have been the worst."""
_CARRIED_INTERVALS = 4
_CARRIED_SAMPLES = 5
# How the time between tokens grows with the streams in flight: nearly in proportion, once they are many.
_LATENCY_PER_LIMIT = 0.8


class Observations:
    """First tokens and times between tokens under one limit, in intervals.

    `carry` when the limit was raised, `begin` when it changed otherwise.
    """

    def __init__(self, min_samples: int) -> None:
        self.min_samples = min_samples
        self._in_flight = 0
        self._waiting = False
        # (interval, load) of each first token.
        self._samples: deque[tuple[int, float]] = deque()
        self._latency: float | None = None
        self._latencies = 0
        self.intervals = 0
        """Closed since the limit changed."""
        self.last_latency: float | None = None
        """Of the last interval alone."""
        # Of the interval under way.
        self._most_in_flight = 0
        self._waited = False
        self._next_latency: float | None = None
        self.looks = 0
        """Of these, those that said anything; forgotten with it after MEMORY that did not."""
        self._silent = 0
        self.ttft_load: float | None = None
        """Percentile at the end of the last interval as measured, without what drops say."""
        self._dropped = 0

    def carry(self, ratio: float) -> None:
        """The limit was raised, to `ratio` of what it was: what was seen counts on, corrected and a little.

        More streams have begun by the next interval, so it takes no time until they show; and forgetting all
        would make each raise wait for evidence anew.
        """
        self.intervals = min(self.intervals, _CARRIED_INTERVALS)
        self.looks = min(self.looks, _CARRIED_INTERVALS)
        self._silent = 0
        self._latencies = min(self._latencies, _CARRIED_INTERVALS)
        if self._latency is not None:
            self._latency *= 1 + _LATENCY_PER_LIMIT * (ratio - 1)
        kept = [load for _, load in self._samples][-_CARRIED_SAMPLES:]
        self._samples = deque((self.intervals, load) for load in kept)

    def begin(self) -> None:
        """The limit was lowered or set: what was seen before says nothing of this one."""
        self._samples.clear()
        self._latency = None
        self._latencies = 0
        self.intervals = 0
        self.looks = 0
        self._begin_interval()

    def sample(self, load: float) -> None:
        self._samples.append((self.intervals, load))

    def latency(self, load: float | None) -> None:
        self._next_latency = load

    def dropped(self) -> None:
        self._dropped += 1

    def occupancy(self, in_flight: int, *, waiting: bool) -> None:
        self._in_flight, self._waiting = in_flight, waiting
        self._most_in_flight = max(self._most_in_flight, in_flight)
        self._waited |= waiting

    def close_interval(self, limit: float) -> Window:
        """What there is to say about the limit in force at the end of an interval."""
        # A lower limit ends no stream: while more are in flight than it allows, it has not acted yet, and
        # what goes wrong meanwhile is no reason to lower it again.
        acted = self._most_in_flight <= int(limit)
        sampled = bool(self._samples) and self._samples[-1][0] == self.intervals
        self.intervals += 1
        self.last_latency = self._next_latency if acted else None
        self._note(sampled or self.last_latency is not None or (acted and self._dropped > 0))
        self._add_latency(self.last_latency)
        while self._samples and self._samples[0][0] < self.intervals - MEMORY:
            self._samples.popleft()
        window = Window(
            limit=limit,
            in_flight=self._most_in_flight,
            waited=self._waited,
            samples=len(self._samples),
            ttft_load=self._percentile(limit),
            latency_load=self._latency,
            dropped=self._dropped if acted else 0,
        )
        self._begin_interval()
        return window

    def _note(self, said_anything: bool) -> None:
        self._silent = 0 if said_anything else self._silent + 1
        self.looks += said_anything
        if self._silent >= MEMORY:
            self.looks, self._latency, self._latencies = 0, None, 0

    def _add_latency(self, load: float | None) -> None:
        """A mean of all intervals at first, and one that forgets from MEMORY intervals on."""
        if load is not None:
            self._latencies = min(self._latencies + 1, MEMORY)
            before = self._latency or 0.0
            self._latency = before + (load - before) / self._latencies

    def _percentile(self, limit: float) -> float | None:
        """90th percentile of the samples, nearest rank; None when they are too few, never 0."""
        count = len(self._samples)
        # A low limit gives few samples. If it holds somebody back, it would otherwise stay for ever.
        last_call = self.intervals >= MEMORY and self.holds_back(limit)
        loads = sorted(load for _, load in self._samples)
        if count >= self.min_samples or (count and last_call):
            self.ttft_load = loads[-(-9 * count // 10) - 1]
        else:
            self.ttft_load = None
        if self._dropped and self._most_in_flight <= int(limit):
            return max(self.ttft_load or 0.0, DROPPED_LOAD)
        return self.ttft_load

    def holds_back(self, limit: float) -> bool:
        """Whether another limit would have been felt in this interval."""
        # Requests may wait for something else than a limit of which half is free.
        in_use = self._most_in_flight >= limit / 2
        return in_use and (self._waited or self._most_in_flight >= int(limit))

    def _begin_interval(self) -> None:
        self._most_in_flight = self._in_flight
        self._waited = self._waiting
        self._next_latency = None
        self._dropped = 0

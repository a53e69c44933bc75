"""Which worker takes a stream."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """A worker that is ready. Streams that are paused count nowhere.

    unproven: of its streams, those without a new token since they came to it. on_trial: whether one of
    these must be alone with the worker. match: blocks of the new stream's input that it has met before.
    """

    index: int
    streams: int
    unproven: int
    on_trial: bool
    match: int


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """max_rows: streams that a worker takes. The rest as in engine.options.PoolOptions."""

    max_rows: int
    min_rows: int
    steal_threshold: int

    def choose(self, loads: Sequence[Load], *, on_trial: bool) -> int | None:
        """Index of the worker for the next stream, None when none has room.

        on_trial: the stream must be the only unproven one of its worker.
        """
        free = [
            load
            for load in loads
            if load.streams < self.max_rows and not load.on_trial and not (on_trial and load.unproven)
        ]
        if not free:
            return None
        least = min(free, key=lambda load: (load.streams, load.index))
        if not self.steal_threshold:
            return least.index
        known = max(free, key=lambda load: (load.match, -load.streams, -load.index))
        if known.match and known.streams - least.streams <= self.steal_threshold:
            return known.index
        begun = [load for load in free if 0 < load.streams < self.min_rows]
        if begun:
            return max(begun, key=lambda load: (load.streams, -load.index)).index
        return least.index

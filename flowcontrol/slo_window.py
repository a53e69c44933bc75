"""What happened in a sliding window of time: bad and all events of each objective, and their quantiles."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from ddsketch import LogCollapsingLowestDenseDDSketch

RELATIVE_ACCURACY = 0.01
"""Of quantiles, by DDSketch (Masson, Rim, Lee, VLDB 2019)."""
MAX_SLICES = 20
"""Of a window: adding up their sketches is what an evaluation costs, some 0.1 ms each."""
MAX_SKETCHED = 256
"""Values of one call that go into a sketch, each some microseconds."""


@dataclass(frozen=True, slots=True)
class Events:
    """Of one objective within a window. value: at its quantile; None without one, or without values."""

    bad: int
    all: int
    value: float | None


class Slice:
    """Some time of a window. Its memory does not depend on how much happens: sketches have 2048 bins at most.

    Objectives and sketches are known by any key.
    """

    __slots__ = ("_all", "_bad", "_sketches", "intervals")

    def __init__(self) -> None:
        self.intervals = 0
        self._bad: dict[str, int] = {}
        self._all: dict[str, int] = {}
        self._sketches: dict[str, LogCollapsingLowestDenseDDSketch] = {}

    def count(self, objective: str, bad: int, of: int) -> None:
        self._bad[objective] = self._bad.get(objective, 0) + bad
        self._all[objective] = self._all.get(objective, 0) + of

    def measure(self, sketch: str, values: Sequence[float]) -> None:
        """Of many values some go into the sketch, taken evenly, with the weight of those they stand for."""
        step = ceil(len(values) / MAX_SKETCHED)
        taken = values[::step] if step else values
        for value in taken:
            self._sketch(sketch).add(value, len(values) / len(taken))

    def merge(self, other: "Slice") -> None:
        for objective, of in other._all.items():
            self.count(objective, other._bad[objective], of)
        for name, sketch in other._sketches.items():
            self._sketch(name).merge(sketch)

    def events(self, objective: str, sketch: str, quantile: float) -> Events:
        values = self._sketches.get(sketch)
        return Events(
            bad=self._bad.get(objective, 0),
            all=self._all.get(objective, 0),
            value=None if values is None else values.get_quantile_value(quantile),
        )

    def _sketch(self, name: str) -> LogCollapsingLowestDenseDDSketch:
        sketch = self._sketches.get(name)
        if sketch is None:
            sketch = self._sketches[name] = LogCollapsingLowestDenseDDSketch(RELATIVE_ACCURACY)
        return sketch


class SlidingWindow:
    """The latest intervals, in at most MAX_SLICES slices of equally many.

    When a slice is more than one interval, the window is shorter than asked for by less than a slice.
    """

    def __init__(self, intervals: int) -> None:
        """intervals: length of the window, at least 1."""
        self._intervals_per_slice = ceil(intervals / MAX_SLICES)
        count = ceil(intervals / self._intervals_per_slice)
        self._intervals = count * self._intervals_per_slice
        self._slices: deque[Slice] = deque(maxlen=count)

    def add(self, interval: Slice) -> None:
        """An interval has ended. It stays the caller's, and may be changed."""
        newest = self._newest()
        newest.merge(interval)
        newest.intervals += 1

    def skip(self, intervals: int) -> None:
        """So many intervals ended in which nothing happened."""
        left = min(intervals, self._intervals)
        while left:
            newest = self._newest()
            step = min(left, self._intervals_per_slice - newest.intervals)
            newest.intervals += step
            left -= step

    def total(self) -> Slice:
        """All of the window in one, the caller's."""
        total = Slice()
        for each in self._slices:
            total.merge(each)
        return total

    def _newest(self) -> Slice:
        """The slice that the next interval belongs to."""
        if not self._slices or self._slices[-1].intervals == self._intervals_per_slice:
            self._slices.append(Slice())
        return self._slices[-1]

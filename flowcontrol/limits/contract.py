"""What a limit strategy is given, and what it answers."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class StrategyName(StrEnum):
    """The strategies that can be chosen; one file each."""

    FIXED = "fixed"
    THRESHOLD = "threshold"
    PID = "pid"
    GRADIENT = "gradient"


class LimitReason(StrEnum):
    """Why the limit is what it is since the last look. Closed set; shown in status."""

    STARTED = "STARTED"
    """Nothing was measured yet."""
    RAISED = "RAISED"
    """Below target, and the limit held somebody back."""
    LOWERED_TTFT = "LOWERED_TTFT"
    """Time to first token was over its target."""
    LOWERED_LATENCY = "LOWERED_LATENCY"
    """Time between tokens was over its target, further than time to first token."""
    LOWERED_DROPS = "LOWERED_DROPS"
    """Streams were dropped for their time."""
    RECOVERED = "RECOVERED"
    """Load has fallen, or the guard has let go: back towards the last limit that held under load."""
    HELD = "HELD"
    """Within the dead band, or the strategy wants no change."""
    NO_SAMPLES = "NO_SAMPLES"
    """Too few first tokens to say anything; an empty window is not 0 ms."""
    NO_DEMAND = "NO_DEMAND"
    """Another limit would change nothing: less than half of it is in use, or nobody waits."""
    AT_BOUND = "AT_BOUND"
    """The wanted limit is beyond min_streams or max_streams."""
    SET = "SET"
    """An operator changed strategy, bounds or target."""
    CAPPED = "CAPPED"
    """The guard holds it down, or has fixed it."""


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """Of the controller and its strategies.

    min_streams, max_streams: bounds of the limit. interval_s: time between two adjustments. min_samples:
    first tokens that a window needs. scale_up_threshold, scale_down_threshold: share of the limit in use,
    for the strategy `threshold`.
    """

    strategy: StrategyName
    min_streams: int
    max_streams: int
    interval_s: float
    min_samples: int
    scale_up_threshold: float
    scale_down_threshold: float


@dataclass(frozen=True, slots=True)
class Window:
    """What is to be said of the limit in force. in_flight, waited, dropped: of the last interval.

    limit: in force, a fraction of a stream not rounded. in_flight: most streams in flight at a time.
    waited: whether a request waited because of the limit. ttft_load: 90th percentile over streams of
    time to first token / what it may be; None with too few samples. latency_load: mean time between tokens
    / what it may be; None when there is no such target or no step was made. dropped: streams that ended
    for their time.
    """

    limit: float
    in_flight: int
    waited: bool
    samples: int
    ttft_load: float | None
    latency_load: float | None
    dropped: int

    @property
    def load(self) -> float | None:
        """The worse of the two; 1 is on target, more is too slow. None when there is nothing to say."""
        return max((x for x in (self.ttft_load, self.latency_load) if x is not None), default=None)

    @property
    def utilisation(self) -> float:
        return self.in_flight / self.limit


class LimitStrategy(Protocol):
    """Says what the limit should be. Guards and bounds are the controller's, not its own.

    Higher load never gives a higher limit, all else being equal. Called at most once per adjustment, with
    a window that has a load far enough from its target, and with the limit that is really in force: a
    strategy that wanted another one learns from window.limit what it got.
    """

    def propose(self, window: Window) -> float:
        """The wanted limit in streams, above 0, any fraction."""

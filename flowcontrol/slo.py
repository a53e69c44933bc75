"""The SLO guard: whether the service does what it promises, over a fast and a slow window."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowcontrol.slo_verdict import Judge, Objective, ObjectiveSnapshot, Target
from flowcontrol.slo_window import Events, Slice, SlidingWindow


@dataclass(frozen=True, slots=True)
class SloOptions:
    """interval_s: time between two evaluations. fast_window_s: latest time that must be bad for a breach, and
    good for its end. slow_window_s: longer time that must be bad as well (slo_verdict.py says when not).
    min_samples: in the fast window, below which nothing is said. ttft_p50_s, ttft_p95_s, inter_token_p95_s:
    0 for no such objective. max_refusal_rate, max_infrastructure_cancellations: shares, 1 for none.

    Raises ValueError unless 0 < interval_s <= fast_window_s <= slow_window_s and min_samples >= 1.
    """

    interval_s: float
    fast_window_s: float
    slow_window_s: float
    min_samples: int
    ttft_p50_s: float
    ttft_p95_s: float
    inter_token_p95_s: float
    max_refusal_rate: float
    max_infrastructure_cancellations: float

    def __post_init__(self) -> None:
        if not 0 < self.interval_s <= self.fast_window_s <= self.slow_window_s:
            raise ValueError(
                "times must be 0 < interval_s <= fast_window_s <= slow_window_s, "
                f"got {self.interval_s}, {self.fast_window_s} and {self.slow_window_s}"
            )
        if self.min_samples < 1:
            raise ValueError(f"min_samples must be at least 1, got {self.min_samples}")

    def targets(self) -> tuple[Target, ...]:
        """The objectives that there are."""
        times = (
            Target(Objective.TTFT_P50, self.ttft_p50_s, 0.5, 0.5),
            Target(Objective.TTFT_P95, self.ttft_p95_s, 0.05, 0.95),
            Target(Objective.INTER_TOKEN_P95, self.inter_token_p95_s, 0.05, 0.95),
        )
        rates = (
            (Objective.REFUSAL_RATE, self.max_refusal_rate),
            (Objective.INFRASTRUCTURE_CANCELLATIONS, self.max_infrastructure_cancellations),
        )
        return (
            *(target for target in times if target.target > 0),
            *(Target(name, most, most, None) for name, most in rates if most < 1),
        )


@dataclass(frozen=True, slots=True)
class SloSnapshot:
    """The last evaluation. interval_s, fast_window_s, slow_window_s: of the options."""

    evaluated_s: float
    interval_s: float
    fast_window_s: float
    slow_window_s: float
    objectives: tuple[ObjectiveSnapshot, ...]

    def find(self, name: Objective) -> ObjectiveSnapshot | None:
        """None when there is no such objective."""
        return next((each for each in self.objectives if each.name is name), None)


class SloGuard:
    """Is told what happens, and judges the objectives each interval_s, when `next_deadline` has come.

    An interval ends when it is evaluated: what is gathered for that, or comes while that is late, belongs to
    it. Times are monotonic seconds and never go back. Memory is bounded by the slices of the windows.
    """

    def __init__(self, options: SloOptions, now_s: float) -> None:
        self._options = options
        self._targets = options.targets()
        self._judges = [
            Judge(
                target,
                min_samples=options.min_samples,
                slow_window_s=options.slow_window_s,
                now_s=now_s,
            )
            for target in self._targets
        ]
        self._fast = SlidingWindow(round(options.fast_window_s / options.interval_s))
        self._slow = SlidingWindow(round(options.slow_window_s / options.interval_s))
        # The interval under way; in no window before it is evaluated.
        self._current = Slice()
        self._ends_s = now_s + options.interval_s
        self._snapshot = self._make_snapshot(
            now_s, [judge.evaluate(_NOTHING, _NOTHING, now_s) for judge in self._judges]
        )

    def first_token(self, ttft_s: float) -> None:
        """A stream got its first token, ttft_s after it was asked for."""
        self._add_times(_TTFT, (ttft_s,))

    def gaps(self, gaps_s: Sequence[float]) -> None:
        """Times between two tokens of a stream, of any streams together.

        The bad ones are counted exactly; at most MAX_SKETCHED of them go into the quantile that is shown.
        """
        self._add_times(_GAP, gaps_s)

    def requests(self, asked: int, refused: int) -> None:
        """So many requests came since the last call, of which so many were refused by the server.

        Refusals that are the caller's own doing, such as for its quota or a wrong field, belong in neither:
        a tenant that is throttled would keep the objective breached for which it is.
        """
        self._current.count(Objective.REFUSAL_RATE, refused, asked)

    def ended(self, infrastructure: bool) -> None:
        """A stream ended. infrastructure: by a fault of the server."""
        self._current.count(Objective.INFRASTRUCTURE_CANCELLATIONS, int(infrastructure), 1)

    def next_deadline(self) -> float:
        """When `evaluate` is due."""
        return self._ends_s

    def evaluate(self, now_s: float) -> SloSnapshot:
        """Judge the objectives, if it is due; as they were judged last otherwise."""
        if now_s >= self._ends_s:
            self._end_interval(now_s)
            fast, slow = self._fast.total(), self._slow.total()
            found = [
                judge.evaluate(_events(fast, target), _events(slow, target), now_s)
                for judge, target in zip(self._judges, self._targets, strict=True)
            ]
            self._snapshot = self._make_snapshot(now_s, found)
        return self._snapshot

    def snapshot(self) -> SloSnapshot:
        """The last evaluation; before the first, every verdict is UNKNOWN."""
        return self._snapshot

    def _add_times(self, sketch: str, times_s: Sequence[float]) -> None:
        for target in self._targets:
            if _SKETCHES.get(target.objective) == sketch:
                bad = sum(time_s > target.target for time_s in times_s)
                self._current.count(target.objective, bad, len(times_s))
        self._current.measure(sketch, times_s)

    def _end_interval(self, now_s: float) -> None:
        """End the interval under way, and with it those that went by without an evaluation."""
        interval_s = self._options.interval_s
        skipped = int((now_s - self._ends_s) / interval_s)
        for window in (self._fast, self._slow):
            # What happened in all of them counts as the latest: it is not to leave the windows too soon.
            window.skip(skipped)
            window.add(self._current)
        self._current = Slice()
        self._ends_s += (1 + skipped) * interval_s

    def _make_snapshot(self, now_s: float, found: Sequence[ObjectiveSnapshot]) -> SloSnapshot:
        options = self._options
        return SloSnapshot(
            evaluated_s=now_s,
            interval_s=options.interval_s,
            fast_window_s=options.fast_window_s,
            slow_window_s=options.slow_window_s,
            objectives=tuple(found),
        )


_NOTHING = Events(bad=0, all=0, value=None)
_TTFT, _GAP = "ttft", "gap"
_SKETCHES = {Objective.TTFT_P50: _TTFT, Objective.TTFT_P95: _TTFT, Objective.INTER_TOKEN_P95: _GAP}


def _events(total: Slice, target: Target) -> Events:
    return total.events(target.objective, _SKETCHES.get(target.objective, ""), target.quantile or 0.0)

"""The limit on streams in flight: when it may move, how far, and between which bounds."""

from collections import Counter
from math import sqrt

from flowcontrol.limits.contract import LimitOptions, LimitReason, StrategyName, Window
from flowcontrol.limits.observations import Observations
from flowcontrol.limits.probe import Probe
from flowcontrol.limits.strategies import make_strategy

MAX_STEP = 0.2
"""Share of the limit that one adjustment may move it by: the effect of a change shows only later."""
NOISE = 0.25
"""Standard deviation of the load of one interval, as the simulation shows it: prompts come in clusters."""
LEAST_NOISE = 0.06
"""Of a mean over many intervals: it forgets, so it does not become exact."""
RAISE_BELOW, LOWER_ABOVE = 0.88, 1.05
"""Between them load is on target. Not alike: too high a limit spoils every stream, too low a one a few."""
RECOVERY_STEP = 0.125
"""Share of the last good limit that recovery goes at least: halves alone never end; so four steps do."""


class AdaptiveLimit:
    """Gathers a window of what is seen, asks the strategy once per interval, and applies the guards.

    The owner reports what happens and calls `adjust` when `next_deadline` has come. Times are monotonic
    seconds; loads are shares of a target, 1 is on target.
    """

    def __init__(self, options: LimitOptions, *, initial: int, now_s: float) -> None:
        """initial: the limit to begin with, in streams, clamped to the bounds. ValueError: see configure."""
        _check(options)
        self._options = options
        self._strategy = make_strategy(options)
        # A fraction, so that steps of less than one stream add up.
        self._limit = _clamp(initial, options)
        # The last limit that stood under demand with load on target or below.
        self._good = self._limit
        self._cap: int | None = None
        # To go back to where nothing else would: the limit when the cap came, of a strategy that never moves.
        self._before_cap = self._limit
        self._changes: Counter[LimitReason] = Counter()
        self._raised = self._lowered = 0
        self._reason = LimitReason.STARTED
        self._changed_s = now_s
        self._last_change = 0
        self._due_s = now_s + options.interval_s
        self._ttft_load: float | None = None
        self._latency_load: float | None = None
        self._seen = Observations(options.min_samples)
        self._probe = Probe()

    @property
    def options(self) -> LimitOptions:
        return self._options

    @property
    def limit(self) -> int:
        """Whole streams, between min_streams and max_streams."""
        return int(self._limit)

    @property
    def reason(self) -> LimitReason:
        return self._reason

    @property
    def last_good(self) -> int:
        """The last limit that stood under demand with load on target or below; the first one before."""
        return int(self._good)

    @property
    def cap(self) -> int | None:
        """What the guard holds it to; None while it does not."""
        return self._cap

    @property
    def changes(self) -> dict[LimitReason, int]:
        """How often `limit` has moved, by reason."""
        return dict(self._changes)

    @property
    def raised(self) -> int:
        """How often `limit` has moved up, as `lowered` says for down."""
        return self._raised

    @property
    def lowered(self) -> int:
        return self._lowered

    @property
    def changed_s(self) -> float:
        """Since when `limit` is what it is."""
        return self._changed_s

    @property
    def last_change(self) -> int:
        """Streams by which the last change moved `limit`; 0 before the first."""
        return self._last_change

    @property
    def ttft_load(self) -> float | None:
        """90th percentile over the first tokens that were last enough to say it; None before."""
        return self._ttft_load

    @property
    def latency_load(self) -> float | None:
        """Mean time between tokens over its target, when it was last known; None before."""
        return self._latency_load

    def sample(self, ttft_load: float, *, admitted_s: float) -> None:
        """A stream, admitted at admitted_s, got its first token: time to first token / what it may be."""
        # A stream of an earlier limit says nothing of this one. It starves nobody: later ones count.
        if admitted_s >= self._changed_s:
            self._seen.sample(ttft_load)

    def latency(self, load: float | None) -> None:
        """Mean time between tokens since the last `adjust` / what it may be; the last call counts."""
        self._seen.latency(load)

    def dropped(self) -> None:
        """A stream ran out of time before its first token."""
        self._seen.dropped()

    def occupancy(self, in_flight: int, *, waiting: bool) -> None:
        """Called on every change: streams in flight, and whether a request waits because of the limit."""
        self._seen.occupancy(in_flight, waiting=waiting)

    def next_deadline(self) -> float:
        return self._due_s

    def adjust(self, now_s: float) -> bool:
        """Move the limit if that is due; whether `limit` changed."""
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._options.interval_s
        self._probe.interval()
        holds_back = self._seen.holds_back(self._limit)
        window = self._seen.close_interval(self._limit)
        if self._seen.ttft_load is not None:
            self._ttft_load = self._seen.ttft_load
        if window.latency_load is not None:
            self._latency_load = window.latency_load
        limit, reason = self._decide(window, holds_back)
        return self._set_limit(limit, reason, now_s)

    def hold_at(self, cap: int | None, now_s: float) -> None:
        """Keep the limit at cap streams at most, whatever the strategy wants; None lets go.

        min_streams goes before it. Afterwards the strategy finds its own way up; `fixed`, which has none,
        goes back to where it was. Raises ValueError below 1.
        """
        if cap is not None and cap < 1:
            raise ValueError(f"cap must be at least 1, got {cap}")
        if cap == self._cap:
            return
        if self._cap is None:
            self._before_cap = self._limit
        self._cap = cap
        fixed = self._options.strategy is StrategyName.FIXED
        limit = min(self._before_cap if fixed else self._limit, self._most)
        if limit < self._limit:
            self._set_limit(limit, LimitReason.CAPPED, now_s)
        elif limit > self._limit:
            self._set_limit(limit, LimitReason.RECOVERED, now_s)

    def configure(
        self,
        options: LimitOptions,
        now_s: float,
        *,
        limit: int | None = None,
        reason: LimitReason = LimitReason.SET,
    ) -> None:
        """Use options from now on. What was measured is forgotten.

        limit: where it begins, within the bounds and the cap; None for where it is. reason: who changes it.

        Raises ValueError, and changes nothing, unless 1 <= min_streams <= max_streams, interval_s is above
        0 and min_samples at least 1.
        """
        _check(options)
        self._options = options
        self._strategy = make_strategy(options)
        self._seen.min_samples = options.min_samples
        self._good = _clamp(self._good, options)
        self._before_cap = _clamp(self._before_cap if limit is None else limit, options)
        begins = _clamp(self._limit if limit is None else limit, options)
        self._set_limit(min(begins, self._most), reason, now_s)
        self._due_s = now_s + options.interval_s
        # The targets that loads refer to may be new as well.
        self._seen.begin()
        self._probe = Probe()

    @property
    def _most(self) -> float:
        """What the limit may be now."""
        cap = self._options.max_streams if self._cap is None else self._cap
        return _clamp(cap, self._options)

    def _decide(self, window: Window, holds_back: bool) -> tuple[float, LimitReason]:
        """The new limit, within all guards and bounds, and why. holds_back: another one would be felt."""
        limit, load = self._limit, window.load
        if self._has_fallen(window):
            step = max((self._good - limit) / 2, RECOVERY_STEP * self._good, 1.0)
            return min(limit + step, self._good, self._most), LimitReason.RECOVERED
        # Without first tokens, time between tokens may say that it is too slow, not that more may come.
        if load is None or (window.ttft_load is None and load <= 1):
            return limit, LimitReason.NO_SAMPLES
        # The shorter the look at this limit, the further from the target load must be to say anything.
        doubt = max(NOISE / sqrt(self._seen.looks), LEAST_NOISE)
        # Under a cap nothing is learned of what would have stood above it.
        if holds_back and load <= LOWER_ABOVE:
            self._good = limit if self._cap is None else max(limit, self._good)
        if RAISE_BELOW - doubt < load < LOWER_ABOVE + doubt:
            return limit, LimitReason.HELD
        wanted = self._strategy.propose(window)
        if wanted == limit:
            return limit, LimitReason.HELD
        if wanted > limit:
            # Growth that nobody needs is not tested by load, and would be there all at once in a burst.
            if not holds_back:
                return limit, LimitReason.NO_DEMAND
            most = self._probe.most(limit)
            if most < self.limit + 1:
                return limit, LimitReason.HELD
            raised = self._bounded(min(wanted, most), LimitReason.RAISED)
            if raised[0] > limit:
                self._probe.raised(raised[0])
            return raised
        if load > 1:
            # A limit of which half is free is not what makes it slow.
            if window.in_flight < limit / 2:
                return limit, LimitReason.NO_DEMAND
            self._probe.lowered(limit)
            return self._bounded(wanted, _why_lowered(window))
        if not window.in_flight:
            return limit, LimitReason.NO_DEMAND
        # Idleness takes back what is beyond the last good limit and no more: the next burst needs it.
        return self._bounded(max(wanted, min(limit, self._good)), LimitReason.NO_DEMAND)

    def _has_fallen(self, window: Window) -> bool:
        """Whether the reason for a limit below the last good one is gone."""
        return (
            # Never by itself is what `fixed` means.
            self._options.strategy is not StrategyName.FIXED
            and self._limit < min(self._good, self._most)
            and not window.waited
            and window.in_flight < self._limit / 2
            and (self._seen.last_latency is None or self._seen.last_latency < 1)
            and not window.dropped
        )

    def _bounded(self, wanted: float, reason: LimitReason) -> tuple[float, LimitReason]:
        limit = self._limit
        stepped = wanted
        # The steps of `threshold` are its definition, in streams.
        if self._options.strategy is not StrategyName.THRESHOLD:
            # One stream always: a fifth of a low limit would take several intervals to be felt.
            step = max(1.0, MAX_STEP * limit)
            stepped = max(limit - step, min(wanted, limit + step))
        bounded = min(_clamp(stepped, self._options), self._most)
        if bounded == limit != wanted:
            capped = self._cap is not None and limit == self._most < wanted
            return limit, LimitReason.CAPPED if capped else LimitReason.AT_BOUND
        return bounded, reason

    def _set_limit(self, limit: float, reason: LimitReason, now_s: float) -> bool:
        before = self.limit
        self._limit, self._reason = limit, reason
        if self.limit == before:
            return False
        self._changes[reason] += 1
        self._raised += self.limit > before
        self._lowered += self.limit < before
        self._changed_s = now_s
        self._last_change = self.limit - before
        if self.limit > before:
            self._seen.carry(self.limit / before)
        else:
            self._seen.begin()
        return True


def _why_lowered(window: Window) -> LimitReason:
    if window.dropped:
        return LimitReason.LOWERED_DROPS
    if window.ttft_load is None or (window.latency_load or 0.0) > window.ttft_load:
        return LimitReason.LOWERED_LATENCY
    return LimitReason.LOWERED_TTFT


def _clamp(limit: float, options: LimitOptions) -> float:
    return float(max(options.min_streams, min(limit, options.max_streams)))


def _check(options: LimitOptions) -> None:
    if not 1 <= options.min_streams <= options.max_streams:
        raise ValueError(
            f"bounds must be 1 <= min_streams <= max_streams, "
            f"got {options.min_streams} and {options.max_streams}"
        )
    if options.interval_s <= 0 or options.min_samples < 1:
        raise ValueError(
            f"interval_s must be above 0 and min_samples at least 1, "
            f"got {options.interval_s} and {options.min_samples}"
        )

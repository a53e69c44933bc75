"""The controller: what holds for any sequence of intervals."""

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.limits.contract import LimitOptions, LimitReason, StrategyName
from flowcontrol.limits.controller import MAX_STEP, AdaptiveLimit
from tests.flowcontrol.limits.windows import (
    START_S,
    options,
)


@dataclass(frozen=True, slots=True)
class Interval:
    """What happens in one interval; new_options: an operator's choice at its beginning."""

    loads: list[float]
    of_this_limit: bool
    in_flight: int
    waiting: bool
    latency: float | None
    dropped: int
    late_s: float
    new_options: LimitOptions | None


BOUNDS = st.lists(st.integers(1, 80), min_size=2, max_size=2).map(sorted)
SOME_OPTIONS = st.builds(
    lambda name, bounds, min_samples: replace(
        options(name), min_streams=bounds[0], max_streams=bounds[1], min_samples=min_samples
    ),
    st.sampled_from(StrategyName),
    BOUNDS,
    st.integers(1, 6),
)
LOADS = st.one_of(st.floats(0, 3), st.floats(0, 1e6))
INTERVALS = st.lists(
    st.builds(
        Interval,
        loads=st.lists(LOADS, max_size=12),
        of_this_limit=st.booleans(),
        in_flight=st.integers(0, 100),
        waiting=st.booleans(),
        latency=st.none() | LOADS,
        dropped=st.sampled_from([0, 0, 0, 1, 3]),
        late_s=st.floats(0, 2),
        new_options=st.one_of(st.none(), st.none(), st.none(), SOME_OPTIONS),
    ),
    max_size=20,
)


def play(limit: AdaptiveLimit, happens: Interval) -> bool:
    if happens.new_options is not None:
        limit.configure(happens.new_options, limit.next_deadline())
    limit.occupancy(happens.in_flight, waiting=happens.waiting)
    for load in happens.loads:
        limit.sample(load, admitted_s=limit.changed_s if happens.of_this_limit else limit.changed_s - 1)
    for _ in range(happens.dropped):
        limit.dropped()
    limit.latency(happens.latency)
    return limit.adjust(limit.next_deadline() + happens.late_s)


@given(first=SOME_OPTIONS, initial=st.integers(0, 100), intervals=INTERVALS)
def test_bounds_and_steps_always_hold(first: LimitOptions, initial: int, intervals: list[Interval]) -> None:
    limit = AdaptiveLimit(first, initial=initial, now_s=START_S)
    for happens in intervals:
        if happens.new_options is not None:
            limit.configure(happens.new_options, limit.next_deadline())
        before = limit.limit
        changed = play(limit, replace(happens, new_options=None))
        assert limit.options.min_streams <= limit.limit <= limit.options.max_streams
        assert changed == (limit.limit != before)
        if limit.reason is LimitReason.RECOVERED:
            assert limit.limit >= before
        elif limit.options.strategy is StrategyName.THRESHOLD:
            assert -2 <= limit.limit - before <= 5
        else:
            # Whole streams: the fractions on both sides are less than one together.
            assert abs(limit.limit - before) < max(1, MAX_STEP * (before + 1)) + 1
        if limit.options.strategy is StrategyName.FIXED:
            assert limit.limit == before


@given(first=SOME_OPTIONS, initial=st.integers(0, 100), intervals=INTERVALS, empty=INTERVALS)
def test_empty_windows_change_nothing(
    first: LimitOptions, initial: int, intervals: list[Interval], empty: list[Interval]
) -> None:
    """Except that the limit goes back to what held before."""
    limit = AdaptiveLimit(first, initial=initial, now_s=START_S)
    for happens in intervals:
        play(limit, happens)
    # The samples that are kept are forgotten with the configuration.
    limit.configure(limit.options, limit.next_deadline())
    for happens in empty:
        before = limit.limit
        play(limit, replace(happens, loads=[], latency=None, dropped=0, new_options=None))
        if limit.reason is LimitReason.RECOVERED:
            assert limit.limit >= before
        else:
            assert (limit.limit, limit.reason) == (before, LimitReason.NO_SAMPLES)


@given(first=SOME_OPTIONS, initial=st.integers(0, 100), intervals=INTERVALS)
def test_the_same_intervals_give_the_same_limits(
    first: LimitOptions, initial: int, intervals: list[Interval]
) -> None:
    one = AdaptiveLimit(first, initial=initial, now_s=START_S)
    two = AdaptiveLimit(first, initial=initial, now_s=START_S)
    for happens in intervals:
        assert play(one, happens) == play(two, happens)
        assert (one.limit, one.reason, one.changed_s) == (two.limit, two.reason, two.changed_s)

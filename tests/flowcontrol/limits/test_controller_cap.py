"""The limit that is held down from outside, what it counts of its changes, and the last good one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.limits.contract import LimitOptions, LimitReason, StrategyName
from flowcontrol.limits.controller import AdaptiveLimit
from tests.flowcontrol.limits.test_controller_properties import INTERVALS, SOME_OPTIONS, Interval, play
from tests.flowcontrol.limits.windows import EVERY, MOVING, START_S, idle, interval, made


@EVERY
def test_it_is_held_at_once_and_stays_there_however_good_the_times_are(name: StrategyName) -> None:
    limit = made(name, initial=20)
    limit.hold_at(12, START_S + 0.5)
    assert (limit.limit, limit.reason, limit.cap) == (12, LimitReason.CAPPED, 12)
    assert (limit.changed_s, limit.last_change) == (START_S + 0.5, -8)
    for _ in range(20):
        interval(limit, [0.2] * 10)
        assert limit.limit == 12
    assert limit.reason is (LimitReason.HELD if name is StrategyName.FIXED else LimitReason.CAPPED)


@MOVING
def test_below_the_cap_the_strategy_goes_its_way_and_back_up_to_it(name: StrategyName) -> None:
    limit = made(name, initial=20)
    limit.hold_at(12, START_S)
    while limit.limit >= 6:
        interval(limit, [3.0] * 10)
    for _ in range(200):
        interval(limit, [0.2] * 10)
        assert limit.limit <= 12
    assert limit.limit == 12


@MOVING
def test_let_go_it_stays_until_the_strategy_raises_it_step_by_step(name: StrategyName) -> None:
    limit, free = made(name, initial=12), made(name, initial=20)
    free.hold_at(12, START_S)
    for _ in range(30):
        interval(free, [0.2] * 10)
    free.hold_at(None, free.next_deadline())
    assert (free.limit, free.cap) == (12, None)
    for each in (limit, free):
        while each.limit == 12:
            interval(each, [0.2] * 10)
    # What the strategy wanted under the cap was not saved up.
    assert free.limit == limit.limit


def test_load_that_falls_brings_it_back_to_the_cap_and_then_to_what_was_good() -> None:
    limit = made(initial=40)
    for _ in range(5):
        interval(limit, [1.0] * 10)
    assert limit.last_good == 40
    limit.hold_at(20, START_S)
    while limit.limit >= 10:
        interval(limit, [3.0] * 10)
    for _ in range(10):
        idle(limit)
    assert (limit.limit, limit.last_good) == (20, 40)
    limit.hold_at(None, START_S)
    for _ in range(10):
        idle(limit)
    assert limit.limit == 40


def test_what_stands_under_a_cap_is_no_worse_than_what_was_good_before() -> None:
    limit = made(initial=30)
    limit.hold_at(10, START_S)
    interval(limit, [1.0] * 10)
    assert limit.last_good == 30
    limit.hold_at(None, START_S)
    interval(limit, [1.0] * 10)
    assert limit.last_good == 10


@pytest.mark.parametrize("strategy", [StrategyName.FIXED, StrategyName.PID])
def test_a_limit_that_is_fixed_goes_back_by_itself(strategy: StrategyName) -> None:
    fixed = strategy is StrategyName.FIXED
    limit = made(strategy, initial=30)
    limit.hold_at(10, START_S)
    limit.hold_at(20, START_S)
    assert (limit.limit, limit.reason) == ((20, LimitReason.RECOVERED) if fixed else (10, LimitReason.CAPPED))
    limit.hold_at(5, START_S)
    limit.hold_at(None, START_S)
    assert (limit.limit, limit.reason) == ((30, LimitReason.RECOVERED) if fixed else (5, LimitReason.CAPPED))


def test_the_least_that_the_operator_allows_goes_before_the_cap() -> None:
    limit = made(initial=30, bounds=(15, 64))
    limit.hold_at(10, START_S)
    assert limit.limit == 15
    limit.configure(replace(limit.options, min_streams=25), START_S)
    assert limit.limit == 25
    limit.configure(replace(limit.options, min_streams=1), START_S, limit=30)
    assert limit.limit == 10


def test_an_operator_who_fixes_it_meanwhile_has_it_when_the_cap_is_gone() -> None:
    limit = made(initial=30)
    limit.hold_at(10, START_S)
    limit.configure(replace(limit.options, strategy=StrategyName.FIXED, max_streams=24), START_S)
    assert limit.limit == 10
    limit.hold_at(None, START_S)
    assert limit.limit == 24


def test_a_cap_above_the_limit_and_the_same_again_change_nothing() -> None:
    limit = made(StrategyName.FIXED, initial=30)
    limit.hold_at(None, START_S)
    limit.hold_at(31, START_S)
    limit.hold_at(31, START_S)
    limit.hold_at(None, START_S)
    assert (limit.limit, limit.reason, limit.changes) == (30, LimitReason.STARTED, {})
    with pytest.raises(ValueError, match="cap must be at least 1, got 0"):
        limit.hold_at(0, START_S)


def test_changes_are_counted_by_reason_and_direction() -> None:
    limit = made(initial=20)
    assert (limit.changes, limit.raised, limit.lowered) == ({}, 0, 0)
    interval(limit, [3.0] * 10)
    interval(limit, [1.0] * 10)
    limit.configure(replace(limit.options, min_streams=30), START_S)
    limit.hold_at(30, START_S)
    limit.configure(replace(limit.options, min_streams=1), START_S)
    limit.hold_at(8, START_S)
    assert limit.changes == {LimitReason.LOWERED_TTFT: 1, LimitReason.SET: 1, LimitReason.CAPPED: 1}
    assert (limit.raised, limit.lowered) == (1, 2)


@given(
    first=SOME_OPTIONS,
    initial=st.integers(1, 100),
    happens=INTERVALS.flatmap(
        lambda intervals: st.tuples(
            *(st.tuples(st.just(each), st.none() | st.integers(1, 80)) for each in intervals)
        )
    ),
)
def test_whatever_happens_it_is_within_its_bounds_and_the_cap(
    first: LimitOptions, initial: int, happens: tuple[tuple[Interval, int | None], ...]
) -> None:
    limit = AdaptiveLimit(first, initial=initial, now_s=START_S)
    for each, cap in happens:
        limit.hold_at(cap, limit.next_deadline())
        before, changes = limit.limit, sum(limit.changes.values())
        assert (limit.cap, before) == (cap, min(before, max(cap or before, limit.options.min_streams)))
        play(limit, each)
        low, high = limit.options.min_streams, limit.options.max_streams
        assert low <= limit.limit <= max(low, min(high, cap or high))
        assert limit.raised + limit.lowered == sum(limit.changes.values()) >= changes
        assert low <= limit.last_good <= high

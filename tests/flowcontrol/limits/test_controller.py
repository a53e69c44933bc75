"""The controller: what it decides on, how far it goes, and what an operator may change."""

from dataclasses import replace

import pytest

from flowcontrol.limits.contract import LimitOptions, LimitReason, StrategyName
from flowcontrol.limits.controller import AdaptiveLimit
from flowcontrol.limits.observations import MEMORY
from tests.flowcontrol.limits.windows import EVERY, MOVING, OPTIONS, START_S, idle, interval, made, options


class TestAdjusting:
    def test_it_starts_with_the_limit_given(self) -> None:
        limit = made(initial=20)
        assert (limit.limit, limit.reason, limit.last_change) == (20, LimitReason.STARTED, 0)
        assert (limit.changed_s, limit.ttft_load, limit.latency_load) == (START_S, None, None)
        assert limit.options == OPTIONS

    @pytest.mark.parametrize(("initial", "expected"), [(1, 4), (20, 20), (99, 32)])
    def test_within_the_bounds(self, initial: int, expected: int) -> None:
        assert made(initial=initial, bounds=(4, 32)).limit == expected

    def test_nothing_happens_before_it_is_due(self) -> None:
        limit = made()
        limit.occupancy(20, waiting=True)
        for _ in range(10):
            limit.sample(3.0, admitted_s=START_S)
        assert limit.next_deadline() == START_S + 1
        assert limit.adjust(START_S + 0.999) is False
        assert (limit.limit, limit.reason) == (20, LimitReason.STARTED)
        assert limit.adjust(START_S + 1) is True
        assert limit.limit < 20

    def test_a_late_adjustment_is_not_made_up_for(self) -> None:
        limit = made()
        limit.adjust(START_S + 7.5)
        assert limit.next_deadline() == START_S + 8.5

    def test_a_change_is_shown(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        assert interval(limit, [0.5] * 5) is True
        assert (limit.limit, limit.reason) == (25, LimitReason.RAISED)
        assert (limit.changed_s, limit.last_change) == (START_S + 1, 5)
        assert interval(limit, [1.0] * 5) is False
        assert (limit.limit, limit.reason) == (25, LimitReason.HELD)
        assert (limit.changed_s, limit.last_change) == (START_S + 1, 5)
        assert interval(limit, [1.5] * 5) is True
        assert (limit.limit, limit.reason) == (23, LimitReason.LOWERED_TTFT)
        assert (limit.changed_s, limit.last_change) == (START_S + 3, -2)
        assert limit.changes == {LimitReason.RAISED: 1, LimitReason.LOWERED_TTFT: 1}

    def test_the_last_good_limit_stood_with_load_on_target(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        assert limit.last_good == 20
        interval(limit, [0.5] * 5)
        assert (limit.limit, limit.last_good) == (25, 20)
        interval(limit, [1.0] * 5)
        interval(limit, [1.5] * 5)
        assert (limit.limit, limit.last_good) == (23, 25)

    @pytest.mark.parametrize(("count", "rank"), [(5, 5), (9, 9), (10, 9), (11, 10), (20, 18), (21, 19)])
    def test_the_90th_percentile_is_a_sample(self, count: int, rank: int) -> None:
        limit = made()
        interval(limit, [float(n) for n in range(count, 0, -1)])
        assert limit.ttft_load == rank

    def test_the_worse_load_gives_the_reason(self) -> None:
        limit = made()
        interval(limit, [1.5] * 5, latency=2.0)
        assert limit.reason is LimitReason.LOWERED_LATENCY
        assert (limit.ttft_load, limit.latency_load) == (1.5, 2.0)
        limit = made()
        interval(limit, [2.0] * 5, latency=1.5)
        assert limit.reason is LimitReason.LOWERED_TTFT

    def test_the_loads_of_the_last_window_that_had_any_are_shown(self) -> None:
        limit = made()
        interval(limit, [1.0] * 5, latency=0.9)
        interval(limit)
        assert (limit.ttft_load, limit.latency_load) == (1.0, 0.9)


class TestTooFewSamples:
    @EVERY
    def test_an_empty_window_changes_nothing(self, name: StrategyName) -> None:
        """It is not 0 ms: nothing would be below every target."""
        limit = made(name)
        for _ in range(20):
            assert interval(limit) is False
            assert (limit.limit, limit.reason) == (20, LimitReason.NO_SAMPLES)
        assert limit.ttft_load is None

    def test_the_window_is_kept_until_there_are_enough(self) -> None:
        limit = made()
        interval(limit, [3.0] * 2)
        interval(limit, [3.0] * 2)
        assert (limit.limit, limit.reason) == (20, LimitReason.NO_SAMPLES)
        interval(limit, [0.1])
        assert limit.reason is LimitReason.LOWERED_TTFT
        assert limit.ttft_load == 3.0

    @pytest.mark.parametrize(("between", "forgotten"), [(MEMORY - 2, False), (MEMORY - 1, True)])
    def test_samples_are_kept_for_a_while_only(self, between: int, forgotten: bool) -> None:
        limit = made()
        interval(limit, [3.0] * 4, in_flight=15, waiting=False)
        for _ in range(between):
            interval(limit, in_flight=15, waiting=False)
        interval(limit, [3.0], in_flight=15, waiting=False)
        assert limit.reason is (LimitReason.NO_SAMPLES if forgotten else LimitReason.LOWERED_TTFT)
        assert limit.ttft_load == (None if forgotten else 3.0)

    @MOVING
    def test_a_low_limit_that_gives_few_samples_is_not_for_ever(self, name: StrategyName) -> None:
        """One stream at a time, for four intervals each, never gives five samples in one window."""
        limit = made(name, initial=1)
        for n in range(60):
            interval(limit, [0.2] if n % 4 == 0 else [], in_flight=1)
            if limit.limit > 1:
                break
        assert limit.reason is LimitReason.RAISED

    def test_few_samples_decide_nothing_while_the_limit_holds_nobody_back(self) -> None:
        limit = made()
        for _ in range(4 * MEMORY):
            interval(limit, [3.0] if limit.next_deadline() % 5 == 0 else [], in_flight=15, waiting=False)
        assert limit.limit == 20

    def test_latency_alone_lowers(self) -> None:
        limit = made()
        assert interval(limit, latency=2.0) is True
        assert limit.limit < 20
        assert limit.reason is LimitReason.LOWERED_LATENCY

    @EVERY
    def test_latency_alone_does_not_raise(self, name: StrategyName) -> None:
        limit = made(name)
        for _ in range(10):
            interval(limit, [0.1], latency=0.1)
            if limit.reason is not LimitReason.NO_SAMPLES:
                break
        assert limit.limit == 20 or limit.ttft_load is not None

    def test_nor_is_it_a_step_in_what_the_strategy_remembers(self) -> None:
        limit, fresh = made(), made()
        interval(limit, latency=0.1)
        for each in (limit, fresh):
            interval(each, [0.4] * 5)
        assert limit.limit == fresh.limit > 20


class TestDemand:
    @MOVING
    @pytest.mark.parametrize(
        ("in_flight", "waiting", "grows"),
        [
            (20, True, True),
            (20, False, True),
            (19, False, False),
            (10, True, True),
            # They wait for something else.
            (9, True, False),
            (0, True, False),
        ],
    )
    def test_it_grows_only_where_growth_is_felt(
        self, name: StrategyName, in_flight: int, waiting: bool, grows: bool
    ) -> None:
        # Without a word from the thresholds, which would have their own.
        always = replace(options(name), scale_up_threshold=-1.0, scale_down_threshold=-1.0)
        limit = AdaptiveLimit(always, initial=20, now_s=START_S)
        assert interval(limit, [0.1] * 5, in_flight=in_flight, waiting=waiting) is grows
        assert limit.reason is (LimitReason.RAISED if grows else LimitReason.NO_DEMAND)

    def test_the_most_of_the_interval_counts(self) -> None:
        limit = made()
        limit.occupancy(20, waiting=False)
        limit.occupancy(10, waiting=True)
        assert interval(limit, [0.1] * 5, in_flight=0, waiting=False) is True

    def test_and_not_of_the_one_before(self) -> None:
        limit = made()
        interval(limit)
        assert interval(limit, [0.1] * 5, in_flight=10, waiting=False) is False
        assert limit.reason is LimitReason.NO_DEMAND

    @pytest.mark.parametrize(("in_flight", "waiting"), [(20, False), (10, True)])
    def test_who_was_there_at_its_beginning_counts(self, in_flight: int, waiting: bool) -> None:
        limit = made()
        limit.occupancy(in_flight, waiting=waiting)
        limit.adjust(limit.next_deadline())
        assert interval(limit, [0.1] * 5, in_flight=0, waiting=False) is True


class TestSteps:
    @pytest.mark.parametrize(("load", "expected"), [(0.0, 48), (100.0, 32)])
    def test_a_step_is_bounded(self, load: float, expected: int) -> None:
        limit = made(initial=40)
        interval(limit, [load] * 5)
        assert limit.limit == expected

    def test_one_stream_is_always_allowed(self) -> None:
        """A fifth of 2 and of 2.4 would still be 2."""
        limit = made(initial=2)
        interval(limit, [0.0] * 5)
        assert limit.limit == 3
        limit = made(initial=2)
        interval(limit, [100.0] * 5)
        assert limit.limit == 1

    @pytest.mark.parametrize(("load", "expected"), [(0.5, 11), (2.0, 4)])
    def test_the_steps_of_threshold_are_its_own(self, load: float, expected: int) -> None:
        limit = made(StrategyName.THRESHOLD, initial=6)
        interval(limit, [load] * 5)
        assert limit.limit == expected

    def test_small_steps_add_up(self) -> None:
        limit = made(initial=4)
        assert interval(limit, [0.6] * 5) is False
        assert (limit.limit, limit.reason, limit.last_change) == (4, LimitReason.RAISED, 0)
        assert interval(limit, [0.6] * 5) is True
        assert (limit.limit, limit.reason, limit.last_change) == (5, LimitReason.RAISED, 1)

    @pytest.mark.parametrize(("load", "initial"), [(0.1, 32), (3.0, 4)])
    @MOVING
    def test_at_a_bound(self, name: StrategyName, load: float, initial: int) -> None:
        limit = made(name, initial=initial, bounds=(4, 32))
        assert interval(limit, [load] * 5) is False
        assert (limit.limit, limit.reason) == (initial, LimitReason.AT_BOUND)

    def test_up_to_a_bound_is_a_change(self) -> None:
        limit = made(StrategyName.THRESHOLD, initial=30, bounds=(1, 32))
        interval(limit, [0.1] * 5)
        assert (limit.limit, limit.reason) == (32, LimitReason.RAISED)


class TestConfigure:
    @pytest.mark.parametrize("old", StrategyName)
    @pytest.mark.parametrize("new", StrategyName)
    def test_another_strategy_keeps_the_limit(self, old: StrategyName, new: StrategyName) -> None:
        limit = made(old)
        interval(limit, [2.0] * 5)
        before = (limit.limit, limit.changed_s, limit.last_change)
        limit.configure(options(new), START_S + 1.5)
        assert (limit.limit, limit.changed_s, limit.last_change) == before
        assert limit.reason is LimitReason.SET
        assert limit.options.strategy is new
        assert limit.next_deadline() == START_S + 2.5

    def test_the_new_strategy_decides(self) -> None:
        limit = made(StrategyName.FIXED)
        limit.configure(options(StrategyName.THRESHOLD), START_S)
        interval(limit, [0.5] * 5)
        assert limit.limit == 25

    @pytest.mark.parametrize(
        ("min_streams", "max_streams", "expected"), [(1, 8, 8), (32, 64, 32), (20, 20, 20)]
    )
    def test_new_bounds_hold_at_once(self, min_streams: int, max_streams: int, expected: int) -> None:
        limit = made()
        limit.configure(replace(OPTIONS, min_streams=min_streams, max_streams=max_streams), START_S + 0.5)
        assert limit.limit == expected
        assert limit.last_change == expected - 20
        assert limit.changes == ({} if expected == 20 else {LimitReason.SET: 1})
        assert limit.changed_s == (START_S if expected == 20 else START_S + 0.5)
        # The last good limit keeps to them as well.
        for _ in range(10):
            idle(limit)
        assert limit.limit == expected

    def test_what_was_measured_is_forgotten(self) -> None:
        """It may refer to another target."""
        limit = made()
        interval(limit, [1.2] * 10, latency=1.2)
        assert (limit.limit, limit.reason) == (20, LimitReason.HELD)
        for _ in range(10):
            limit.sample(3.0, admitted_s=START_S)
        limit.configure(OPTIONS, START_S + 1.5)
        assert interval(limit) is False
        assert (limit.limit, limit.reason) == (20, LimitReason.NO_SAMPLES)
        # Nor is it counted how long that was looked at.
        assert interval(limit, [1.2] * 10, latency=1.2) is False
        assert (limit.limit, limit.reason) == (20, LimitReason.HELD)

    def test_the_new_number_of_samples_is_needed(self) -> None:
        limit = made()
        limit.configure(replace(OPTIONS, min_samples=2), START_S)
        assert interval(limit, [3.0]) is False
        assert interval(limit, [3.0]) is True

    @pytest.mark.parametrize(
        "wrong",
        [
            replace(OPTIONS, min_streams=0),
            replace(OPTIONS, min_streams=9, max_streams=8),
            replace(OPTIONS, interval_s=0.0),
            replace(OPTIONS, min_samples=0),
        ],
    )
    def test_wrong_options_change_nothing(self, wrong: LimitOptions) -> None:
        with pytest.raises(ValueError, match="must be"):
            AdaptiveLimit(wrong, initial=20, now_s=START_S)
        limit = made()
        limit.occupancy(20, waiting=True)
        for _ in range(5):
            limit.sample(2.0, admitted_s=START_S)
        with pytest.raises(ValueError, match="must be"):
            limit.configure(wrong, START_S + 0.5)
        assert (limit.options, limit.reason) == (OPTIONS, LimitReason.STARTED)
        assert limit.adjust(START_S + 1) is True

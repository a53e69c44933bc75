"""The controller: what does not lower the limit, what does at once, and how it comes back."""

import pytest

from flowcontrol.limits.contract import LimitReason, StrategyName
from flowcontrol.limits.observations import DROPPED_LOAD
from tests.flowcontrol.limits.windows import EVERY, MOVING, cut, idle, interval, made, options


class TestDeadTime:
    def test_streams_of_an_earlier_limit_do_not_count(self) -> None:
        limit = made()
        interval(limit, [3.0] * 5)
        lowered = limit.limit
        for _ in range(10):
            assert interval(limit, [3.0] * 5, admitted_s=limit.changed_s - 0.001) is False
        assert (limit.limit, limit.reason) == (lowered, LimitReason.NO_SAMPLES)
        # Those that it admitted itself do.
        assert interval(limit, [3.0] * 5) is True

    def test_nor_do_samples_that_were_there_at_the_change(self) -> None:
        limit = made()
        interval(limit, [0.1] * 4, latency=3.0)
        lowered = limit.limit
        assert lowered < 20
        interval(limit, [0.1])
        assert (limit.limit, limit.reason) == (lowered, LimitReason.NO_SAMPLES)

    @pytest.mark.parametrize(("latency", "dropped"), [(3.0, 0), (None, 4)])
    def test_while_more_are_in_flight_than_the_limit_allows_it_has_not_acted(
        self, latency: float | None, dropped: int
    ) -> None:
        """Long streams keep the step slow for long; each interval would lower the limit again."""
        limit = made()
        interval(limit, latency=latency, dropped=dropped)
        lowered = limit.limit
        for _ in range(10):
            interval(limit, in_flight=lowered + 1, latency=latency, dropped=dropped)
        assert (limit.limit, limit.reason) == (lowered, LimitReason.NO_SAMPLES)
        limit.occupancy(lowered + 1, waiting=True)
        limit.adjust(limit.next_deadline())
        # The interval in which they end is not one of the new limit yet.
        interval(limit, latency=latency, dropped=dropped)
        assert limit.limit == lowered
        interval(limit, latency=latency, dropped=dropped)
        assert limit.limit < lowered

    def test_first_tokens_of_the_new_limit_count_all_the_same(self) -> None:
        limit = made()
        assert interval(limit, [3.0] * 5, in_flight=25) is True

    def test_the_last_first_tokens_that_were_enough_are_still_shown(self) -> None:
        limit = made()
        interval(limit, [3.0] * 5, latency=2.0)
        interval(limit, [0.1], in_flight=25, latency=0.1)
        assert (limit.ttft_load, limit.latency_load) == (3.0, 2.0)


class TestIdleness:
    @EVERY
    def test_nobody_in_flight_lowers_nothing(self, name: StrategyName) -> None:
        limit = made(name)
        for _ in range(10):
            interval(limit, [3.0] * 5, in_flight=0, waiting=False, latency=3.0, dropped=1)
            assert (limit.limit, limit.reason) in [(20, LimitReason.NO_DEMAND), (20, LimitReason.HELD)]
            interval(limit, [0.1] * 5, in_flight=0, waiting=False)
            assert (limit.limit, limit.reason) in [(20, LimitReason.NO_DEMAND), (20, LimitReason.HELD)]

    @MOVING
    @pytest.mark.parametrize(("in_flight", "lowers"), [(10, True), (9, False)])
    @pytest.mark.parametrize(
        ("loads", "latency", "dropped"), [([3.0] * 5, None, 0), ([], 3.0, 0), ([], None, 2)]
    )
    def test_a_limit_of_which_half_is_free_is_not_what_makes_it_slow(
        self,
        name: StrategyName,
        in_flight: int,
        lowers: bool,
        loads: list[float],
        latency: float | None,
        dropped: int,
    ) -> None:
        limit = made(name)
        changed = interval(limit, loads, in_flight=in_flight, latency=latency, dropped=dropped)
        assert changed is lowers
        assert (limit.limit < 20) is lowers
        assert (limit.reason is LimitReason.NO_DEMAND) is not lowers

    @EVERY
    def test_next_to_nobody_does_not_either(self, name: StrategyName) -> None:
        limit = made(name)
        for _ in range(30):
            idle(limit, *[0.1] * 5)
        assert limit.limit == 20

    def test_what_is_beyond_the_last_good_limit_is_taken_back(self) -> None:
        """To 25, which held under demand; 30 was never tried."""
        limit = made(StrategyName.THRESHOLD)
        interval(limit, [0.5] * 5)
        interval(limit, [0.5] * 5)
        assert limit.limit == 30
        # Not by an interval that had nobody at all.
        interval(limit, [0.1] * 5, in_flight=0, waiting=False)
        assert (limit.limit, limit.reason) == (30, LimitReason.NO_DEMAND)
        seen = []
        for _ in range(10):
            idle(limit, *[0.1] * 5)
            seen.append(limit.limit)
            assert limit.reason is LimitReason.NO_DEMAND
        assert seen == [28, 26] + [25] * 8

    def test_below_the_last_good_limit_idleness_moves_nothing(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        cut(limit, 11)
        # They wait, but for something else: neither growth nor recovery.
        interval(limit, [0.5] * 5, in_flight=2, waiting=True)
        assert (limit.limit, limit.reason) == (10, LimitReason.NO_DEMAND)


class TestRecovery:
    @MOVING
    @pytest.mark.parametrize(("initial", "below"), [(20, 10), (64, 4), (3, 2)])
    def test_four_intervals_bring_the_last_good_limit_back(
        self, name: StrategyName, initial: int, below: int
    ) -> None:
        limit = made(name, initial=initial)
        cut(limit, below)
        seen = []
        for _ in range(4):
            idle(limit)
            seen.append(limit.limit)
        assert seen[-1] == initial
        assert sorted(seen) == seen
        idle(limit)
        assert (limit.limit, limit.reason) == (initial, LimitReason.NO_SAMPLES)

    @pytest.mark.parametrize(("initial", "below", "steps"), [(20, 5, [4, 12, 16, 18, 20]), (3, 2, [1, 2, 3])])
    def test_by_half_of_what_is_missing_and_at_least_one(
        self, initial: int, below: int, steps: list[int]
    ) -> None:
        limit = made(StrategyName.THRESHOLD, initial=initial)
        cut(limit, below)
        seen = [limit.limit]
        while limit.limit < initial:
            assert idle(limit, *[0.5] * 5) is True
            assert limit.reason is LimitReason.RECOVERED
            seen.append(limit.limit)
        assert seen == steps

    @pytest.mark.parametrize(
        ("in_flight", "waiting", "latency", "dropped"),
        [
            (4, True, None, 0),
            (5, False, None, 0),
            (4, False, 1.0, 0),
            (4, False, 1.5, 0),
            (4, False, 0.5, 1),
        ],
    )
    def test_not_while_there_is_load(
        self, in_flight: int, waiting: bool, latency: float | None, dropped: int
    ) -> None:
        limit = made(StrategyName.THRESHOLD)
        cut(limit, 11)
        assert limit.limit == 10
        interval(limit, in_flight=in_flight, waiting=waiting, latency=latency, dropped=dropped)
        assert limit.limit == 10
        # Without any of these it would have moved.
        assert interval(limit, in_flight=4, waiting=False, latency=0.99) is True
        assert limit.reason is LimitReason.RECOVERED

    @pytest.mark.parametrize(("before", "now", "recovers"), [(1.29, 0.8, True), (0.75, 1.1, False)])
    def test_the_last_interval_says_whether_load_has_fallen(
        self, before: float, now: float, recovers: bool
    ) -> None:
        """Not the mean, which is 1.045 and 0.925 here: a burst that is over stays in it for long."""
        limit = made(StrategyName.THRESHOLD)
        cut(limit, 11)
        interval(limit, in_flight=7, waiting=False, latency=before)
        assert limit.limit == 10
        interval(limit, in_flight=4, waiting=False, latency=now)
        assert (limit.reason is LimitReason.RECOVERED) is recovers

    def test_nor_do_first_tokens_of_the_burst_hinder_it(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        cut(limit, 11)
        idle(limit, *[3.0] * 5)
        assert limit.reason is LimitReason.RECOVERED

    def test_to_a_limit_that_held_under_demand_and_not_beyond(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        cut(limit, 15)
        assert limit.limit == 14
        interval(limit, [1.0] * 5)
        cut(limit, 9)
        for _ in range(10):
            idle(limit)
        assert limit.limit == 14

    def test_a_limit_that_nobody_reached_did_not_hold(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        cut(limit, 15)
        interval(limit, [1.0] * 5, in_flight=10, waiting=False)
        assert limit.limit == 14
        for _ in range(10):
            idle(limit)
        assert limit.limit == 20

    def test_fixed_does_not_move_even_so(self) -> None:
        limit = made(StrategyName.PID)
        cut(limit, 10)
        low = limit.limit
        limit.configure(options(StrategyName.FIXED), limit.next_deadline())
        for _ in range(10):
            idle(limit)
        assert limit.limit == low


class TestDrops:
    @pytest.mark.parametrize("loads", [[], [0.1], [0.1] * 5])
    @MOVING
    def test_a_drop_lowers_whatever_the_others_say(self, name: StrategyName, loads: list[float]) -> None:
        limit = made(name)
        assert interval(limit, loads, dropped=1) is True
        assert limit.limit < 20
        assert limit.reason is LimitReason.LOWERED_DROPS

    @pytest.mark.parametrize(("load", "as_load"), [(0.1, DROPPED_LOAD), (1.7, 1.7)])
    def test_it_is_at_least_that_load(self, load: float, as_load: float) -> None:
        limit, other = (made(StrategyName.GRADIENT, initial=64) for _ in range(2))
        interval(limit, [load] * 5, dropped=1)
        interval(other, [as_load] * 5)
        assert limit.limit == other.limit < 64

    def test_it_counts_once(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        interval(limit, dropped=1)
        interval(limit)
        assert limit.limit == 18

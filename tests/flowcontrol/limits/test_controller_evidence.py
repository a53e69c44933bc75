"""The controller: the shorter it has looked at a limit, the further off load must be to move it."""

from math import ceil, sqrt

import pytest

from flowcontrol.limits.contract import LimitReason, StrategyName
from flowcontrol.limits.controller import LEAST_NOISE, LOWER_ABOVE, NOISE, RAISE_BELOW, AdaptiveLimit
from flowcontrol.limits.observations import MEMORY
from flowcontrol.limits.strategies import make_strategy
from tests.flowcontrol.limits.windows import EVERY, MOVING, START_S, idle, interval, made, options, window

LITTLE = 0.0001
MANY = ceil((NOISE / LEAST_NOISE) ** 2)
"""Intervals from which on more of them say no more."""


def until_it_moves(limit: AdaptiveLimit, load: float, *, at_most: int = 3 * MANY) -> int | None:
    """How many intervals of this load it takes; None when the limit is not moved at all."""
    for n in range(1, at_most + 1):
        interval(limit, [load] * 10)
        if limit.reason is not LimitReason.HELD:
            return n
    return None


class TestHowLong:
    @MOVING
    @pytest.mark.parametrize("n", [1, 2, 4, 9, 16])
    def test_the_further_off_the_fewer_intervals(self, name: StrategyName, n: int) -> None:
        assert n < MANY
        doubt = NOISE / sqrt(n)
        limit = made(name)
        assert until_it_moves(limit, LOWER_ABOVE + doubt + LITTLE) == n
        assert limit.reason is LimitReason.LOWERED_TTFT
        limit = made(name)
        assert until_it_moves(limit, RAISE_BELOW - doubt - LITTLE) == n
        assert limit.reason is LimitReason.RAISED
        # A little nearer to the target, and it takes one more.
        assert until_it_moves(made(name), LOWER_ABOVE + doubt - LITTLE) == n + 1
        assert until_it_moves(made(name), RAISE_BELOW - doubt + LITTLE) == n + 1

    @MOVING
    def test_what_is_far_off_moves_it_at_once(self, name: StrategyName) -> None:
        assert until_it_moves(made(name), 1.5) == 1
        assert until_it_moves(made(name), 0.5) == 1

    @MOVING
    def test_many_intervals_do_not_make_it_exact(self, name: StrategyName) -> None:
        assert until_it_moves(made(name), LOWER_ABOVE + LEAST_NOISE + LITTLE) == MANY
        assert until_it_moves(made(name), RAISE_BELOW - LEAST_NOISE - LITTLE) == MANY
        assert until_it_moves(made(name), LOWER_ABOVE + LEAST_NOISE - LITTLE) is None
        assert until_it_moves(made(name), RAISE_BELOW - LEAST_NOISE + LITTLE) is None

    @EVERY
    @pytest.mark.parametrize("load", [RAISE_BELOW, 1.0, LOWER_ABOVE])
    def test_on_target_it_stays(self, name: StrategyName, load: float) -> None:
        limit = made(name)
        assert until_it_moves(limit, load) is None
        assert limit.limit == 20

    def test_latency_needs_as_much(self) -> None:
        limit = made()
        for _ in range(2):
            interval(limit, latency=1.21)
            assert (limit.limit, limit.reason) == (20, LimitReason.HELD)
        assert interval(limit, latency=1.21) is True
        assert limit.reason is LimitReason.LOWERED_LATENCY


class TestOneAmongMany:
    def test_a_bad_interval_after_good_ones_is_not_enough(self) -> None:
        limit = made()
        for _ in range(MEMORY - 1):
            interval(limit, latency=1.02)
        assert interval(limit, latency=1.6) is False
        assert (limit.limit, limit.reason) == (20, LimitReason.HELD)
        # By itself it is.
        assert interval(made(), latency=1.6) is True

    def test_nor_are_a_tenth_of_the_first_tokens(self) -> None:
        limit = made()
        for _ in range(MEMORY - 1):
            interval(limit, [1.0] * 9)
        assert interval(limit, [9.0] * 7) is False
        assert (limit.limit, limit.reason) == (20, LimitReason.HELD)
        assert interval(limit, [9.0]) is True
        assert limit.reason is LimitReason.LOWERED_TTFT

    def test_it_forgets_the_good_ones(self) -> None:
        limit = made()
        for _ in range(10 * MEMORY):
            interval(limit, latency=1.0)
        for _ in range(MEMORY):
            interval(limit, latency=1.4)
        assert limit.limit < 20


class TestAnew:
    def test_a_lower_limit_is_looked_at_from_the_beginning(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        load = LOWER_ABOVE + NOISE / sqrt(4) + LITTLE
        assert [until_it_moves(limit, load) for _ in range(3)] == [4, 4, 4]
        assert limit.limit == 14

    def test_less_than_a_stream_is_not_another_limit(self) -> None:
        limit = made(initial=4)
        interval(limit, [0.6] * 4, latency=0.6)
        assert (limit.limit, limit.reason) == (4, LimitReason.NO_SAMPLES)
        assert interval(limit, [0.6]) is False
        assert (limit.limit, limit.reason) == (4, LimitReason.RAISED)
        # What was seen is still there, and no first token is needed.
        assert interval(limit) is True
        assert (limit.limit, limit.reason) == (5, LimitReason.RAISED)

    def test_after_a_raise_it_is_not(self) -> None:
        """What was seen counts on: with n intervals of its own alone, this load would be held."""
        load = RAISE_BELOW - NOISE / sqrt(4) - LITTLE
        limit = made(StrategyName.THRESHOLD)
        assert until_it_moves(limit, load) == 4
        assert until_it_moves(limit, load) == 1
        assert (limit.limit, limit.reason) == (30, LimitReason.RAISED)

    def test_options_of_an_operator_as_well(self) -> None:
        limit = made()
        for _ in range(MANY):
            interval(limit, [1.0] * 10)
        limit.configure(limit.options, limit.next_deadline())
        assert until_it_moves(limit, LOWER_ABOVE + NOISE / sqrt(2) + LITTLE) == 2

    def test_streams_admitted_at_the_change_are_its_own(self) -> None:
        limit = made()
        interval(limit, [3.0] * 5)
        assert limit.changed_s == START_S + 1
        lowered = limit.limit
        interval(limit, [3.0] * 20, admitted_s=START_S + 0.999)
        assert (limit.limit, limit.reason) == (lowered, LimitReason.NO_SAMPLES)
        interval(limit, [3.0] * 5, admitted_s=START_S + 1)
        assert limit.reason is LimitReason.LOWERED_TTFT


class TestWhileItIsHeld:
    def test_the_strategy_remembers_nothing_of_it(self) -> None:
        """Otherwise a change of load would seem smaller than it is once there is enough to act on."""
        limit = made(initial=40)
        assert interval(limit, [0.68] * 5) is False
        assert interval(limit, [0.68] * 5) is True
        unasked = make_strategy(limit.options)
        assert limit.limit == int(unasked.propose(window(0.68, limit=40.0))) < 48

    def test_drops_are_far_off(self) -> None:
        limit = made()
        assert interval(limit, dropped=1) is True
        assert limit.reason is LimitReason.LOWERED_DROPS

    def test_fixed_is_held_whatever_there_is(self) -> None:
        limit = made(StrategyName.FIXED)
        assert until_it_moves(limit, 9.0) is None
        assert until_it_moves(limit, 0.1) is None
        limit.configure(options(StrategyName.THRESHOLD), limit.next_deadline())
        assert until_it_moves(limit, 9.0) == 1


class TestTheLastGoodLimit:
    def test_so_much_too_slow_that_it_is_certain_is_not_good(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        interval(limit, [0.1] * 5)
        interval(limit, [LOWER_ABOVE + NOISE + LITTLE] * 5)
        assert limit.limit == 23
        for _ in range(10):
            idle(limit)
        # 25 was not good, 20 was; it does not rise above 23 and has no reason to fall.
        assert limit.limit == 23

    def test_under_demand_and_near_the_target_it_is(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        interval(limit, [0.1] * 5)
        interval(limit, [1.0] * 5)
        assert limit.limit == 25
        interval(limit, [3.0] * 5)
        assert limit.limit == 23
        idle(limit)
        assert (limit.limit, limit.reason) == (25, LimitReason.RECOVERED)


class TestWhatWasTooHigh:
    def test_it_goes_back_by_half_of_the_way_and_later_by_steps_that_double(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        interval(limit, [3.0] * 5)
        seen = [limit.limit]
        for _ in range(7):
            interval(limit, [0.1] * 5)
            seen.append(limit.limit)
        assert seen == [18, 19, 19, 19, 19, 20, 22, 27]

    def test_a_limit_of_which_half_is_free_was_not_it(self) -> None:
        limit = made(StrategyName.THRESHOLD)
        interval(limit, [3.0] * 5, in_flight=9)
        interval(limit, [0.1] * 60)
        assert limit.limit == 25

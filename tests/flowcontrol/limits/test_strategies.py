"""What every strategy keeps to, and what each adds."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.limits import gradient, pid
from flowcontrol.limits.contract import LimitStrategy, StrategyName, Window
from flowcontrol.limits.strategies import make_strategy
from tests.flowcontrol.limits.windows import EVERY, MOVING, options, window

LOADS = st.floats(0, 100)
WINDOWS = st.builds(window, LOADS, limit=st.floats(1, 500), utilisation=st.floats(0, 1))


def made(name: StrategyName, history: list[Window] | None = None) -> LimitStrategy:
    """A strategy that has seen the windows of history."""
    strategy = make_strategy(options(name))
    for seen in history or ():
        strategy.propose(seen)
    return strategy


def proposed(name: StrategyName, seen: Window) -> float:
    return made(name).propose(seen)


class TestEveryStrategy:
    @EVERY
    @given(windows=st.lists(WINDOWS, min_size=1))
    def test_a_proposal_is_a_number_of_streams(self, name: StrategyName, windows: list[Window]) -> None:
        strategy = made(name)
        for seen in windows:
            proposal = strategy.propose(seen)
            assert proposal > 0
            assert math.isfinite(proposal)

    @EVERY
    @given(
        history=st.lists(WINDOWS),
        loads=st.lists(LOADS, min_size=2),
        limit=st.floats(1, 500),
        utilisation=st.floats(0, 1),
    )
    def test_higher_load_never_gives_a_higher_limit(
        self, name: StrategyName, history: list[Window], loads: list[float], limit: float, utilisation: float
    ) -> None:
        """From a fresh state, and from any other."""
        proposals = [
            made(name, history).propose(window(load, limit=limit, utilisation=utilisation))
            for load in sorted(loads)
        ]
        # Rounding of floats is no rise.
        assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(proposals))

    @EVERY
    @given(history=st.lists(WINDOWS), load=st.floats(1, 100, exclude_min=True), limit=st.floats(1, 500))
    def test_it_never_grows_above_target(
        self, name: StrategyName, history: list[Window], load: float, limit: float
    ) -> None:
        assert made(name, history).propose(window(load, limit=limit, utilisation=1)) <= limit

    @EVERY
    @given(history=st.lists(WINDOWS), load=st.floats(0, 1), limit=st.floats(1, 500))
    def test_it_never_shrinks_on_target_and_in_use(
        self, name: StrategyName, history: list[Window], load: float, limit: float
    ) -> None:
        assert made(name, history).propose(window(load, limit=limit, utilisation=1)) >= limit

    @EVERY
    @given(history=st.lists(WINDOWS))
    def test_it_wants_nothing_else_on_target(self, name: StrategyName, history: list[Window]) -> None:
        assert made(name, history).propose(window(1.0)) == 20.0

    @EVERY
    @given(windows=st.lists(WINDOWS))
    def test_the_same_windows_give_the_same_limits(self, name: StrategyName, windows: list[Window]) -> None:
        first, second = made(name), made(name)
        assert [first.propose(seen) for seen in windows] == [second.propose(seen) for seen in windows]

    @EVERY
    @given(limit=st.floats(1, 500))
    def test_the_worse_of_the_two_loads_counts(self, name: StrategyName, limit: float) -> None:
        """Only time between tokens is too long here."""
        both = Window(
            limit=limit,
            in_flight=int(limit),
            waited=True,
            samples=10,
            ttft_load=0.5,
            latency_load=2.0,
            dropped=0,
        )
        assert proposed(name, both) == proposed(name, window(2.0, limit=limit, utilisation=1))

    @MOVING
    def test_it_moves_both_ways(self, name: StrategyName) -> None:
        assert proposed(name, window(0.5, utilisation=1)) > 20
        assert proposed(name, window(2.0, utilisation=1)) < 20


class TestFixed:
    @given(seen=WINDOWS)
    def test_nothing_moves_it(self, seen: Window) -> None:
        assert proposed(StrategyName.FIXED, seen) == seen.limit


class TestThreshold:
    @pytest.mark.parametrize(
        ("load", "utilisation", "change"),
        [
            (0.99, 0.85, 5),
            # Not above the threshold.
            (0.99, 0.80, 0),
            (1.00, 1.00, 0),
            # Too slow, at any utilisation: the rule that looks at utilisation alone keeps or raises it.
            (1.01, 1.00, -2),
            (1.01, 0.50, -2),
            # Not below the threshold.
            (0.10, 0.30, 0),
            (0.10, 0.25, -2),
        ],
    )
    def test_its_steps(self, load: float, utilisation: float, change: int) -> None:
        assert proposed(StrategyName.THRESHOLD, window(load, utilisation=utilisation)) == 20 + change

    def test_a_low_limit_stays_above_0(self) -> None:
        assert proposed(StrategyName.THRESHOLD, window(5, limit=2)) == 1


class TestPid:
    @given(load=st.floats(1 - pid.DEAD_BAND + 1e-9, 1 + pid.DEAD_BAND - 1e-9), history=st.lists(WINDOWS))
    def test_nothing_moves_in_the_dead_band(self, load: float, history: list[Window]) -> None:
        assert made(StrategyName.PID, history).propose(window(load)) == 20

    def test_leaving_the_dead_band_is_no_jump(self) -> None:
        for edge in (1 - pid.DEAD_BAND - 1e-6, 1 + pid.DEAD_BAND + 1e-6):
            assert proposed(StrategyName.PID, window(edge)) == pytest.approx(20, abs=1e-4)

    def test_the_velocity_form(self) -> None:
        """Errors 0.4 and 0.6 after the dead band; the filtered ones are then 0.2 and 0.4."""
        strategy = made(StrategyName.PID)
        before, after = window(0.6 - pid.DEAD_BAND), window(0.4 - pid.DEAD_BAND)
        first = pid.KP * 0.4 + pid.KI * 0.4 + pid.KD * 0.2
        assert strategy.propose(before) == pytest.approx(20 * (1 + first))
        second = pid.KP * (0.6 - 0.4) + pid.KI * 0.6 + pid.KD * (0.4 - 2 * 0.2)
        assert strategy.propose(after) == pytest.approx(20 * (1 + second))
        # The third filtered error is 0.5.
        third = pid.KP * (0.6 - 0.6) + pid.KI * 0.6 + pid.KD * (0.5 - 2 * 0.4 + 0.2)
        assert strategy.propose(after) == pytest.approx(20 * (1 + third))

    @given(history=st.lists(LOADS, min_size=1), scale=st.floats(0.5, 50))
    def test_gains_have_no_unit(self, history: list[float], scale: float) -> None:
        small, large = made(StrategyName.PID), made(StrategyName.PID)
        for load in history:
            assert large.propose(window(load, limit=10 * scale)) == pytest.approx(
                small.propose(window(load, limit=10)) * scale
            )

    @pytest.mark.parametrize(("pinned_at", "then"), [(5.0, 0.5), (0.0, 1.5)])
    def test_nothing_winds_up_at_a_bound(self, pinned_at: float, then: float) -> None:
        """However long the limit was pinned, it leaves the bound with the first window that says so."""
        long, short = made(StrategyName.PID), made(StrategyName.PID)
        # The filter of the derivative needs as many to forget its start.
        for _ in range(60):
            short.propose(window(pinned_at))
        for _ in range(2000):
            long.propose(window(pinned_at))
        left = long.propose(window(then))
        assert (left - 20) * (1 - then) > 0
        assert left == pytest.approx(short.propose(window(then)))

    @pytest.mark.parametrize(("before", "now"), [(2.0, 1.2), (0.0, 0.8)])
    def test_a_shrinking_error_does_not_turn_the_limit_round(self, before: float, now: float) -> None:
        assert made(StrategyName.PID, [window(before)]).propose(window(now)) == 20

    def test_from_one_end_to_the_other_a_tenth_is_left(self) -> None:
        strategy = made(StrategyName.PID, [window(0.0)] * 60)
        assert strategy.propose(window(5.0)) == pytest.approx(20 * pid.LEAST_FACTOR)

    def test_one_absurd_sample_counts_as_twice_the_target(self) -> None:
        absurd = made(StrategyName.PID, [window(1000.0)])
        twice = made(StrategyName.PID, [window(2.0)])
        assert absurd.propose(window(0.5)) == twice.propose(window(0.5))


class TestGradient:
    @given(load=st.floats(1.001, 1.3), limit=st.floats(1, 500))
    def test_modest_overload_shrinks_it_at_any_limit(self, load: float, limit: float) -> None:
        """Headroom that is always added outweighs a gradient slightly below 1: the limit grows for ever."""
        assert proposed(StrategyName.GRADIENT, window(load, limit=limit)) < limit

    def test_the_gradient_is_clamped(self) -> None:
        down, up = (
            gradient.SMOOTHING * (gradient.MIN_GRADIENT - 1),
            gradient.SMOOTHING * (gradient.MAX_GRADIENT - 1),
        )
        assert proposed(StrategyName.GRADIENT, window(1000.0)) == pytest.approx(20 * (1 + down))
        headroom = gradient.SMOOTHING * math.sqrt(20)
        assert proposed(StrategyName.GRADIENT, window(0.0)) == pytest.approx(20 * (1 + up) + headroom)

    def test_between_the_clamps_it_follows_the_ratio(self) -> None:
        expected = 20 + gradient.SMOOTHING * (20 / 0.8 - 20 + math.sqrt(20) * 0.2)
        assert proposed(StrategyName.GRADIENT, window(0.8)) == pytest.approx(expected)
        expected = 20 + gradient.SMOOTHING * (20 / 1.25 - 20)
        assert proposed(StrategyName.GRADIENT, window(1.25)) == pytest.approx(expected)


@pytest.mark.parametrize("name", [StrategyName.PID, StrategyName.GRADIENT])
@pytest.mark.parametrize("start", [4.0, 100.0])
def test_it_finds_the_limit_that_meets_the_target(name: StrategyName, start: float) -> None:
    """Load is the limit / 24 here, so 24 is right; the dead band ends at 21.6 and 26.4."""
    strategy, limit = made(name), start
    for _ in range(60):
        limit = strategy.propose(window(limit / 24, limit=limit, utilisation=1))
    assert 21 < limit < 27

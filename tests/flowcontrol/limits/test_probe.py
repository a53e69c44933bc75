"""The probe: how far and how soon the limit may go back to where it was too high."""

import math

import pytest

from flowcontrol.limits.probe import FIRST_HOLD_INTERVALS, MOST_HOLD_INTERVALS, Probe


def pass_by(probe: Probe, intervals: int) -> None:
    for _ in range(intervals):
        probe.interval()


def held_for(probe: Probe) -> int:
    """Intervals that pass before a raise from 10 may go further than half of the way to 20."""
    n = 0
    while probe.most(10.0) == 15.0:
        probe.interval()
        n += 1
    return n


def test_nothing_was_too_high_yet() -> None:
    probe = Probe()
    assert probe.most(10.0) == math.inf
    probe.raised(20.0)
    probe.interval()
    assert probe.most(20.0) == math.inf


def test_half_of_the_way_for_a_while() -> None:
    probe = Probe()
    probe.lowered(20.0)
    assert (probe.most(10.0), probe.most(15.0), probe.most(17.5)) == (15.0, 17.5, 18.75)
    assert held_for(probe) == FIRST_HOLD_INTERVALS


def test_then_by_steps_that_double() -> None:
    probe = Probe()
    probe.lowered(20.0)
    pass_by(probe, FIRST_HOLD_INTERVALS)
    seen = [10.0]
    for _ in range(3):
        seen.append(probe.most(seen[-1]))
        probe.raised(seen[-1])
    assert seen == [10.0, 11.0, 13.0, 17.0]


def test_raises_before_that_are_none_of_the_steps() -> None:
    probe = Probe()
    probe.lowered(20.0)
    probe.raised(15.0)
    probe.raised(17.5)
    pass_by(probe, FIRST_HOLD_INTERVALS)
    assert probe.most(17.5) == 18.5


@pytest.mark.parametrize(("raised_to", "then"), [(20.0, 21.0), (20.5, math.inf)])
def test_beyond_what_was_too_high_there_is_no_bound(raised_to: float, then: float) -> None:
    probe = Probe()
    probe.lowered(20.0)
    probe.raised(raised_to)
    pass_by(probe, FIRST_HOLD_INTERVALS)
    assert probe.most(20.0) == then


def test_each_raise_that_failed_makes_it_wait_twice_as_long() -> None:
    probe = Probe()
    probe.lowered(20.0)
    seen = []
    for _ in range(6):
        probe.raised(15.0)
        probe.lowered(20.0)
        seen.append(held_for(probe))
    assert seen == [10, 20, 40, 80, MOST_HOLD_INTERVALS, MOST_HOLD_INTERVALS]


def test_lowered_on_and_on_it_does_not() -> None:
    probe = Probe()
    for _ in range(3):
        probe.raised(15.0)
        probe.lowered(20.0)
    probe.lowered(20.0)
    assert held_for(probe) == FIRST_HOLD_INTERVALS


def test_the_steps_begin_anew_after_a_lowering() -> None:
    probe = Probe()
    probe.lowered(20.0)
    pass_by(probe, FIRST_HOLD_INTERVALS)
    for _ in range(3):
        probe.raised(12.0)
    probe.lowered(18.0)
    assert probe.most(10.0) == 14.0
    pass_by(probe, 2 * FIRST_HOLD_INTERVALS)
    assert probe.most(10.0) == 11.0

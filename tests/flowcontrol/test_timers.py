"""Timers against a reference in words: the earliest, and of equals the first listed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.timers import Timer, Timers

ORDER = list(Timer)
CHANGES = st.lists(st.tuples(st.sampled_from(Timer), st.none() | st.integers(0, 5)), max_size=12)


@given(changes=CHANGES, now_s=st.integers(-1, 6))
def test_the_earliest_timer_that_is_due(changes: list[tuple[Timer, int | None]], now_s: int) -> None:
    timers, model = Timers(), dict[Timer, int]()
    for timer, at_s in changes:
        if at_s is None:
            timers.clear(timer)
            model.pop(timer, None)
        else:
            timers.set(timer, at_s)
            model[timer] = at_s
    by_time = sorted(model, key=lambda timer: (model[timer], ORDER.index(timer)))
    assert timers.next_deadline() == (model[by_time[0]] if by_time else None)
    due = [timer for timer in by_time if model[timer] <= now_s]
    assert timers.due(now_s) is (due[0] if due else None)


def test_a_timer_is_due_at_its_time_and_stays_due_until_it_is_cleared() -> None:
    timers = Timers()
    timers.set(Timer.IDLE, 5.0)
    assert timers.due(4.999) is None
    assert timers.due(5.0) is Timer.IDLE
    assert timers.due(5.0) is Timer.IDLE
    timers.clear(Timer.IDLE)
    assert timers.due(1e9) is None


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 2), (1, 2)])
def test_of_equal_times_the_first_listed_counts(first: int, second: int) -> None:
    timers = Timers()
    timers.set(ORDER[second], 1.0)
    timers.set(ORDER[first], 1.0)
    assert timers.due(1.0) is ORDER[first]


def test_a_timer_that_is_set_again_moves() -> None:
    timers = Timers()
    timers.set(Timer.ACK_TIMEOUT, 1.0)
    timers.set(Timer.ACK_TIMEOUT, 9.0)
    assert timers.next_deadline() == 9.0
    assert timers.due(8.0) is None

"""Cool-down, rate, swings and the circuit breaker, one by one."""

from flowcontrol.remediation.actions import Action, Step, StepKind
from flowcontrol.remediation.brakes import HOUR_S, Breaker, Pace, Swings

LOWER = (Action.LOWER_LIMIT, "")
A, B = (Action.THROTTLE_TENANT, "a"), (Action.THROTTLE_TENANT, "b")
STEP = Step(StepKind.TAKE, Action.RESTART_WORKER, "m/0", "slow")


def test_a_cool_down_is_of_one_action_on_one_subject() -> None:
    pace = Pace(cool_down_s=30, max_per_hour=10)
    assert pace.why_not(A, 0) is None
    pace.take(A, 0)
    assert pace.why_not(A, 29.9) == "cool-down of 30 s"
    assert pace.why_not(B, 29.9) is None
    assert pace.why_not(A, 30) is None


def test_an_hour_has_so_many_actions_whatever_they_are() -> None:
    pace = Pace(cool_down_s=0, max_per_hour=2)
    pace.take(A, 0)
    pace.take(B, 100)
    assert pace.why_not(LOWER, HOUR_S - 1) == "2 actions within an hour"
    assert pace.why_not(LOWER, HOUR_S) is None
    pace.take(LOWER, HOUR_S)
    assert pace.why_not(A, HOUR_S) == "2 actions within an hour"


def test_swings_count_for_an_hour() -> None:
    swings = Swings(2)
    swings.undone(A, 0)
    assert not swings.too_many(A, 1)
    swings.undone(A, 100)
    swings.undone(B, 100)
    assert swings.too_many(A, 101)
    assert not swings.too_many(B, 101)
    assert not swings.too_many(A, HOUR_S + 1)
    swings.undone(A, HOUR_S)
    assert swings.too_many(A, HOUR_S + 1)
    swings.forget(A)
    swings.forget(A)
    assert not swings.too_many(A, HOUR_S + 1)


def test_only_failures_in_a_row_open_the_breaker() -> None:
    breaker = Breaker(2)
    breaker.failed(STEP, "no such worker", 0)
    breaker.helped()
    breaker.failed(STEP, "no such worker", 1)
    assert breaker.suspended(1) == ""
    breaker.failed(STEP, "no such worker", 2)
    assert breaker.suspended(2) == (
        "2 actions in a row failed or did not help, RESTART_WORKER m/0 last: no such worker"
    )
    assert breaker.suspended(2 + HOUR_S - 1)
    assert breaker.suspended(2 + HOUR_S) == ""
    # It begins to count anew.
    breaker.failed(STEP, "no such worker", HOUR_S + 3)
    assert breaker.suspended(HOUR_S + 3) == ""

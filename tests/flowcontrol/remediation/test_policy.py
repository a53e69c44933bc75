"""When actions are taken, undone, held, repeated and waited for."""

from dataclasses import replace

import pytest

from flowcontrol.remediation.actions import Action, Outcome, Step, StepKind
from flowcontrol.remediation.brakes import HOUR_S
from flowcontrol.remediation.journal import LATEST
from flowcontrol.slo_verdict import Objective
from tests.flowcontrol.remediation.situations import (
    FLOOD,
    HEALTHY,
    INTERVAL_S,
    OPTIONS,
    TTFT_BREACHED,
    Owner,
    canary,
    slo,
    unknown_since,
    worker,
)

KV_SHORT = replace(HEALTHY, kv_use=0.97)
STUCK = replace(HEALTHY, workers=(worker(0, suspect=True), worker(1)))
FLOODED = replace(TTFT_BREACHED, tenants=FLOOD)
TAKE_LOWER, UNDO_LOWER = "TAKE LOWER_LIMIT", "UNDO LOWER_LIMIT"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"cool_down_s": -1.0}, "cool_down_s"),
        ({"max_actions_per_hour": 0}, "max_actions_per_hour"),
        ({"max_swings": 0}, "max_swings"),
        ({"max_failures": 0}, "max_failures"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(OPTIONS, **wrong)  # type: ignore[arg-type]


def test_an_action_is_taken_at_once_and_undone_after_two_good_evaluations() -> None:
    owner = Owner()
    assert owner.names(TTFT_BREACHED) == [TAKE_LOWER]
    assert owner.active() == [Action.LOWER_LIMIT]
    assert owner.names(HEALTHY) == []
    assert owner.names(HEALTHY) == [UNDO_LOWER]
    assert owner.active() == []
    assert [(event.cause, event.outcome) for event in owner.events()] == [
        ("ttft_p95 burns 4.0 times its budget", Outcome.TAKEN),
        ("its cause has ended", Outcome.UNDONE),
    ]
    assert [event.at_s for event in owner.events()] == [1010, 1030]


def test_one_good_evaluation_between_bad_ones_undoes_nothing() -> None:
    owner = Owner()
    owner.look(TTFT_BREACHED)
    for _ in range(2):
        assert owner.look(HEALTHY) == []
        assert owner.look(replace(HEALTHY, slo=slo(ttft_p50=2.0, ttft_p95=0.95))) == []
    assert owner.active() == [Action.LOWER_LIMIT]


def test_what_is_merely_unknown_undoes_nothing() -> None:
    owner = Owner()
    owner.look(TTFT_BREACHED)
    assert owner.look(replace(HEALTHY, slo=unknown_since(Objective.TTFT_P95)), 30) == []
    # The guard says when that has lasted long enough.
    assert owner.names(replace(HEALTHY, slo=slo(ttft_p95=None)), 2) == [UNDO_LOWER]


def test_a_breach_without_more_samples_repeats_nothing() -> None:
    """It is a breach still, for the slow window says so, but the fast one is good."""
    owner = Owner()
    owner.look(TTFT_BREACHED)
    breach = replace(TTFT_BREACHED.slo.objectives[1], fast_burn=0.5)
    assert breach.name is Objective.TTFT_P95
    ending = replace(TTFT_BREACHED, slo=replace(TTFT_BREACHED.slo, objectives=(breach,)))
    assert owner.look(ending, 30) == []
    assert owner.active() == [Action.LOWER_LIMIT]
    assert Outcome.SKIPPED not in owner.outcomes()


def test_a_throttle_lasts_as_long_as_the_flood() -> None:
    owner = Owner()
    assert owner.names(FLOODED) == ["TAKE THROTTLE_TENANT flood"]
    over = replace(HEALTHY, tenants=(replace(FLOOD[0], throttled=True), FLOOD[1]))
    assert owner.look(over, 50) == []
    assert owner.names(HEALTHY, 2) == ["UNDO THROTTLE_TENANT flood"]


def test_what_cannot_be_undone_is_not_in_force() -> None:
    owner = Owner()
    assert owner.names(STUCK) == ["TAKE RESTART_WORKER m/0"]
    assert owner.active() == []
    assert owner.look(HEALTHY, 10) == []


def test_the_general_answer_waits_until_the_specific_one_may_have_worked() -> None:
    owner = Owner()
    signals = replace(FLOODED, workers=STUCK.workers, features=canary(), kv_use=0.99)
    assert owner.names(signals) == ["TAKE ROLL_BACK_FEATURE speculation", "TAKE RESTART_WORKER m/0"]
    # The fast window and two intervals; then the next level.
    assert owner.names(replace(FLOODED, kv_use=0.99), 4) == []
    assert owner.names(replace(FLOODED, kv_use=0.99)) == [
        "TAKE EVICT_CACHES",
        "TAKE THROTTLE_TENANT flood",
    ]
    full = replace(TTFT_BREACHED, kv_use=0.8)
    assert owner.names(full, 4) == []
    assert owner.names(full) == [TAKE_LOWER]


def test_what_did_not_help_is_repeated_where_that_goes_further() -> None:
    owner = Owner()
    assert owner.names(TTFT_BREACHED, 5) == [TAKE_LOWER]
    assert owner.names(TTFT_BREACHED) == [TAKE_LOWER]
    assert owner.active() == [Action.LOWER_LIMIT]
    assert owner.names(HEALTHY, 3) == [UNDO_LOWER]


def test_what_goes_no_further_is_not_repeated() -> None:
    owner = Owner()
    owner.look(FLOODED)
    assert "TAKE THROTTLE_TENANT flood" not in owner.names(FLOODED, 60)


def test_a_cool_down_is_told_once() -> None:
    owner = Owner(replace(OPTIONS, cool_down_s=200.0))
    owner.look(TTFT_BREACHED)
    owner.look(HEALTHY, 10)
    assert owner.look(TTFT_BREACHED, 5) == []
    assert owner.outcomes() == [Outcome.TAKEN, Outcome.UNDONE, Outcome.SKIPPED]
    assert owner.events()[-1].cause.endswith("not taken: cool-down of 200 s")
    owner.look(HEALTHY)
    assert owner.look(TTFT_BREACHED) == []
    assert owner.outcomes()[3:] == [Outcome.SKIPPED]
    owner.look(TTFT_BREACHED, 5)
    assert owner.outcomes()[4:] == [Outcome.TAKEN]


def test_an_hour_has_so_many_actions() -> None:
    owner = Owner(replace(OPTIONS, max_actions_per_hour=2))
    signals = replace(HEALTHY, features=(*canary("a"), *canary("b"), *canary("c")))
    assert owner.names(signals) == ["TAKE ROLL_BACK_FEATURE a", "TAKE ROLL_BACK_FEATURE b"]
    assert owner.outcomes() == [Outcome.SKIPPED, Outcome.TAKEN, Outcome.TAKEN]
    assert owner.look(replace(HEALTHY, features=canary("c")), 10) == []
    owner.now_s += HOUR_S
    assert owner.names(replace(HEALTHY, features=canary("c"))) == ["TAKE ROLL_BACK_FEATURE c"]


def swing(owner: Owner) -> list[str]:
    return owner.names(TTFT_BREACHED, 3) + owner.names(HEALTHY, 3)


def test_what_swings_is_left_in_force() -> None:
    owner = Owner()
    for _ in range(OPTIONS.max_swings):
        assert swing(owner) == [TAKE_LOWER, UNDO_LOWER]
    assert swing(owner) == [TAKE_LOWER]
    assert owner.outcomes()[-2:] == [Outcome.TAKEN, Outcome.HELD]
    held = owner.policy.snapshot(owner.now_s).active[0]
    assert (held.outcome, held.cause) == (Outcome.HELD, "taken and undone 3 times in an hour")
    # A breach meanwhile begins the long time anew; held is told once.
    owner.look(HEALTHY, 20)
    owner.look(TTFT_BREACHED)
    assert owner.outcomes().count(Outcome.HELD) == 1
    assert owner.look(HEALTHY, 29) == []
    assert owner.names(HEALTHY) == [UNDO_LOWER]
    # What was is forgotten: it may swing again before it is held.
    assert swing(owner) == [TAKE_LOWER, UNDO_LOWER]


def test_without_a_cool_down_swinging_is_held_for_a_slow_window() -> None:
    owner = Owner(replace(OPTIONS, cool_down_s=0.0, max_swings=1))
    swing(owner)
    assert swing(owner) == [TAKE_LOWER]
    assert owner.names(HEALTHY, 26) == []
    assert owner.names(HEALTHY) == [UNDO_LOWER]


def test_an_action_that_fails_is_not_in_force() -> None:
    owner = Owner()
    owner.failing = {(StepKind.TAKE, Action.EVICT_CACHES)}
    assert owner.names(KV_SHORT) == ["TAKE EVICT_CACHES"]
    assert owner.active() == []
    assert [(each.outcome, each.cause) for each in owner.events()] == [
        (Outcome.FAILED, "KV memory 97% in use, 0 refusals, 0 evictions; cannot")
    ]
    owner.failing = set()
    assert owner.names(KV_SHORT, 3) == ["TAKE EVICT_CACHES"]
    assert owner.active() == [Action.EVICT_CACHES]


def test_a_specific_action_that_fails_is_not_waited_for() -> None:
    owner = Owner()
    owner.failing = {(StepKind.TAKE, Action.THROTTLE_TENANT)}
    owner.look(FLOODED)
    assert owner.names(FLOODED) == [TAKE_LOWER]


def test_an_undo_that_fails_is_tried_again() -> None:
    owner = Owner()
    owner.failing = {(StepKind.UNDO, Action.LOWER_LIMIT)}
    owner.look(TTFT_BREACHED)
    assert owner.names(HEALTHY, 4) == [UNDO_LOWER, UNDO_LOWER]
    assert owner.active() == [Action.LOWER_LIMIT]
    owner.failing = set()
    assert owner.names(HEALTHY, 2) == [UNDO_LOWER]
    assert owner.active() == []


def test_actions_that_fail_open_the_breaker_for_an_hour() -> None:
    owner = Owner(replace(OPTIONS, max_failures=2))
    owner.failing = {(StepKind.TAKE, Action.RESTART_WORKER)}
    assert len(owner.look(STUCK, 10)) == 2
    snapshot = owner.policy.snapshot(owner.now_s)
    assert snapshot.suspended == "2 actions in a row failed or did not help, RESTART_WORKER m/0 last: cannot"
    assert snapshot.events[0].cause.endswith("not taken: suspended")
    owner.now_s += HOUR_S
    assert owner.policy.snapshot(owner.now_s).suspended == ""
    assert owner.names(STUCK) == ["TAKE RESTART_WORKER m/0"]


def test_what_is_in_force_is_undone_also_while_suspended() -> None:
    owner = Owner(replace(OPTIONS, max_failures=1))
    owner.look(TTFT_BREACHED, 6)
    assert owner.policy.snapshot(owner.now_s).suspended
    assert owner.active() == [Action.LOWER_LIMIT]
    assert owner.names(HEALTHY, 2) == [UNDO_LOWER]


def test_what_nobody_can_tell_counts_neither_for_nor_against_an_action() -> None:
    owner = Owner(replace(OPTIONS, max_failures=2))
    unknown = replace(HEALTHY, slo=unknown_since(Objective.TTFT_P95))
    owner.look(TTFT_BREACHED, 6)
    assert not owner.policy.snapshot(owner.now_s).suspended
    owner.look(unknown, 6)
    owner.look(TTFT_BREACHED, 6)
    assert owner.policy.snapshot(owner.now_s).suspended


def test_an_action_that_helped_closes_the_count() -> None:
    owner = Owner(replace(OPTIONS, max_failures=2))
    owner.look(TTFT_BREACHED, 6)
    owner.look(HEALTHY, 6)
    owner.look(TTFT_BREACHED, 6)
    assert not owner.policy.snapshot(owner.now_s).suspended


def test_a_step_under_way_is_not_given_twice() -> None:
    policy = Owner().policy
    (step,) = policy.decide(TTFT_BREACHED, 0.0)
    for look in range(1, 20):
        assert policy.decide(TTFT_BREACHED, look * INTERVAL_S) == []
    assert policy.snapshot(190.0).active == ()
    policy.report(step, None, 190.0)
    (again,) = policy.decide(TTFT_BREACHED, 200.0)
    policy.decide(HEALTHY, 210.0)
    # It is in force, but what was asked for is not known to be done.
    assert policy.decide(HEALTHY, 220.0) == []
    policy.report(again, None, 221.0)
    assert [each.kind for each in policy.decide(HEALTHY, 230.0) + policy.decide(HEALTHY, 240.0)] == ["UNDO"]


def test_only_steps_under_way_are_reported() -> None:
    policy = Owner().policy
    (step,) = policy.decide(TTFT_BREACHED, 0.0)
    with pytest.raises(ValueError, match="no such step"):
        policy.report(Step(StepKind.UNDO, *step.key, step.cause), None, 1.0)
    policy.report(step, None, 1.0)
    with pytest.raises(ValueError, match="no such step"):
        policy.report(step, None, 2.0)


def test_a_dry_run_tells_what_it_would_do_and_gives_no_steps() -> None:
    owner = Owner(replace(OPTIONS, act=False, max_failures=1))
    signals = replace(FLOODED, workers=STUCK.workers, features=canary())
    # Nothing gets better by it, and nothing counts as having failed to.
    assert owner.look(signals, 100) == []
    snapshot = owner.policy.snapshot(owner.now_s)
    assert snapshot.dry_run
    assert snapshot.suspended == ""
    assert all(event.dry_run for event in snapshot.events)
    assert [(event.action, event.outcome) for event in owner.events()] == [
        (Action.ROLL_BACK_FEATURE, Outcome.TAKEN),
        (Action.RESTART_WORKER, Outcome.TAKEN),
        (Action.THROTTLE_TENANT, Outcome.TAKEN),
        (Action.LOWER_LIMIT, Outcome.TAKEN),
    ]
    assert owner.active() == [Action.THROTTLE_TENANT, Action.LOWER_LIMIT]
    assert owner.look(HEALTHY, 2) == []
    assert owner.active() == []
    assert owner.outcomes()[4:] == [Outcome.UNDONE, Outcome.UNDONE]
    # What was told of a cause that went is told again when it comes back.
    owner.look(STUCK)
    assert owner.events()[-1].action is Action.RESTART_WORKER


def test_the_latest_events_are_kept_and_all_are_counted() -> None:
    owner = Owner(replace(OPTIONS, max_actions_per_hour=100, max_swings=100))
    for _ in range(15):
        swing(owner)
    snapshot = owner.policy.snapshot(owner.now_s)
    assert len(snapshot.events) == LATEST
    assert snapshot.events[0].at_s > snapshot.events[-1].at_s
    assert snapshot.counts == {
        (Action.LOWER_LIMIT, Outcome.TAKEN): 15,
        (Action.LOWER_LIMIT, Outcome.UNDONE): 15,
    }

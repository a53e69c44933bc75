"""Guard and policy around a service in virtual time: faults come and go, and so do the answers."""

import pytest

from flowcontrol.remediation.actions import Action, Outcome
from tests.flowcontrol.remediation.plant import (
    BadCanary,
    Incurable,
    KvShortage,
    OnlySlowWorker,
    Plant,
    SlowWorker,
    StuckWorker,
    TenantFlood,
    run,
)
from tests.flowcontrol.remediation.situations import OPTIONS
from tests.flowcontrol.slo_options import SLO

# Simulated hours take four times as long while coverage is measured.
pytestmark = pytest.mark.no_cover
HOUR_S = 3600
LASTS_S = 900
# From just after an evaluation to just before one.
BEGINS = pytest.mark.parametrize("began_s", [600, 609])


@BEGINS
@pytest.mark.parametrize(
    ("fault", "action"),
    [
        (SlowWorker, "RESTART_WORKER m/1"),
        (OnlySlowWorker, "RESTART_WORKER m/1"),
        (StuckWorker, "RESTART_WORKER m/1"),
        (BadCanary, "ROLL_BACK_FEATURE speculation"),
    ],
)
def test_a_fault_that_one_action_ends(fault: type[Plant], action: str, began_s: int) -> None:
    found = run(fault(began_s, began_s + LASTS_S), HOUR_S)
    assert [name for _, name in found.steps] == [f"TAKE {action}"]
    assert found.steps[0][0] <= began_s + 3 * SLO.interval_s


@BEGINS
@pytest.mark.parametrize(
    ("fault", "action"),
    [(KvShortage, "EVICT_CACHES"), (TenantFlood, "THROTTLE_TENANT flood")],
)
def test_a_fault_that_an_action_outlasts(fault: type[Plant], action: str, began_s: int) -> None:
    """In force as long as the fault, though its symptoms are gone; then undone, and neither again."""
    ended_s = began_s + LASTS_S
    found = run(fault(began_s, ended_s), HOUR_S)
    assert [name for _, name in found.steps] == [f"TAKE {action}", f"UNDO {action}"]
    taken_s, undone_s = (at for at, _ in found.steps)
    assert taken_s <= began_s + 3 * SLO.interval_s
    assert ended_s <= undone_s <= ended_s + 3 * SLO.interval_s


@pytest.mark.parametrize("lasts_s", [0, LASTS_S])
def test_a_healthy_service_is_left_alone(lasts_s: int) -> None:
    assert run(Plant(600, 600 + lasts_s), HOUR_S).steps == []


def test_an_action_that_does_not_help_is_given_up() -> None:
    ended_s = 600 + LASTS_S
    found = run(Incurable(600, ended_s), HOUR_S)
    assert found.suspended.startswith("5 actions in a row failed or did not help, LOWER_LIMIT last")
    names = [name for _, name in found.steps]
    assert names == [*["TAKE LOWER_LIMIT"] * OPTIONS.max_failures, "UNDO LOWER_LIMIT"]
    assert ended_s <= found.steps[-1][0] <= ended_s + SLO.fast_window_s + SLO.slow_window_s
    snapshot = found.policy.snapshot(HOUR_S)
    assert snapshot.active == ()
    assert snapshot.counts[Action.LOWER_LIMIT, Outcome.SKIPPED] == 1

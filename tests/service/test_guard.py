"""The guard: from streams to objectives, from breaches to actions and alerts, and back."""

import asyncio
from dataclasses import replace

import pytest

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.governor import Governor
from flowcontrol.features import CANARY, FeatureName, FeatureState
from flowcontrol.remediation.actions import Outcome
from flowcontrol.slo_verdict import Objective, ObjectiveSnapshot, Verdict
from service.observation import Cause, Observation
from service.rollout import Regression, Rollout
from tests.service.admission_subjects import OPTIONS
from tests.service.drivers import START_S
from tests.service.feature_subjects import canary, rollout_options
from tests.service.guards import LABELS, REMEDIATION, SLO, GuardDriver, outcome
from tests.service.test_rollout import bad_canary

GOOD_S, BAD_S = 0.2, 5.0
DRY_RUN = replace(REMEDIATION, act=False)
WITH_CANARY = rollout_options({FeatureName.POOLING: canary(50.0)})


def found(driver: GuardDriver, name: Objective) -> ObjectiveSnapshot:
    slo = driver.guard.snapshot().slo
    assert slo is not None
    objective = slo.find(name)
    assert objective is not None
    return objective


def outcomes(driver: GuardDriver) -> list[tuple[str, Outcome]]:
    """Oldest first."""
    remediation = driver.guard.snapshot().remediation
    assert remediation is not None
    return [(event.action.value, event.outcome) for event in reversed(remediation.events)]


async def test_a_breach_lowers_the_limit_and_its_end_gives_it_back() -> None:
    driver = GuardDriver()
    driver.interval(GOOD_S)
    assert (driver.limit, driver.told) == (4, [])
    driver.interval(BAD_S)
    assert driver.limit == 3
    assert outcomes(driver) == [("LOWER_LIMIT", Outcome.TAKEN)]
    assert driver.kinds() == ["breach ttft_p95", "action LOWER_LIMIT"]
    assert driver.noted[0][0] == "LOWER_LIMIT TAKEN"
    for _ in range(40):
        driver.interval(GOOD_S)
    assert outcomes(driver) == [("LOWER_LIMIT", Outcome.TAKEN), ("LOWER_LIMIT", Outcome.UNDONE)]
    assert driver.governor.snapshot(driver.clock()).limit.cap is None
    assert driver.kinds()[2:] == ["breach_ended ttft_p95", "action_undone LOWER_LIMIT"]


async def test_a_dry_run_tells_and_changes_nothing() -> None:
    driver = GuardDriver(remediation=DRY_RUN)
    driver.interval(BAD_S)
    driver.interval(BAD_S)
    assert (driver.limit, driver.noted) == (4, [])
    remediation = driver.guard.snapshot().remediation
    assert remediation is not None
    assert (remediation.dry_run, [event.dry_run for event in remediation.events]) == (True, [True])
    [told] = [alert for alert in driver.told if alert.subject == "LOWER_LIMIT"]
    assert "would have been" in told.text


async def test_without_remediation_breaches_are_told_all_the_same() -> None:
    driver = GuardDriver(remediation=None)
    driver.interval(BAD_S)
    assert driver.guard.snapshot().remediation is None
    assert driver.kinds() == ["breach ttft_p50", "breach ttft_p95"]
    assert driver.limit == 4


async def test_a_breach_is_told_when_it_has_lasted() -> None:
    driver = GuardDriver(remediation=None, sustained_s=15.0)
    driver.interval(BAD_S)
    driver.interval(BAD_S)
    assert driver.told == []
    driver.interval(BAD_S)
    assert driver.kinds() == ["breach ttft_p50", "breach ttft_p95"]


async def test_a_breach_that_nobody_can_see_any_more_is_not_told_to_be_over() -> None:
    driver = GuardDriver(remediation=None)
    driver.interval(BAD_S)
    for _ in range(10):
        driver.interval(None)
    assert found(driver, Objective.TTFT_P95).verdict is Verdict.UNKNOWN
    assert driver.kinds() == ["breach ttft_p50", "breach ttft_p95"]


async def test_bulk_may_wait() -> None:
    driver = GuardDriver()
    bulk = replace(LABELS, service_class=ServiceClass.BULK)
    for _ in range(50):
        driver.guard.first_token(bulk, BAD_S)
    driver.interval(None)
    assert found(driver, Objective.TTFT_P95).samples == 0
    assert driver.told == []


async def test_ends_and_gaps_are_judged() -> None:
    driver = GuardDriver(remediation=None)
    for cause in (None, Cause.CLIENT, Cause.DEADLINE, Cause.ACK_TIMEOUT):
        for _ in range(25):
            driver.guard.ended(outcome(cause))
    driver.guard.gaps(LABELS, [0.1] * 50)
    driver.interval(None)
    assert found(driver, Objective.INFRASTRUCTURE_CANCELLATIONS).verdict is Verdict.MET
    assert found(driver, Objective.INTER_TOKEN_P95).verdict is Verdict.MET
    for _ in range(10):
        driver.guard.ended(outcome(Cause.SERVER))
    driver.guard.gaps(LABELS, [0.5] * 50)
    driver.interval(None)
    assert found(driver, Objective.INFRASTRUCTURE_CANCELLATIONS).verdict is Verdict.BREACHED
    assert found(driver, Objective.INTER_TOKEN_P95).verdict is Verdict.BREACHED


def state(rollout: Rollout) -> FeatureState:
    return rollout.table.state(FeatureName.POOLING)


@pytest.mark.parametrize("remediation", [REMEDIATION, DRY_RUN, None], ids=["act", "dry run", "off"])
@pytest.mark.parametrize("watched", [True, False])
async def test_a_worse_canary_is_rolled_back_in_every_mode(remediation: object, watched: bool) -> None:
    changes = {} if watched else {"slo": None}
    driver = GuardDriver(remediation=remediation, rollout=WITH_CANARY, **changes)  # type: ignore[arg-type]
    driver.interval(None)
    assert state(driver.rollout) is FeatureState.CANARY
    bad_canary(driver.rollout)
    driver.interval(None)
    assert state(driver.rollout) is FeatureState.ROLLED_BACK
    assert [alert.subject for alert in driver.told] == ["ROLL_BACK_FEATURE"] * len(driver.told)
    assert any(alert.details["subject"] == "pooling" for alert in driver.told)
    told = len(driver.told)
    driver.interval(None)
    assert len(driver.told) == told


async def test_a_worse_canary_stays_where_people_decide() -> None:
    options = replace(WITH_CANARY, roll_back=False)
    driver = GuardDriver(rollout=options)
    bad_canary(driver.rollout)
    driver.interval(None)
    assert state(driver.rollout) is FeatureState.CANARY
    assert driver.told == []


async def test_streams_are_told_to_the_comparison() -> None:
    driver = GuardDriver(rollout=WITH_CANARY)
    of_canary = replace(LABELS, arm=CANARY)
    driver.guard.first_token(of_canary, 0.3)
    driver.guard.gaps(of_canary, [0.1])
    driver.guard.ended(outcome(Cause.SERVER, labels=of_canary))
    driver.guard.ended(outcome(labels=of_canary, completion_tokens=1, decode_s=0.0))
    arms = driver.rollout.comparison.snapshot()
    assert (arms.canary.streams, arms.canary.failed, arms.control.streams) == (2, 1, 0)
    assert arms.canary.ttft_p50_s == pytest.approx(0.3, rel=0.02)


async def test_a_step_that_fails_is_an_event_and_ends_nothing() -> None:
    class Stubborn(Governor):
        def cap_limit(self, cap: int | None, now_s: float) -> None:
            raise OSError("no such thing")

    driver = GuardDriver(governor=Stubborn(OPTIONS, now_s=START_S, chance=lambda: 0.0))
    driver.interval(BAD_S)
    assert outcomes(driver) == [("LOWER_LIMIT", Outcome.FAILED)]
    [told] = [alert for alert in driver.told if alert.subject == "LOWER_LIMIT"]
    assert "no such thing" in told.text
    driver.interval(GOOD_S)


async def test_watching_goes_on_after_a_defect() -> None:
    class Broken(Rollout):
        def regression(self) -> Regression | None:
            raise ValueError("a defect")

    driver = GuardDriver(slo=None, rollouts=Broken)
    flushed = 0

    class Flushing(Observation):
        def flush(self) -> None:
            nonlocal flushed
            flushed += 1
            if flushed == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await driver.guard.keep_watching(Flushing(()), 0.0)
    assert flushed == 3


async def test_a_look_that_fails_is_not_repeated_before_its_time() -> None:
    looks = 0

    class Broken(Rollout):
        def regression(self) -> Regression | None:
            nonlocal looks
            looks += 1
            raise ValueError("a defect")

    driver = GuardDriver(rollouts=Broken)
    driver.clock.now_s += SLO.interval_s
    watch = asyncio.create_task(driver.guard.keep_watching(Observation(()), 3600.0))
    for _ in range(100):
        await asyncio.sleep(0)
    watch.cancel()
    assert looks == 1

"""What each action does to the governor, the engine and the features, and that undoing takes it all back."""

import pytest

from engine.contract import AS_CONFIGURED
from flowcontrol.features import FeatureName, FeatureState
from flowcontrol.limits.contract import StrategyName
from flowcontrol.remediation.actions import ONE_SHOT, Action, Step, StepKind
from service.guard_actions import LEAST_SLICE_TOKENS, THROTTLED_SHARE
from tests.service.admission_subjects import ask
from tests.service.feature_subjects import canary, rollout_options
from tests.service.guards import SLICE_TOKENS, GuardDriver


def do(driver: GuardDriver, kind: StepKind, action: Action, subject: str = "") -> None:
    driver.actions.execute(Step(kind, action, subject, "a test"))


def take(driver: GuardDriver, action: Action, subject: str = "") -> None:
    do(driver, StepKind.TAKE, action, subject)


def undo(driver: GuardDriver, action: Action, subject: str = "") -> None:
    do(driver, StepKind.UNDO, action, subject)


async def test_the_limit_goes_down_step_by_step_to_its_bound_and_comes_back() -> None:
    driver = GuardDriver()
    for expected in (3, 2, 2):
        take(driver, Action.LOWER_LIMIT)
        assert driver.limit == expected
    undo(driver, Action.LOWER_LIMIT)
    assert driver.governor.snapshot(driver.clock()).limit.cap is None
    assert driver.decided == 4


async def test_the_limit_is_fixed_and_follows_again() -> None:
    driver = GuardDriver()
    seen = []
    for kind in StepKind:
        do(driver, kind, Action.FIX_LIMIT)
        seen.append(driver.governor.options.limits.strategy)
    assert seen == [StrategyName.FIXED, StrategyName.PID]


async def test_slices_are_halved_and_come_back_while_caches_stay_as_they_are() -> None:
    driver = GuardDriver()
    take(driver, Action.EVICT_CACHES)
    for expected in (SLICE_TOKENS // 2, SLICE_TOKENS // 4):
        take(driver, Action.SHRINK_PREFILL)
        assert driver.engine.snapshot().tuning.prefill_step_tokens == expected
    for _ in range(10):
        take(driver, Action.SHRINK_PREFILL)
    assert driver.engine.snapshot().tuning.prefill_step_tokens == LEAST_SLICE_TOKENS
    undo(driver, Action.SHRINK_PREFILL)
    tuning = driver.engine.snapshot().tuning
    assert (tuning.prefill_step_tokens, tuning.max_prefix_cache_bytes) == (None, 0)


async def test_caches_are_given_up_and_allowed_again() -> None:
    driver = GuardDriver()
    take(driver, Action.EVICT_CACHES)
    tuning = driver.engine.snapshot().tuning
    assert (tuning.max_prefix_cache_bytes, tuning.max_parked_kv_bytes) == (0, 0)
    undo(driver, Action.EVICT_CACHES)
    assert driver.engine.snapshot().tuning == AS_CONFIGURED


async def test_a_tenant_is_throttled_and_let_go() -> None:
    driver = GuardDriver()
    ask(driver.governor, tenant="flood")
    take(driver, Action.THROTTLE_TENANT, "flood")
    [tenant] = driver.governor.snapshot(driver.clock()).tenants
    assert tenant.throttle == THROTTLED_SHARE
    undo(driver, Action.THROTTLE_TENANT, "flood")
    [tenant] = driver.governor.snapshot(driver.clock()).tenants
    assert tenant.throttle is None


async def test_a_worker_is_restarted() -> None:
    driver = GuardDriver()
    await driver.models.start()
    before = driver.engine.snapshot().workers[0].restarts
    take(driver, Action.RESTART_WORKER, "scripted/0")
    assert driver.engine.snapshot().workers[0].restarts == before + 1
    with pytest.raises(Exception, match="worker"):
        take(driver, Action.RESTART_WORKER, "scripted/7")
    await driver.models.stop()


async def test_a_canary_is_rolled_back() -> None:
    driver = GuardDriver(rollout=rollout_options({FeatureName.POOLING: canary(10.0)}))
    take(driver, Action.ROLL_BACK_FEATURE, "pooling")
    assert driver.rollout.table.state(FeatureName.POOLING) is FeatureState.ROLLED_BACK


@pytest.mark.parametrize("action", sorted(ONE_SHOT))
async def test_what_is_done_once_cannot_be_undone(action: Action) -> None:
    with pytest.raises(ValueError, match="cannot be undone"):
        undo(GuardDriver(), action, "scripted/0")

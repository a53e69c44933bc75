"""What a change of a feature sets off: the comparison, and the limit on streams in flight."""

from dataclasses import replace

import pytest

from flowcontrol.admission.governor import Governor
from flowcontrol.arm_comparison import VerdictKind
from flowcontrol.features import CANARY, CONTROL, CanaryError, FeatureName, FeatureState
from flowcontrol.limits.contract import StrategyName
from service.options import RolloutOptions
from service.rollout import Rollout
from tests.service.admission_subjects import OPTIONS, Shell, a_governor, tickets
from tests.service.drivers import Clock
from tests.service.feature_subjects import OFF, ROLLOUT, canary, rollout_options

POOLING, LIMITS = FeatureName.POOLING, FeatureName.ADAPTIVE_LIMITS


def a_rollout(options: RolloutOptions = ROLLOUT, governor: Governor | None = None) -> Rollout:
    return Rollout(options, governor or a_governor(), lambda: None, Clock())


def bad_canary(rollout: Rollout) -> None:
    """As many streams as it takes, half a second slower in the canary arm."""
    for arm, ttft_s in ((CONTROL, 0.2), (CANARY, 0.7)):
        for _ in range(30):
            rollout.comparison.first_token(arm, ttft_s)
            rollout.comparison.ended(arm, infrastructure=False, token_s=0.02)


def comparisons(rollout: Rollout) -> dict[FeatureName, int]:
    """Ended streams of the canary arm, of the features that are compared."""
    return {one.name: arms.canary.streams for one, arms in rollout.snapshot() if arms is not None}


def test_nothing_is_compared_without_a_canary() -> None:
    rollout = a_rollout()
    bad_canary(rollout)
    assert comparisons(rollout) == {}
    assert rollout.regression() is None


@pytest.mark.parametrize("configured", [False, True])
def test_a_canary_that_does_worse_is_told(configured: bool) -> None:
    rollout = a_rollout(rollout_options({POOLING: canary(10.0)})) if configured else a_rollout()
    if not configured:
        rollout.set_canary(POOLING, 10.0, "to see")
    assert rollout.regression() is None
    bad_canary(rollout)
    regression = rollout.regression()
    assert regression is not None
    assert (regression.feature, regression.verdict.kind) == (POOLING, VerdictKind.WORSE)
    rollout.roll_back(regression.feature, regression.verdict.text)
    assert rollout.regression() is None
    [rolled_back] = [one for one, _ in rollout.snapshot() if one.name is POOLING]
    assert (rolled_back.state, rolled_back.reason) == (FeatureState.ROLLED_BACK, regression.verdict.text)


def test_nothing_is_told_where_features_are_not_rolled_back() -> None:
    rollout = a_rollout(rollout_options({POOLING: canary(10.0)}, roll_back=False))
    bad_canary(rollout)
    assert rollout.regression() is None
    assert rollout.comparison.verdict().kind is VerdictKind.WORSE


def test_the_comparison_of_what_was_rolled_back_stays_as_it_was() -> None:
    rollout = a_rollout(rollout_options({POOLING: canary(10.0)}))
    bad_canary(rollout)
    rollout.roll_back(POOLING, "")
    bad_canary(rollout)  # Those that are still under way.
    assert comparisons(rollout) == {POOLING: 30}
    rollout.set_canary(FeatureName.COALESCING, 5.0, "")
    assert comparisons(rollout) == {POOLING: 30, FeatureName.COALESCING: 0}
    rollout.roll_back(FeatureName.COALESCING, "")
    rollout.set_canary(POOLING, 5.0, "")
    assert comparisons(rollout) == {POOLING: 0, FeatureName.COALESCING: 0}


def test_promotion_ends_the_comparison() -> None:
    rollout = a_rollout(rollout_options({POOLING: canary(10.0)}))
    rollout.promote(POOLING, "")
    assert comparisons(rollout) == {}
    assert not rollout.comparison.running


def test_another_feature_changes_nothing_of_a_comparison() -> None:
    rollout = a_rollout(rollout_options({POOLING: canary(10.0)}))
    bad_canary(rollout)
    rollout.roll_back(FeatureName.SPECULATION, "")
    rollout.promote(FeatureName.SPECULATION, "")
    with pytest.raises(CanaryError):
        rollout.set_canary(FeatureName.SPECULATION, 5.0, "")
    assert comparisons(rollout) == {POOLING: 30}
    assert rollout.comparison.running


def test_another_share_is_compared_anew() -> None:
    rollout = a_rollout(rollout_options({POOLING: canary(10.0)}))
    bad_canary(rollout)
    rollout.set_canary(POOLING, 20.0, "")
    assert comparisons(rollout) == {POOLING: 0}


def test_adaptive_limits_rolled_back_hold_the_last_good_limit_and_come_back_as_configured() -> None:
    governor = a_governor()
    good = governor.last_good_limit
    rollout = a_rollout(rollout_options({}, limits=OPTIONS.limits), governor)
    rollout.roll_back(LIMITS, "it swings")
    held = replace(OPTIONS.limits, strategy=StrategyName.FIXED, min_streams=good, max_streams=good)
    assert governor.options == replace(OPTIONS, limits=held)
    rollout.roll_back(LIMITS, "again")
    assert governor.options.limits == held
    rollout.promote(LIMITS, "")
    assert governor.options == OPTIONS


def test_a_promotion_that_changes_nothing_leaves_an_operators_limits_alone() -> None:
    governor = a_governor()
    rollout = a_rollout(rollout_options({}, limits=replace(OPTIONS.limits, max_streams=99)), governor)
    rollout.promote(LIMITS, "it is on already")
    assert governor.options == OPTIONS


def test_adaptive_limits_that_are_off_are_promoted_to_what_is_configured() -> None:
    off = replace(OPTIONS.limits, strategy=StrategyName.FIXED)
    governor = a_governor(replace(OPTIONS, limits=off))
    rollout = a_rollout(rollout_options({LIMITS: OFF}, limits=OPTIONS.limits), governor)
    rollout.roll_back(LIMITS, "")
    assert governor.options.limits == off
    rollout.promote(LIMITS, "")
    assert governor.options.limits == OPTIONS.limits


def test_those_who_may_start_after_a_change_do() -> None:
    governor = a_governor()
    shell = Shell(governor)
    raised = replace(OPTIONS.limits, strategy=StrategyName.FIXED, min_streams=6)
    rollout = Rollout(rollout_options({LIMITS: OFF}, limits=raised), governor, shell.changed, Clock())
    asked = tickets(governor, 7)
    rollout.promote(LIMITS, "")
    assert shell.admitted == asked[4:6]

"""Features in the configuration: one canary at most, and what the server is given."""

from typing import Any

import pytest

from config import ConfigError, load
from flowcontrol.features import FeatureName, FeatureOptions, FeatureState
from flowcontrol.limits.contract import StrategyName
from service.assembly_options import feature_options, governor_options, rollout_options

OFF_FOR_MOST = {"enabled": False, "canary_percent": 10.0}
RULE = "rule: one feature at most is in canary, since arms could not be told apart"


def problems(environ: dict[str, str], **features: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(None, None, environ, {"features": features})
    return list(caught.value.problems)


def test_two_canaries_are_an_error_that_names_both_keys() -> None:
    [problem] = problems({}, pooling=OFF_FOR_MOST, coalescing={"enabled": False, "tenants": "acme"})
    assert problem.startswith("impossible combination: features.coalescing.tenants = acme (")
    assert "features.pooling.canary_percent = 10.0 (" in problem
    assert problem.endswith(RULE)


def test_the_problem_says_who_set_what() -> None:
    environ = {
        "PENSTOCK_FEATURES__SPECULATION__ENABLED": "false",
        "PENSTOCK_FEATURES__SPECULATION__CANARY_PERCENT": "5",
    }
    [problem] = problems(environ, pooling=OFF_FOR_MOST)
    assert "features.speculation.canary_percent = 5.0 (" in problem
    assert "PENSTOCK_FEATURES__SPECULATION__CANARY_PERCENT" in problem


@pytest.mark.parametrize(
    "features",
    [
        {"pooling": OFF_FOR_MOST},
        {"pooling": {**OFF_FOR_MOST, "tenants": "acme"}},
        # On for every stream: the share is not used.
        {"pooling": OFF_FOR_MOST, "coalescing": {"canary_percent": 10.0}},
        {"pooling": OFF_FOR_MOST, "coalescing": {"enabled": False}},
    ],
)
def test_one_canary_is_allowed(features: dict[str, Any]) -> None:
    load(None, None, {}, {"features": features})


def test_nothing_is_said_of_a_wrong_value() -> None:
    [problem] = problems({}, pooling=OFF_FOR_MOST, coalescing={"enabled": False, "canary_percent": 100.0})
    assert "features.coalescing.canary_percent" in problem
    assert RULE not in problem


def test_the_options_of_every_feature() -> None:
    tried = {"enabled": False, "canary_percent": 12.5, "tenants": " acme, zeta ,"}
    settings = load(None, None, {}, {"features": {"prefix_cache": tried}}).settings
    options = feature_options(settings)
    assert set(options) == set(FeatureName)
    assert options[FeatureName.PREFIX_CACHE] == FeatureOptions(
        enabled=False, canary_percent=12.5, tenants=frozenset({"acme", "zeta"})
    )
    assert {one.state for name, one in options.items() if name is not FeatureName.PREFIX_CACHE} == {
        FeatureState.ON
    }


@pytest.mark.parametrize(
    "off", [{"admission": {"enabled": False}}, {"stream_registry": {"adaptive_limits": {"enabled": False}}}]
)
def test_adaptive_limits_that_are_off_can_be_promoted_to_what_is_configured(off: dict[str, Any]) -> None:
    settings = load(None, None, {}, off).settings
    rollout = rollout_options(settings)
    assert rollout.features[FeatureName.ADAPTIVE_LIMITS].state is FeatureState.OFF
    assert governor_options(settings).limits.strategy is StrategyName.FIXED
    assert rollout.limits == governor_options(load(None, None, {}, {}).settings).limits
    assert (rollout.min_samples, rollout.roll_back, rollout.remote_control) == (50, True, False)

"""Features as options, for servers and rollouts in tests."""

from dataclasses import replace
from typing import Any

from flowcontrol.features import FeatureName, FeatureOptions
from service.options import RolloutOptions
from tests.flowcontrol.admission.governors import governor_options

NO_TENANTS = frozenset[str]()
ON = FeatureOptions(enabled=True, canary_percent=0.0, tenants=NO_TENANTS)
OFF = replace(ON, enabled=False)

ROLLOUT = RolloutOptions(
    features=dict.fromkeys(FeatureName, ON),
    roll_back=True,
    min_samples=5,
    limits=governor_options().limits,
    remote_control=False,
)


def canary(percent: float, *tenants: str) -> FeatureOptions:
    return FeatureOptions(enabled=False, canary_percent=percent, tenants=frozenset(tenants))


def rollout_options(features: dict[FeatureName, FeatureOptions], **changes: Any) -> RolloutOptions:
    """Every feature on, but for those given. changes: other fields of RolloutOptions."""
    return replace(ROLLOUT, features={**ROLLOUT.features, **features}, **changes)

"""Which streams have a feature: shares, stability, states, and one canary at a time."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowcontrol.features import (
    ALL_ON,
    CANARY,
    CONTROL,
    CanaryError,
    FeatureName,
    FeatureOptions,
    FeatureState,
    FeatureTable,
)

TRIED = FeatureName.POOLING
OFF = FeatureOptions(enabled=False, canary_percent=0.0, tenants=frozenset())
FIRST_ARMS = [CONTROL, CANARY, CONTROL, CANARY, CANARY, CONTROL, CANARY, CANARY]
WITH_CANARY = [name for name in FeatureName if name is not FeatureName.ADAPTIVE_LIMITS]


def table(percent: float = 0.0, *tenants: str, name: FeatureName = TRIED) -> FeatureTable:
    """All features off, but for one that may have a canary."""
    tried = FeatureOptions(enabled=False, canary_percent=percent, tenants=frozenset(tenants))
    return FeatureTable({**dict.fromkeys(FeatureName, OFF), name: tried}, 0.0)


def arms(features: FeatureTable, streams: int, tenant: str = "") -> list[str]:
    return [features.of(f"request-{number}", tenant).arm for number in range(streams)]


@pytest.mark.parametrize("name", WITH_CANARY)
@pytest.mark.parametrize("percent", [0.1, 1.0, 10.0, 50.0, 99.0])
def test_the_share_is_what_was_asked_for(name: FeatureName, percent: float) -> None:
    """Ids that differ in one digit are dealt as evenly as any: within five standard deviations."""
    streams, share = 20_000, percent / 100
    got = arms(table(percent, name=name), streams).count(CANARY)
    assert abs(got - streams * share) < 5 * math.sqrt(streams * share * (1 - share)) + 1


def test_the_arms_of_two_features_have_nothing_to_do_with_each_other() -> None:
    one, other = (arms(table(50.0, name=name), 20_000) for name in WITH_CANARY[:2])
    both = sum(pair == (CANARY, CANARY) for pair in zip(one, other, strict=True))
    assert 4_700 < both < 5_300


def test_another_process_deals_the_same() -> None:
    """Python's own hash differs from process to process; replicas must agree."""
    program = (
        "from tests.flowcontrol.test_features import arms, table\n"
        "print(','.join(arms(table(30.0), 200)), end='')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split(",") == arms(table(30.0), 200)


def test_the_deal_is_for_ever() -> None:
    """Another hash would move streams that are resumed after an update to the other arm."""
    assert arms(table(50.0), 8) == FIRST_ARMS


@given(st.text(max_size=128), st.floats(0.01, 99.99), st.floats(0.01, 99.99))
def test_a_higher_share_keeps_who_is_in(request_id: str, one: float, other: float) -> None:
    less, more = sorted((one, other))
    if table(less).of(request_id, "").arm == CANARY:
        assert table(more).of(request_id, "").arm == CANARY


def test_no_canary_is_control_for_everyone() -> None:
    assert set(arms(table(), 1000)) == {CONTROL}


def test_a_listed_tenant_is_in_the_canary_whatever_the_share() -> None:
    features = table(0.0, "acme")
    assert set(arms(features, 50, "acme")) == {CANARY}
    assert set(arms(features, 50, "other") + arms(features, 50)) == {CONTROL}
    assert features.of("x", "acme").on == {TRIED}


def test_the_canary_arm_has_the_feature_and_the_control_arm_has_not() -> None:
    on = replace(OFF, enabled=True)
    features = FeatureTable(
        {
            **dict.fromkeys(FeatureName, on),
            TRIED: FeatureOptions(enabled=False, canary_percent=50.0, tenants=frozenset()),
        },
        0.0,
    )
    seen = {features.of(str(number), "") for number in range(100)}
    assert {(one.arm, one.on) for one in seen} == {
        (CANARY, frozenset(FeatureName)),
        (CONTROL, frozenset(FeatureName) - {TRIED}),
    }


def test_what_everything_on_means() -> None:
    features = FeatureTable(dict.fromkeys(FeatureName, replace(OFF, enabled=True)), 0.0)
    assert features.of("x", "y") == ALL_ON


@pytest.mark.parametrize(
    ("options", "state"),
    [
        (OFF, FeatureState.OFF),
        (replace(OFF, enabled=True), FeatureState.ON),
        (replace(OFF, enabled=True, canary_percent=5.0), FeatureState.ON),
        (replace(OFF, canary_percent=5.0), FeatureState.CANARY),
        (replace(OFF, tenants=frozenset({"acme"})), FeatureState.CANARY),
    ],
)
def test_where_a_feature_begins(options: FeatureOptions, state: FeatureState) -> None:
    features = FeatureTable({**dict.fromkeys(FeatureName, OFF), TRIED: options}, 7.0)
    [tried] = [one for one in features.snapshot() if one.name is TRIED]
    assert (tried.state, tried.reason, tried.changed_s) == (state, "", 7.0)
    assert features.canary is (TRIED if state is FeatureState.CANARY else None)


def test_two_canaries_to_begin_with_are_refused() -> None:
    tried = replace(OFF, canary_percent=5.0)
    options = {**dict.fromkeys(FeatureName, OFF), TRIED: tried, FeatureName.COALESCING: tried}
    with pytest.raises(CanaryError, match="pooling cannot be in canary while coalescing is") as caught:
        FeatureTable(options, 0.0)
    assert caught.value.other is FeatureName.COALESCING


def test_adaptive_limits_have_no_canary() -> None:
    features = table()
    with pytest.raises(CanaryError, match="all streams share one limit") as caught:
        features.set_canary(FeatureName.ADAPTIVE_LIMITS, 10.0, "", 1.0)
    assert caught.value.other is None
    features.promote(FeatureName.ADAPTIVE_LIMITS, "", 1.0)
    assert features.state(FeatureName.ADAPTIVE_LIMITS) is FeatureState.ON


def test_a_change_says_when_and_why() -> None:
    features = table(10.0, "acme")
    features.roll_back(TRIED, "too slow", 12.5)
    [tried] = [one for one in features.snapshot() if one.name is TRIED]
    assert (tried.state, tried.canary_percent) == (FeatureState.ROLLED_BACK, 0.0)
    assert (tried.reason, tried.changed_s, tried.tenants) == ("too slow", 12.5, frozenset({"acme"}))
    assert features.of("x", "acme") == features.of("y", "")


class ChangesFollowTheModel(RuleBasedStateMachine):
    """The reference is the state of each feature; an arm is a set of ids."""

    @initialize()
    def begin(self) -> None:
        self.features = table()
        self.states = dict.fromkeys(FeatureName, FeatureState.OFF)
        self.percent = 0.0

    @rule(name=st.sampled_from(FeatureName))
    def promote(self, name: FeatureName) -> None:
        self.features.promote(name, "", 0.0)
        self.states[name] = FeatureState.ON

    @rule(name=st.sampled_from(FeatureName))
    def roll_back(self, name: FeatureName) -> None:
        self.features.roll_back(name, "", 0.0)
        self.states[name] = FeatureState.ROLLED_BACK

    @rule(name=st.sampled_from(FeatureName), percent=st.sampled_from((1.0, 50.0, 99.0)))
    def start(self, name: FeatureName, percent: float) -> None:
        others = [one for one, state in self.states.items() if state is FeatureState.CANARY and one != name]
        if others or name is FeatureName.ADAPTIVE_LIMITS:
            before = self.features.snapshot()
            with pytest.raises(CanaryError):
                self.features.set_canary(name, percent, "", 0.0)
            assert self.features.snapshot() == before
            return
        self.features.set_canary(name, percent, "", 0.0)
        self.states[name], self.percent = FeatureState.CANARY, percent

    @invariant()
    def states_are_those_of_the_model(self) -> None:
        shown = self.features.snapshot()
        assert [one.name for one in shown] == sorted(FeatureName)
        assert {one.name: one.state for one in shown} == self.states
        in_canary = {one.canary_percent for one in shown if one.state is FeatureState.CANARY}
        assert in_canary <= {self.percent}
        assert all(one.canary_percent == 0 for one in shown if one.state is not FeatureState.CANARY)

    @invariant()
    def streams_have_what_is_on(self) -> None:
        on = {name for name, state in self.states.items() if state is FeatureState.ON}
        tried = {name for name, state in self.states.items() if state is FeatureState.CANARY}
        for number in range(20):
            given_one = self.features.of(str(number), "")
            assert given_one.on == (on | tried if given_one.arm == CANARY else on)
            assert tried or given_one.arm == CONTROL


TestChanges = ChangesFollowTheModel.TestCase

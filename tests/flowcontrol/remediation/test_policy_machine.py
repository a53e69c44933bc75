"""Random signals and owners: the policy's promises hold after every step."""

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowcontrol.limits.contract import StrategyName
from flowcontrol.remediation.actions import ONE_SHOT, Key, Outcome, Step, StepKind
from flowcontrol.remediation.brakes import HOUR_S
from flowcontrol.remediation.contract import RemediationOptions
from flowcontrol.remediation.journal import LATEST
from flowcontrol.remediation.policy import Policy
from flowcontrol.remediation.signals import FeatureSignal, LimitSignal, Signals, TenantSignal, WorkerSignal
from flowcontrol.slo_verdict import Objective
from tests.flowcontrol.remediation.situations import HEALTHY, INTERVAL_S, slo

BURNS = st.none() | st.sampled_from([0.2, 0.95, 1.5, 8.0])
SLOS = st.fixed_dictionaries({name.value: BURNS for name in Objective}).map(lambda burns: slo(**burns))
WORKERS = st.tuples(
    *(
        st.builds(
            WorkerSignal,
            model=st.just("m"),
            index=st.just(index),
            ready=st.booleans(),
            suspect=st.booleans(),
            silent_s=st.just(1.0),
            step_ms=st.none() | st.sampled_from([10.0, 20.0, 500.0]),
            restarts=st.just(0),
        )
        for index in range(2)
    )
)
SHARES = st.sampled_from([0.0, 0.2, 0.45, 0.9])
TENANTS = st.tuples(*(st.builds(TenantSignal, st.just(name), SHARES, st.booleans()) for name in "ab"))
SIGNALS = st.builds(
    Signals,
    slo=SLOS,
    limit=st.builds(
        LimitSignal,
        strategy=st.sampled_from([StrategyName.PID, StrategyName.FIXED]),
        limit=st.integers(1, 5),
        min_streams=st.just(1),
        swings=st.integers(0, 4),
    ),
    workers=WORKERS,
    kv_use=st.sampled_from([0.2, 0.8, 0.99]),
    kv_refusals=st.integers(0, 1),
    kv_evictions=st.integers(0, 1),
    tenants=TENANTS,
    prefill_share=st.none() | st.sampled_from([0.1, 0.3, 0.8]),
    features=st.just(()) | st.just((FeatureSignal("pooling", "slower"),)),
)
CALM = replace(HEALTHY, limit=LimitSignal(StrategyName.PID, 3, 1, 0))
# Tenants 2, workers 2, feature 1, and the four actions on the server.
KEYS = 9


class PolicyMachine(RuleBasedStateMachine):
    @initialize(
        act=st.sampled_from([True, True, True, False]),
        cool_down_s=st.sampled_from([0.0, 30.0, 80.0]),
        per_hour=st.integers(1, 12),
        swings=st.integers(1, 3),
        failures=st.integers(1, 6),
    )
    def begin(self, act: bool, cool_down_s: float, per_hour: int, swings: int, failures: int) -> None:
        self.options = RemediationOptions(act, cool_down_s, per_hour, swings, failures)
        self.policy = Policy(self.options)
        self.now_s = 0.0
        self.taken_s: list[float] = []
        self.last_s: dict[Key, float] = {}
        self.in_force: set[Key] = set()
        self.undone_s: dict[Key, list[float]] = defaultdict(list)
        self.under_way: list[Step] = []
        self.signals = HEALTHY

    def decide(self, signals: Signals) -> None:
        self.now_s += INTERVAL_S
        suspended = self.policy.snapshot(self.now_s).suspended
        steps = self.policy.decide(signals, self.now_s)
        assert self.options.act or not steps
        assert len({step.key for step in steps + self.under_way}) == len(steps) + len(self.under_way)
        for step in steps:
            if step.kind is StepKind.TAKE:
                assert not suspended
                self.check_take(step.key)
            else:
                assert step.key in self.in_force, "undone without having been taken"
        self.under_way += steps

    def check_take(self, key: Key) -> None:
        last_s = self.last_s.get(key)
        assert last_s is None or self.now_s - last_s >= self.options.cool_down_s
        self.last_s[key] = self.now_s
        self.taken_s.append(self.now_s)
        lately = [at for at in self.taken_s if self.now_s - at < HOUR_S]
        assert len(lately) <= self.options.max_actions_per_hour

    @rule(signals=SIGNALS, times=st.sampled_from([1, 1, 3, 8]), error=st.sampled_from([None, None, "cannot"]))
    def look(self, signals: Signals, times: int, error: str | None) -> None:
        for _ in range(times):
            self.decide(signals)
            self.report_all(error)

    @rule(signals=SIGNALS)
    def look_and_be_slow(self, signals: Signals) -> None:
        self.decide(signals)

    @rule(error=st.none() | st.just("cannot"))
    def report_all(self, error: str | None) -> None:
        for step in self.under_way:
            self.policy.report(step, error, self.now_s)
            if error is not None:
                continue
            if step.kind is StepKind.UNDO:
                self.in_force.remove(step.key)
                self.undone_s[step.key].append(self.now_s)
            elif step.action not in ONE_SHOT:
                self.in_force.add(step.key)
        self.under_way = []

    @rule(after_s=st.sampled_from([100.0, 4000.0]))
    def time_passes(self, after_s: float) -> None:
        self.now_s += after_s

    @precondition(lambda self: not self.under_way)
    @rule()
    def all_is_well_in_the_end(self) -> None:
        """What is held takes until the hold is over, and an undo two good evaluations."""
        hold_s = max(10 * self.options.cool_down_s, HEALTHY.slo.slow_window_s)
        for _ in range(int(hold_s / INTERVAL_S) + 4):
            self.decide(CALM)
            assert all(step.kind is StepKind.UNDO for step in self.under_way)
            self.report_all(None)
        assert self.policy.snapshot(self.now_s).active == ()
        assert self.in_force == set()

    @invariant()
    def what_is_in_force_is_what_was_taken_and_not_undone(self) -> None:
        snapshot = self.policy.snapshot(self.now_s)
        active = {(event.action, event.subject) for event in snapshot.active}
        if self.options.act:
            assert active == self.in_force
        assert all(event.outcome in (Outcome.TAKEN, Outcome.HELD) for event in snapshot.active)
        assert not any(event.action in ONE_SHOT for event in snapshot.active)

    @invariant()
    def swings_are_bounded(self) -> None:
        """Between two holds, at most max_swings undos of the same in an hour; a hold takes its time."""
        hold_s = max(10 * self.options.cool_down_s, HEALTHY.slo.slow_window_s)
        most = (self.options.max_swings + 1) * (1 + int(HOUR_S / hold_s))
        for undone_s in self.undone_s.values():
            assert sum(self.now_s - at < HOUR_S for at in undone_s) <= most

    @invariant()
    def memory_is_bounded(self) -> None:
        snapshot = self.policy.snapshot(self.now_s)
        assert len(snapshot.events) <= LATEST
        assert len(snapshot.active) <= KEYS
        for kept in vars(self.policy).values():
            if isinstance(kept, dict | set):
                assert len(kept) <= KEYS


# With coverage it would take three times as long.
TestPolicy = pytest.mark.no_cover(PolicyMachine.TestCase)
TestPolicy.settings = settings(max_examples=60, stateful_step_count=30)

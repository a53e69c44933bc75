"""The guard: intervals, objectives, and how soon faults show."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowcontrol.slo import SloGuard, SloOptions, SloSnapshot
from flowcontrol.slo_verdict import Objective, ObjectiveSnapshot, Verdict
from tests.flowcontrol.slo_options import SLO

START_S = 1000.0
GOOD_S, BAD_S = 0.5, 9.0


class Service:
    """A guard that is told of as many first tokens a second, in virtual time."""

    def __init__(self, options: SloOptions = SLO, per_s: int = 2) -> None:
        self.now_s, self.per_s = START_S, per_s
        self.guard = SloGuard(options, START_S)

    def run(self, seconds: int, bad_share: float = 0.0) -> list[SloSnapshot]:
        """The snapshot of each evaluation."""
        found = []
        for _ in range(seconds):
            for i in range(self.per_s):
                ttft_s = BAD_S if i < self.per_s * bad_share else GOOD_S
                self.guard.first_token(ttft_s)
            self.now_s += 1
            if self.now_s >= self.guard.next_deadline():
                found.append(self.guard.evaluate(self.now_s))
        return found


def objective(snapshot: SloSnapshot, name: Objective = Objective.TTFT_P95) -> ObjectiveSnapshot:
    found = snapshot.find(name)
    assert found is not None
    return found


def verdicts(snapshots: list[SloSnapshot], name: Objective = Objective.TTFT_P95) -> list[Verdict]:
    return [objective(snapshot, name).verdict for snapshot in snapshots]


def test_nothing_is_said_before_the_first_evaluation() -> None:
    snapshot = Service().guard.snapshot()
    assert snapshot.evaluated_s == START_S
    assert [each.name for each in snapshot.objectives] == list(Objective)
    assert {each.verdict for each in snapshot.objectives} == {Verdict.UNKNOWN}


def test_objectives_can_be_left_out() -> None:
    options = replace(SLO, ttft_p50_s=0.0, inter_token_p95_s=0.0, max_refusal_rate=1.0)
    service = Service(options)
    service.guard.gaps([1.0] * 100)
    service.guard.requests(100, 100)
    snapshot = service.run(10)[0]
    assert [each.name for each in snapshot.objectives] == [
        Objective.TTFT_P95,
        Objective.INFRASTRUCTURE_CANCELLATIONS,
    ]
    assert snapshot.find(Objective.REFUSAL_RATE) is None


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"interval_s": 0.0}, "interval_s"),
        ({"fast_window_s": 5.0}, "fast_window_s"),
        ({"slow_window_s": 20.0}, "slow_window_s"),
        ({"min_samples": 0}, "min_samples"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(SLO, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [Objective.TTFT_P50, Objective.TTFT_P95])
@pytest.mark.parametrize(("per_s", "good_s"), [(2, 0), (2, 600), (2, 4 * 3600), (20, 600)])
def test_a_fault_shows_within_two_evaluations_however_long_all_was_well(
    name: Objective, per_s: int, good_s: int
) -> None:
    service = Service(per_s=per_s)
    service.run(good_s)
    assert Verdict.BREACHED in verdicts(service.run(20, bad_share=1.0), name)


def test_one_slow_worker_of_four_shows_within_two_evaluations() -> None:
    service = Service(per_s=20)
    service.run(400)
    assert verdicts(service.run(20, bad_share=0.25))[-1] is Verdict.BREACHED


def test_a_short_spike_within_the_budget_is_no_breach() -> None:
    service = Service(per_s=20)
    service.run(400)
    assert set(verdicts(service.run(10, bad_share=0.2) + service.run(120))) == {Verdict.MET}


def test_a_small_excess_is_a_breach_once_the_slow_window_shows_it() -> None:
    service = Service(per_s=20)
    service.run(400)
    found = verdicts(service.run(600, bad_share=0.1))
    assert found[0] is Verdict.MET
    assert found[-1] is Verdict.BREACHED
    assert found.index(Verdict.BREACHED) > 15


@pytest.mark.parametrize("per_s", [1, 2, 20])
@pytest.mark.parametrize("bad_share", [0.5, 1.0])
def test_after_a_fault_the_verdict_changes_once_and_for_good(per_s: int, bad_share: float) -> None:
    service = Service(per_s=per_s)
    service.run(300)
    service.run(120, bad_share=bad_share)
    found = verdicts(service.run(600))
    assert found[0] is Verdict.BREACHED
    assert found == sorted(found, key=lambda each: each is Verdict.MET)
    assert found[-1] is Verdict.MET


def test_with_much_traffic_a_breach_ends_as_soon_as_the_fast_window_is_good() -> None:
    service = Service(per_s=20)
    service.run(60, bad_share=1.0)
    assert verdicts(service.run(30)) == [Verdict.BREACHED, Verdict.BREACHED, Verdict.MET]


def test_without_traffic_a_breach_is_over_after_a_slow_window() -> None:
    service = Service()
    service.run(60, bad_share=1.0)
    service.per_s = 0
    found = [objective(each) for each in service.run(400)]
    kept = [each for each in found if each.breached_since_s is not None]
    assert kept[-1].verdict is Verdict.UNKNOWN
    assert 28 <= len(kept) <= 33
    assert found[-1].breached_since_s is None


def test_values_are_those_of_the_windows() -> None:
    service = Service()
    service.guard.gaps([0.1] * 94 + [0.3] * 6)
    service.guard.requests(200, 2)
    for lost in (True, *[False] * 99):
        service.guard.ended(lost)
    first = service.run(10)[0]
    gap = objective(first, Objective.INTER_TOKEN_P95)
    assert gap.fast == pytest.approx(0.3, rel=0.011)
    assert gap.fast_burn == pytest.approx(1.2)
    refused = objective(first, Objective.REFUSAL_RATE)
    assert (refused.fast, refused.samples) == (0.01, 200)
    assert refused.fast_burn == pytest.approx(0.2)
    assert objective(first, Objective.INFRASTRUCTURE_CANCELLATIONS).fast == 0.01
    assert objective(first).fast == pytest.approx(GOOD_S, rel=0.011)
    # They leave the fast window after three intervals, not the slow one.
    later = objective(service.run(30)[-1], Objective.REFUSAL_RATE)
    assert (later.fast, later.samples, later.slow) == (None, 0, 0.01)
    assert objective(service.run(280)[-1], Objective.REFUSAL_RATE).slow is None


def test_many_gaps_are_counted_exactly() -> None:
    service = Service()
    service.guard.gaps([0.1] * 9_999 + [0.3])
    found = objective(service.run(10)[0], Objective.INTER_TOKEN_P95)
    assert found.samples == 10_000
    assert found.fast_burn == pytest.approx(1e-4 / 0.05)


def test_what_comes_before_a_late_evaluation_is_part_of_it() -> None:
    guard = SloGuard(SLO, START_S)
    for _ in range(30):
        guard.first_token(BAD_S)
    assert guard.evaluate(START_S + 9) is guard.snapshot()
    assert guard.next_deadline() == START_S + 10
    assert objective(guard.evaluate(START_S + 13)).samples == 30
    assert guard.next_deadline() == START_S + 20
    guard.first_token(GOOD_S)
    # Between two ends nothing is evaluated anew.
    assert guard.evaluate(START_S + 19) is guard.snapshot()
    assert guard.snapshot().evaluated_s == START_S + 13
    assert objective(guard.evaluate(START_S + 35)).samples == 31
    assert guard.next_deadline() == START_S + 40


def test_what_comes_after_missed_evaluations_stays_for_a_whole_window() -> None:
    guard = SloGuard(SLO, START_S)
    for _ in range(30):
        guard.first_token(BAD_S)
    assert objective(guard.evaluate(START_S + 95)).samples == 30
    assert [objective(guard.evaluate(START_S + now_s)).samples for now_s in (100, 110, 120)] == [30, 30, 0]


class GuardMachine(RuleBasedStateMachine):
    """Random traffic: verdicts follow from what is told."""

    @initialize(per_fast=st.integers(1, 4), per_slow=st.integers(1, 30))
    def begin(self, per_fast: int, per_slow: int) -> None:
        fast_s = 10.0 * per_fast
        self.options = replace(SLO, fast_window_s=fast_s, slow_window_s=fast_s * per_slow, min_samples=5)
        self.now_s = START_S
        self.guard = SloGuard(self.options, START_S)
        self.before = self.guard.snapshot()

    @rule(good=st.integers(0, 40), bad=st.integers(0, 40))
    def first_tokens(self, good: int, bad: int) -> None:
        for ttft_s in (*[GOOD_S] * good, *[BAD_S] * bad):
            self.guard.first_token(ttft_s)

    @rule(asked=st.integers(0, 50), share=st.floats(0, 1), infrastructure=st.booleans())
    def ends(self, asked: int, share: float, infrastructure: bool) -> None:
        self.guard.requests(asked, int(asked * share))
        self.guard.gaps([0.01, 0.5] * asked)
        self.guard.ended(infrastructure)

    @rule(after_s=st.floats(0, 25) | st.floats(0, 5000))
    def time_passes(self, after_s: float) -> None:
        self.now_s += after_s
        due = self.guard.next_deadline() <= self.now_s
        self.before = self.guard.snapshot()
        assert (self.guard.evaluate(self.now_s) is not self.before) == due
        assert self.guard.next_deadline() > self.now_s

    @invariant()
    def verdicts_are_sound(self) -> None:
        for before, each in zip(self.before.objectives, self.guard.snapshot().objectives, strict=True):
            assert (each.verdict is Verdict.UNKNOWN) == (each.samples < self.options.min_samples)
            if each.verdict is Verdict.BREACHED:
                assert each.breached_since_s is not None
            if each.verdict is Verdict.MET:
                assert each.breached_since_s is None
            if before.breached_since_s is None and each.breached_since_s is not None:
                assert each.fast_burn is not None
                assert each.fast_burn > 1
            if before.breached_since_s is not None and each.verdict is Verdict.MET:
                assert each.fast_burn is not None
                assert each.fast_burn < 0.9


# With coverage it would take three times as long.
TestGuard = pytest.mark.no_cover(GuardMachine.TestCase)
TestGuard.settings = settings(max_examples=40, stateful_step_count=40)

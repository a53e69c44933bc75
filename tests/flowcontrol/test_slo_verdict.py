"""When a breach begins and ends, by the numbers of both windows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.slo_verdict import Judge, Objective, ObjectiveSnapshot, Target, Verdict
from flowcontrol.slo_window import Events

P50 = Target(Objective.TTFT_P50, 1.0, 0.5, 0.5)
P95 = Target(Objective.TTFT_P95, 5.0, 0.05, 0.95)
LOST = Target(Objective.INFRASTRUCTURE_CANCELLATIONS, 0.005, 0.005, None)
NEVER = Target(Objective.REFUSAL_RATE, 0.0, 0.0, None)
SLOW_WINDOW_S = 300.0


class Looks:
    """A judge that is asked every 10 s."""

    def __init__(self, target: Target) -> None:
        self.now_s = 0.0
        self.judge = Judge(target, min_samples=20, slow_window_s=SLOW_WINDOW_S, now_s=0.0)

    def look(self, fast: tuple[int, int], slow: tuple[int, int]) -> ObjectiveSnapshot:
        """Each (bad, all)."""
        self.now_s += 10
        return self.judge.evaluate(events(fast), events(slow), self.now_s)

    def breached(self) -> "Looks":
        assert self.look((100, 100), (1000, 1000)).verdict is Verdict.BREACHED
        return self


def events(numbers: tuple[int, int]) -> Events:
    bad, all_ = numbers
    return Events(bad, all_, 2.5 if all_ else None)


def test_times_are_told_from_shares() -> None:
    times = {Objective.TTFT_P50, Objective.TTFT_P95, Objective.INTER_TOKEN_P95}
    assert {objective for objective in Objective if objective.is_time} == times


@pytest.mark.parametrize(
    ("target", "fast", "slow", "begins"),
    [
        # Clear in the fast window, however good the slow one is.
        (P95, (60, 300), (60, 1_000_000), True),
        (P95, (45, 300), (45, 1_000_000), False),
        (P50, (70, 100), (70, 1_000_000), True),
        (P50, (62, 100), (62, 1_000_000), False),
        # Clear, and by chance: 13 of 20 over a median is no wonder, and 17 are.
        (P50, (13, 20), (13, 200), False),
        (P50, (17, 20), (17, 200), True),
        # Both windows above 1, the slow one beyond chance.
        (P95, (20, 300), (200, 3000), True),
        (P95, (20, 300), (160, 3000), False),
        (P95, (15, 300), (200, 3000), False),
        # One stream lost is no trend, and two of few are.
        (LOST, (1, 20), (1, 20), False),
        (LOST, (2, 20), (2, 20), True),
        (NEVER, (2, 20), (2, 20), True),
        # Too few to say anything.
        (P95, (19, 19), (19, 1000), False),
    ],
)
def test_a_breach_begins(target: Target, fast: tuple[int, int], slow: tuple[int, int], begins: bool) -> None:
    found = Looks(target).look(fast, slow)
    assert (found.breached_since_s == 10) is begins
    assert (found.verdict is Verdict.BREACHED) is begins
    assert found.burning is begins


@pytest.mark.parametrize(
    ("target", "fast", "slow", "ends"),
    [
        # Hysteresis: between 0.9 and 1 it goes on.
        (P95, (14, 300), (14, 3000), False),
        (P95, (13, 300), (1000, 3000), True),
        (P50, (8, 20), (100, 200), True),
        # 59 samples could have none bad and 5 % bad in truth: the slow window must agree.
        (P95, (0, 59), (30, 300), False),
        (P95, (0, 59), (15, 300), True),
        (P95, (0, 60), (30, 300), True),
        (NEVER, (0, 1000), (1, 10_000), False),
        (NEVER, (0, 1000), (0, 10_000), True),
    ],
)
def test_a_breach_ends(target: Target, fast: tuple[int, int], slow: tuple[int, int], ends: bool) -> None:
    found = Looks(target).breached().look(fast, slow)
    assert found.verdict is (Verdict.MET if ends else Verdict.BREACHED)
    assert found.breached_since_s == (None if ends else 10)
    assert not found.burning


def test_without_samples_a_breach_lasts_for_a_slow_window_and_is_not_told_as_one() -> None:
    looks = Looks(P95).breached()
    found = [looks.look((0, 0), (100, 1000)) for _ in range(30)]
    assert {each.verdict for each in found} == {Verdict.UNKNOWN}
    assert [each.breached_since_s for each in found] == [*[10.0] * 29, None]


def test_too_few_samples_tell_no_values() -> None:
    found = Looks(LOST).look((1, 19), (2, 40))
    assert (found.fast, found.fast_burn, found.slow, found.samples) == (None, None, 0.05, 19)
    assert found.slow_burn == pytest.approx(10)
    empty = Looks(LOST).look((0, 0), (0, 0))
    assert (empty.slow, empty.slow_burn) == (None, None)


def test_values_are_at_the_quantile_or_rates() -> None:
    assert Looks(P95).look((1, 20), (2, 200)).fast == 2.5
    found = Looks(LOST).look((1, 20), (2, 200))
    assert (found.fast, found.slow) == (0.05, 0.01)
    assert Target.value(LOST, events((0, 0))) is None


@given(st.floats(0, 1), st.integers(0, 1000), st.integers(0, 1000))
def test_burn_is_a_number_that_grows_with_what_is_bad(budget: float, bad: int, more: int) -> None:
    target = Target(Objective.REFUSAL_RATE, budget, budget, None)
    all_ = bad + more
    assert 0 <= target.burn(events((bad, all_))) <= target.burn(events((all_, all_))) < 1e10
    assert 1 <= target.clear_burn <= 3

"""The arms of a canary: what is found, how soon, and how seldom without a cause."""

import math
from itertools import combinations
from random import Random

import pytest

from flowcontrol.arm_comparison import (
    ArmComparison,
    Verdict,
    VerdictKind,
    chance_of_tail,
    hypergeometric_tail,
    z_of_ranks,
)
from flowcontrol.features import CANARY, CONTROL

LEAST = 50
TOO_FEW = Verdict(VerdictKind.TOO_FEW, "too few samples")
ALIKE = Verdict(VerdictKind.NO_DIFFERENCE, "no difference")


def comparison() -> ArmComparison:
    begun = ArmComparison(LEAST)
    begun.begin()
    return begun


def put(
    arms: ArmComparison,
    arm: str,
    ttft_s: float = 0.4,
    *,
    streams: int = 1,
    token_s: float | None = 0.02,
    failed: bool = False,
) -> None:
    """Streams with a first token and an end."""
    for _ in range(streams):
        arms.first_token(arm, ttft_s)
        arms.ended(arm, infrastructure=failed, token_s=token_s)


def spread(arms: ArmComparison, arm: str, *, factor: float = 1.0, streams: int = 400) -> None:
    """Times to first token from 0.1 s to 1 s, times a factor."""
    for number in range(streams):
        put(arms, arm, factor * (0.1 + 0.9 * number / streams))


class Traffic:
    """Streams in bursts that share a load, dealt to the arms by chance, as a server sees them."""

    def __init__(self, seed: int, *, share: float = 0.5, slower_s: float = 0.0, spread: float = 0.8) -> None:
        self.arms = comparison()
        self._random = Random(seed)
        self._share = share
        self._slower_s = slower_s
        self._spread = spread

    def run(self, streams: int) -> Verdict:
        draw = self._random
        left = streams
        while left > 0:
            burst = min(left, draw.choice((1, 1, 1, 5, 20)))
            load, step_s, fault = (
                draw.lognormvariate(0, 0.5),
                0.02 * draw.lognormvariate(0, 0.3),
                draw.random(),
            )
            for _ in range(burst):
                arm = CANARY if draw.random() < self._share else CONTROL
                ttft_s = 0.4 * load * draw.lognormvariate(0, self._spread)
                self.arms.first_token(arm, ttft_s + (self._slower_s if arm == CANARY else 0.0))
                failed = fault < 0.001 or draw.random() < 0.004
                token_s = step_s * draw.lognormvariate(0, 0.1)
                self.arms.ended(arm, infrastructure=failed, token_s=token_s)
            left -= burst
        return self.arms.verdict()


@pytest.mark.timeout(300)
# With coverage it would take four times as long.
@pytest.mark.no_cover
def test_canaries_without_a_difference_are_hardly_ever_found_to_differ() -> None:
    """500 canaries of 400 streams, looked at 10 times each; docs/features.md has a longer run."""
    found = 0
    for seed in range(500):
        traffic = Traffic(seed, share=0.5 if seed % 2 else 0.3)
        kinds = {traffic.run(40).kind for _ in range(10)}
        found += bool(kinds & {VerdictKind.WORSE, VerdictKind.BETTER})
    assert found <= 2


def test_300_ms_more_are_found_within_three_looks() -> None:
    """Counted from the look at which both arms have enough samples; 0.4 s to first token without them."""
    looks = []
    for seed in range(100):
        traffic = Traffic(seed, slower_s=0.3, spread=0.3)
        kinds = [traffic.run(100).kind for _ in range(6)]
        enough = next(look for look, kind in enumerate(kinds) if kind is not VerdictKind.TOO_FEW)
        looks.append(kinds.index(VerdictKind.WORSE) - enough + 1)
    assert max(looks) <= 3


@pytest.mark.parametrize("slower_s", [0.3, 1.0])
def test_it_is_found_in_a_small_canary_too(slower_s: float) -> None:
    traffic = Traffic(1, share=0.02, slower_s=slower_s, spread=0.3)
    traffic.run(4000)
    assert traffic.run(4000).text.startswith("worse: time to first token p50 ")


def test_nothing_is_said_of_few_samples() -> None:
    arms = comparison()
    assert arms.verdict() == TOO_FEW
    put(arms, CONTROL, streams=500)
    put(arms, CANARY, 60.0, streams=LEAST - 1, token_s=None)
    assert arms.verdict() == TOO_FEW
    put(arms, CANARY, 60.0, token_s=None)
    assert arms.verdict().kind is VerdictKind.WORSE


def test_equal_arms_do_not_differ() -> None:
    arms = comparison()
    for arm in (CONTROL, CANARY):
        spread(arms, arm)
    assert arms.verdict() == ALIKE


def test_what_is_worse_is_said_with_both_numbers() -> None:
    arms = comparison()
    spread(arms, CONTROL)
    spread(arms, CANARY, factor=2.0)
    parts = arms.verdict().text.removeprefix("worse: ").split("; ")
    assert [part.rsplit(" ms against ", 1)[0].rsplit(" ", 1)[0] for part in parts] == [
        "time to first token p50",
        "time to first token p95",
    ]
    assert [float(part.split()[-2]) for part in parts] == pytest.approx([550, 955], rel=0.02)


def test_the_other_way_round_it_is_better() -> None:
    arms = comparison()
    spread(arms, CONTROL, factor=2.0)
    spread(arms, CANARY)
    assert arms.verdict() == Verdict(VerdictKind.BETTER, "better")


def test_a_slow_tenth_alone_is_found_in_the_tail() -> None:
    arms = comparison()
    for arm in (CONTROL, CANARY):
        put(arms, arm, 0.4, streams=450)
    put(arms, CONTROL, 0.4, streams=50)
    put(arms, CANARY, 4.0, streams=50)
    text = arms.verdict().text
    assert text.startswith("worse: time to first token p95 ")
    assert "p50" not in text


@pytest.mark.parametrize(
    ("control_s", "canary_s"),
    [
        (1.0, 1.08),  # less than a tenth
        (0.05, 0.068),  # less than 20 ms
    ],
)
def test_a_certain_difference_that_does_not_matter_is_none(control_s: float, canary_s: float) -> None:
    arms = comparison()
    put(arms, CONTROL, control_s, streams=5000)
    put(arms, CANARY, canary_s, streams=5000)
    assert arms.verdict() == ALIKE


def test_slower_tokens_are_found() -> None:
    arms = comparison()
    put(arms, CONTROL, streams=100, token_s=0.020)
    put(arms, CANARY, streams=100, token_s=0.030)
    assert arms.verdict().text == "worse: time between tokens p50 30 ms against 20 ms"


def test_failures_are_found_without_a_single_first_token() -> None:
    arms = comparison()
    for arm in (CONTROL, CANARY):
        for number in range(100):
            failed = arm == CANARY and number % 4 == 0
            arms.ended(arm, infrastructure=failed, token_s=None)
    assert arms.verdict().text == "worse: failed streams 25.0% against 0.0%"


def test_one_failure_in_a_small_canary_says_nothing() -> None:
    """A normal approximation would take it for ten standard deviations."""
    arms = comparison()
    put(arms, CONTROL, streams=5000)
    put(arms, CANARY, streams=LEAST)
    put(arms, CANARY, failed=True)
    assert arms.verdict() == ALIKE


def test_a_few_more_failures_among_many_do_not_matter() -> None:
    arms = comparison()
    put(arms, CONTROL, streams=20_000)
    put(arms, CANARY, streams=20_000)
    put(arms, CANARY, streams=40, failed=True)
    assert arms.verdict() == ALIKE


def test_what_is_shown_of_an_arm() -> None:
    arms = comparison()
    put(arms, CANARY, 0.5, streams=3)
    put(arms, CANARY, 0.0, failed=True)
    arms.gaps(CANARY, [0.01, 0.02, 0.03])
    shown = arms.snapshot()
    assert (shown.canary.streams, shown.canary.failed, shown.verdict) == (4, 1, TOO_FEW)
    assert shown.canary.ttft_p50_s == pytest.approx(0.5, rel=0.011)
    assert shown.canary.inter_token_p95_s == pytest.approx(0.02, rel=0.011)
    assert (shown.control.streams, shown.control.ttft_p50_s, shown.control.inter_token_p95_s) == (
        0,
        None,
        None,
    )


def test_samples_count_from_the_beginning_of_a_canary_to_its_end() -> None:
    arms = ArmComparison(LEAST)
    put(arms, CANARY)
    arms.gaps(CANARY, [0.1])
    assert (arms.snapshot().canary.streams, arms.snapshot().canary.inter_token_p95_s) == (0, None)
    arms.begin()
    put(arms, CANARY)
    arms.end()
    put(arms, CANARY)
    assert arms.snapshot().canary.streams == 1
    arms.begin()
    assert arms.snapshot().canary.streams == 0


def test_ranks_are_those_of_mann_and_whitney() -> None:
    """Against the definition: pairs in which the one is higher, ties by half; variance over all deals."""
    one, other = [1, 2, 2, 5], [1, 2, 3]
    values = one + other

    def u(picked: tuple[int, ...]) -> float:
        rest = [values[place] for place in range(len(values)) if place not in picked]
        return sum((a > b) + (a == b) / 2 for a in (values[place] for place in picked) for b in rest)

    deals = [u(picked) for picked in combinations(range(len(values)), len(one))]
    mean = sum(deals) / len(deals)
    sd = math.sqrt(sum((deal - mean) ** 2 for deal in deals) / len(deals))
    assert z_of_ranks({1: 1, 2: 2, 5: 1}, {1: 1, 2: 1, 3: 1}) == pytest.approx((deals[0] - mean) / sd)
    assert z_of_ranks({3: 4}, {3: 9}) == 0


@pytest.mark.parametrize(("marked", "drawn", "total"), [(5, 4, 12), (3, 9, 10), (6, 6, 12), (1, 1, 2)])
def test_the_hypergeometric_tail_is_the_share_of_deals(marked: int, drawn: int, total: int) -> None:
    deals = [sum(place < marked for place in deal) for deal in combinations(range(total), drawn)]
    for got in range(max(0, drawn - total + marked), min(marked, drawn) + 1):
        exact = sum(deal >= got for deal in deals) / len(deals)
        expected = 1.0 if got * total <= marked * drawn else exact
        assert hypergeometric_tail(got, marked, drawn, total) == pytest.approx(expected)


def test_a_tail_of_large_numbers_ends() -> None:
    assert 0 < hypergeometric_tail(52_000, 100_000, 500_000, 1_000_000) < 1e-9
    assert hypergeometric_tail(50_100, 100_000, 500_000, 1_000_000) == pytest.approx(0.25, abs=0.02)


def test_a_tail_within_one_bin_says_nothing() -> None:
    assert chance_of_tail({1: 50, 9: 50}, {1: 100}) == 1.0

"""The token bucket against exact arithmetic."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.admission.token_bucket import TokenBucket

STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(-10, 30)), max_size=30)


@given(rate=st.integers(1, 7), burst=st.integers(0, 20), steps=STEPS, amount=st.integers(0, 30))
def test_level_and_ready_time_are_the_exact_ones(
    rate: int, burst: int, steps: list[tuple[int, int]], amount: int
) -> None:
    """Steps: (seconds that pass, amount taken then)."""
    bucket = TokenBucket(rate, burst, 0)
    now_s, level = 0, burst
    for after_s, taken in steps:
        now_s += after_s
        level = min(burst, level + after_s * rate)
        assert bucket.level(now_s) == level
        bucket.take(taken, now_s)
        level = min(burst, level - taken)
    wait_s = max(Fraction(0), Fraction(min(amount, burst) - level, rate))
    assert bucket.ready_at(amount, now_s) == pytest.approx(float(now_s + wait_s), abs=1e-9)


@given(
    rate=st.floats(0.001, 1e6),
    burst=st.floats(0, 1e6),
    now_s=st.floats(0, 1e6),
    taken=st.lists(st.floats(0, 1e6), max_size=5),
    amount=st.floats(0, 2e6),
)
def test_at_the_time_that_it_names_the_amount_is_ready(
    rate: float, burst: float, now_s: float, taken: list[float], amount: float
) -> None:
    """Else an owner that waits for it would wake for nothing, for ever in the worst case."""
    bucket = TokenBucket(rate, burst, now_s)
    for each in taken:
        bucket.take(each, now_s)
    ready_s = bucket.ready_at(amount, now_s)
    assert bucket.ready_at(amount, ready_s) <= ready_s


def test_a_taker_that_waits_gets_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(2, 3, 100)
    now_s, taken_s = 100.0, []
    for _ in range(7):
        now_s = max(now_s, bucket.ready_at(1, now_s))
        bucket.take(1, now_s)
        taken_s.append(now_s)
    assert taken_s == [100, 100, 100, 100.5, 101, 101.5, 102]


def test_an_amount_above_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() -> None:
    bucket = TokenBucket(10, 20, 0)
    assert bucket.ready_at(100, 0) <= 0
    bucket.take(100, 0)
    assert bucket.level(0) == -80
    assert bucket.ready_at(1, 0) == pytest.approx(8.1)
    assert bucket.ready_at(100, 0) == pytest.approx(10)


def test_what_is_given_back_is_there_at_once_up_to_the_burst() -> None:
    bucket = TokenBucket(1, 10, 0)
    bucket.take(8, 0)
    bucket.take(-5, 0)
    assert bucket.level(0) == 7
    bucket.take(-5, 0)
    assert bucket.level(0) == 10


def test_rate_zero_is_no_limit() -> None:
    bucket = TokenBucket(0, 0, 0)
    bucket.take(1e9, 0)
    assert bucket.ready_at(1e9, 1) <= 1
    assert bucket.level(1) == math.inf


def test_a_new_rate_keeps_the_level_and_counts_from_now_on() -> None:
    bucket = TokenBucket(1, 10, 0)
    bucket.take(10, 0)
    bucket.configure(5, 20, 4)
    assert bucket.level(4) == 4
    assert bucket.level(5) == 9
    assert bucket.level(100) == 20


def test_a_smaller_burst_takes_what_is_above_it() -> None:
    bucket = TokenBucket(1, 10, 0)
    bucket.configure(1, 3, 0)
    assert bucket.level(0) == 3
    bucket.configure(1, 10, 0)
    assert bucket.level(0) == 3


def test_a_bucket_that_had_no_limit_starts_full() -> None:
    bucket = TokenBucket(0, 0, 0)
    bucket.take(1000, 0)
    bucket.configure(1, 5, 10)
    assert bucket.level(10) == 5


@pytest.mark.parametrize(("rate", "burst"), [(-1, 1), (1, -1), (math.nan, 1), (1, math.nan), (math.inf, 1)])
def test_rates_that_cannot_work_are_refused_and_change_nothing(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="must be finite and not negative"):
        TokenBucket(rate, burst, 0)
    bucket = TokenBucket(1, 5, 0)
    with pytest.raises(ValueError, match="must be finite and not negative"):
        bucket.configure(rate, burst, 3)
    bucket.take(5, 3)
    assert bucket.level(5) == 2

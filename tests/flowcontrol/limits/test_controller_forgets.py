"""What was measured once is not held against a limit for ever."""

from collections.abc import Sequence

import pytest

from flowcontrol.limits.contract import StrategyName
from tests.flowcontrol.limits.windows import OPTIONS, START_S, interval, made


def test_new_options_forget_who_was_dropped() -> None:
    limit = made()
    limit.occupancy(20, waiting=True)
    limit.dropped()
    limit.configure(OPTIONS, START_S + 0.5)
    assert interval(limit) is False


def test_new_options_forget_what_was_too_high() -> None:
    limit = made(StrategyName.THRESHOLD)
    interval(limit, [3.0] * 5)
    limit.configure(limit.options, limit.next_deadline())
    interval(limit, [0.1] * 5)
    assert limit.limit == 23


def test_what_is_shown_was_measured() -> None:
    limit = made()
    interval(limit, [0.1] * 5, dropped=1)
    assert limit.ttft_load == 0.1
    limit = made()
    interval(limit, dropped=1)
    assert limit.ttft_load is None


@pytest.mark.parametrize(("loads", "latency"), [([1.2] * 10, None), ([], 1.2)])
def test_silence_is_no_evidence(loads: Sequence[float], latency: float | None) -> None:
    limit = made()
    interval(limit, loads, latency=latency)
    for _ in range(7):
        interval(limit)
    assert limit.limit == 20


def test_a_time_between_tokens_of_long_ago_says_nothing_of_now() -> None:
    limit = made()
    interval(limit, latency=1.2)
    for _ in range(100):
        interval(limit, in_flight=0, waiting=False)
    interval(limit, [1.0] * 5)
    assert limit.limit == 20

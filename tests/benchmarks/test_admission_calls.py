"""What calls come to: endings, quantiles, shares of tenants, and arrivals in phases."""

import itertools
from random import Random

import pytest

from benchmarks.admission_calls import (
    Call,
    Load,
    arrivals,
    each_second,
    served,
    shares,
    summarise,
    tenant_rates,
    tokens_per_s,
)
from service.load.attempt import Ending

_numbers = itertools.count(1)


def call(
    sent_s: float = 0.0,
    ended_s: float = 1.0,
    ending: str = Ending.ANSWERED,
    *,
    number: int | None = None,
    tries: int = 1,
    tenant: str = "",
    due_s: float | None = None,
    cause: str = "",
    retry_after_s: float | None = None,
    ttft_s: float | None = None,
    tokens: int = 0,
) -> Call:
    return Call(
        number=next(_numbers) if number is None else number,
        tries=tries,
        tenant=tenant,
        due_s=sent_s if due_s is None else due_s,
        sent_s=sent_s,
        ended_s=ended_s,
        ending=ending,
        cause=cause,
        retry_after_s=retry_after_s,
        ttft_s=ttft_s,
        tokens=tokens,
    )


def refusal(sent_s: float = 0.0, after_s: float = 0.01, *, tries: int = 1, number: int | None = None) -> Call:
    return call(
        sent_s, sent_s + after_s, Ending.REFUSED, cause="QUEUE_FULL", retry_after_s=1.0,
        tries=tries, number=number,
    )  # fmt: skip


def of_tenant(name: str, *, answered: int, refused: int = 0) -> list[Call]:
    return [call(1.0, 2.0, tenant=name) for _ in range(answered)] + [
        call(1.0, 1.1, Ending.REFUSED, tenant=name, cause="QUEUE_FULL") for _ in range(refused)
    ]


def test_summary_counts_each_ending_once() -> None:
    calls = [
        call(),
        refusal(),
        call(ending=Ending.LOST, cause="UNKNOWN"),
        call(ending=Ending.FAILED, cause="ABORTED SLOW"),
        call(ending=Ending.UNFINISHED),
        call(ending=Ending.NOT_SENT),
    ]
    summary = summarise(calls)
    counted = (summary.answered, summary.refused, summary.untyped, summary.failed, summary.cut)
    assert counted == (1, 1, 1, 1, 2)
    assert sum(counted) == summary.calls
    assert summary.refused_share == pytest.approx(1 / 6)
    assert summary.reasons == {"QUEUE_FULL": 1, "UNKNOWN": 1, "ABORTED SLOW": 1}


def test_nothing_asked_is_nothing_refused() -> None:
    summary = summarise([])
    assert (summary.refused_share, summary.late_refusals, summary.ttft_p50_s) == (0.0, None, None)


def test_refusals_are_late_when_they_come_after_a_second() -> None:
    summary = summarise(
        [refusal(after_s=0.01), refusal(after_s=0.02), refusal(after_s=0.03), refusal(after_s=4.0)]
    )
    assert summary.late_refusals == 0.25
    assert summary.refusal_p50_s == pytest.approx(0.02)


def test_p95_needs_enough_samples() -> None:
    few = [call(ttft_s=n / 10) for n in range(1, 20)]
    assert summarise(few).ttft_p95_s is None
    assert summarise(few).ttft_p50_s == pytest.approx(1.0)
    assert summarise([*few, call(ttft_s=9.0)]).ttft_p95_s == pytest.approx(1.9)


def test_untold_refusals_are_those_without_a_delay() -> None:
    assert summarise([refusal(), call(ending=Ending.REFUSED, cause="DRAINING")]).untold == 1


def test_calls_that_were_not_sent_are_not_sent_late() -> None:
    late = [call(0.5, due_s=0.2) for _ in range(20)]
    waiting = [call(9.0, due_s=0.0, ending=Ending.NOT_SENT) for _ in range(20)]
    assert summarise(late + waiting).sent_late_p95_s == pytest.approx(0.3)


def test_rate_counts_answers_that_ended_in_the_window() -> None:
    inside = [call(0.0, 1.0, tokens=10), call(0.0, 2.9, tokens=20)]
    outside = [call(0.0, 0.9, tokens=100), call(0.0, 3.0, tokens=100)]
    refused = [call(0.0, 2.0, Ending.REFUSED, tokens=100)]
    assert tokens_per_s(inside + outside + refused, 1.0, 3.0) == 15.0


def test_who_asks_for_less_than_an_equal_part_has_all_of_it_as_fair_share() -> None:
    # 12 answers: b asked for 2 and got 1; a and c share the other 10.
    calls = of_tenant("a", answered=7, refused=13) + of_tenant("b", answered=1, refused=1)
    calls += of_tenant("c", answered=4, refused=6)
    one = shares(calls, ("a", "b", "c"), 0.0, 10.0)
    assert one.share == {"a": pytest.approx(1.4), "b": 0.5, "c": pytest.approx(0.8)}
    assert one.overload == pytest.approx(32 / 12)
    assert one.jain == pytest.approx(2.7**2 / (3 * (1.4**2 + 0.5**2 + 0.8**2)))


def test_equal_parts_of_fair_shares_are_fair() -> None:
    one = shares(of_tenant("a", answered=5, refused=50) + of_tenant("b", answered=5), ("a", "b"), 0.0, 10.0)
    assert one.share == {"a": 1.0, "b": 1.0}
    assert one.jain == pytest.approx(1.0)


def test_shares_are_of_the_requests_asked_in_the_window_whenever_answered() -> None:
    refused = [call(sent_s, ending=Ending.REFUSED, tenant="a") for sent_s in (4.9, 6.0)]
    one = shares([call(5.0, 99.0, tenant="a"), *refused], ("a",), 5.0, 6.0)
    assert (one.share["a"], one.overload) == (1.0, 1.0)


def test_a_tenant_that_asked_for_nothing_has_its_share() -> None:
    assert shares(of_tenant("a", answered=3), ("a", "b"), 0.0, 10.0).share["b"] == 1.0


def test_seconds_count_calls_by_when_they_ended() -> None:
    calls = [refusal(0.0, 0.5), refusal(1.0, 1.5), refusal(1.9, 0.2), call(0.0, 1.0)]
    assert each_second(calls, Ending.REFUSED) == [1, 0, 2]
    assert each_second([], Ending.REFUSED) == []


def test_a_request_is_served_by_any_of_its_tries() -> None:
    calls = [
        refusal(1.0, number=1001),
        call(2.5, 3.0, number=1001, tries=2),
        refusal(1.5, number=1002),
        refusal(2.6, number=1002, tries=2),
        refusal(0.5, number=1003),
        call(1.6, 2.0, number=1003, tries=2),
    ]
    assert served(calls, 1.0, 2.0) == 0.5
    assert served(calls, 8.0, 9.0) == 1.0


def test_arrivals_follow_the_phases() -> None:
    times = list(arrivals([(10.0, 20.0), (0.0, 5.0), (100.0, 10.0)], Random(1)))
    assert times == sorted(times)
    calm, pause, busy = (sum(low <= t < high for t in times) for low, high in ((0, 20), (20, 25), (25, 35)))
    assert calm == pytest.approx(200, rel=0.25)
    assert busy == pytest.approx(1000, rel=0.15)
    assert pause == 0
    assert calm + busy == len(times)
    assert times == list(arrivals([(10.0, 20.0), (0.0, 5.0), (100.0, 10.0)], Random(1)))


def test_rates_add_up_and_one_is_heavy() -> None:
    rates = tenant_rates(("a", "b"), "c", 10.0, 24.0)
    assert rates == {"a": 2.0, "b": 2.0, "c": 20.0}


def test_a_load_takes_as_long_as_its_phases() -> None:
    assert Load("", [(1.0, 2.5), (0.0, 1.5)]).duration_s == 4.0

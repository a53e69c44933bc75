"""Attempts add up to the numbers that one gets by hand."""

from array import array
from typing import Any

import pytest

from penstock import (
    AbortedError,
    CancelledStreamError,
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    PenstockError,
    ProtocolError,
    UnavailableError,
)
from service.load.attempt import Attempt, Ending, ending_of
from service.load.options import Targets
from service.load.quantiles import jain, quantiles
from service.load.tally import Tally, add_up, is_good

TARGETS = Targets(ttft_s=1.0, latency_s=0.2)


def attempt(number: int = 1, *, messages: tuple[tuple[float, int], ...] = (), **changes: Any) -> Attempt:
    """An answered call, sent when it was due, at 1 s. messages: (time, tokens)."""
    given: dict[str, Any] = {"tries": 1, "tenant": "", "due_s": 1.0, "sent_s": 1.0, "ended_s": 2.0}
    made = Attempt(number, **(given | {"ending": Ending.ANSWERED} | changes))
    made.arrived_s = array("d", [time_s for time_s, _ in messages])
    made.arrived_tokens = array("I", [tokens for _, tokens in messages])
    return made


def refused(number: int, tries: int = 1, **changes: Any) -> Attempt:
    given: dict[str, Any] = {"ending": Ending.REFUSED, "cause": "QUEUE_FULL", "message": "full"}
    return attempt(number, tries=tries, **(given | changes))


def tally(*attempts: Attempt, window_s: float = 10.0, tenants: tuple[str, ...] = ()) -> Tally:
    return add_up(attempts, window_s=window_s, targets=TARGETS, tenants=tenants)


def test_quantiles_are_samples_at_the_nearest_rank() -> None:
    hundred = quantiles(reversed([float(number) for number in range(1, 101)]))
    assert (hundred.samples, hundred.p50, hundred.p95, hundred.p99) == (100, 50.0, 95.0, 99.0)
    assert quantiles([3.0, 1.0, 2.0]).p50 == 2.0
    assert quantiles([1.0, 2.0, 3.0, 4.0]).p50 == 2.0
    assert quantiles(range(1, 22)).p95 == 20


@pytest.mark.parametrize(("samples", "shown"), [(0, 0), (1, 1), (19, 1), (20, 2), (99, 2), (100, 3)])
def test_too_few_samples_have_no_quantile(samples: int, shown: int) -> None:
    numbers = quantiles([1.0] * samples)
    assert [numbers.p50, numbers.p95, numbers.p99] == [1.0] * shown + [None] * (3 - shown)


def test_jain() -> None:
    assert jain([5, 5, 5]) == 1.0
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
    assert jain([1, 2, 3]) == pytest.approx(36 / 42)
    assert jain([0, 0]) is None
    assert jain([]) is None


def test_times_of_one_call() -> None:
    one = attempt(messages=((1.5, 2), (1.7, 1), (2.5, 4)))
    assert one.tokens == 7
    assert one.ttft_s == 0.5
    # 1 s for the 5 tokens after those of the first message.
    assert one.latency_s == pytest.approx(0.2)
    assert one.gaps_s() == pytest.approx([0.2, 0.2])
    none = attempt()
    assert (none.tokens, none.ttft_s, none.latency_s, none.gaps_s()) == (0, None, 0.0, [])
    assert attempt(messages=((1.5, 3),)).latency_s == 0.0


@pytest.mark.parametrize(
    ("messages", "good"),
    [
        (((2.0, 1), (2.2, 1)), True),  # both targets just kept
        (((2.01, 1), (2.1, 1)), False),
        (((1.5, 1), (1.75, 1)), False),
        (((1.5, 1), (1.9, 2)), True),
        ((), True),
    ],
)
def test_good_answers(messages: tuple[tuple[float, int], ...], good: bool) -> None:
    kept = Targets(ttft_s=1.0, latency_s=0.2000001)
    assert is_good(attempt(messages=messages), kept) == good


def test_a_target_of_zero_is_none() -> None:
    slow = attempt(messages=((90.0, 1), (99.0, 1)))
    assert not is_good(slow, TARGETS)
    assert not is_good(slow, Targets(ttft_s=0.0, latency_s=0.2))
    assert not is_good(slow, Targets(ttft_s=1.0, latency_s=0.0))
    assert is_good(slow, Targets(ttft_s=0.0, latency_s=0.0))


def test_rates_are_of_the_window() -> None:
    numbers = tally(
        attempt(1, messages=((1.5, 10), (2.0, 20))),
        attempt(2, messages=((3.5, 8), (3.6, 1))),  # the first token is late
        attempt(3, messages=((1.1, 4), (1.2, 6)), ending=Ending.UNFINISHED),
        attempt(4, sent_s=3.5, messages=((3.9, 2), (4.1, 5)), ended_s=4.2),  # partly after the window
        window_s=4.0,
    )
    assert numbers.throughput_per_s == (30 + 9 + 10 + 2) / 4
    assert numbers.goodput_per_s == (30 + 2) / 4
    assert (numbers.good, numbers.good_tokens, numbers.output_tokens) == (2, 37, 56)
    assert tally(window_s=0.0).throughput_per_s == 0.0


def test_requests_end_as_their_last_call_did() -> None:
    numbers = tally(
        attempt(1, messages=((1.5, 1),)),
        refused(2),
        refused(3, cause="KV_EXHAUSTED", message="no memory"),
        attempt(4, ending=Ending.NOT_SENT),
        refused(2, 2, message="still full"),
        attempt(2, tries=3),
        refused(3, 2, message="full again"),
    )
    assert numbers.asked == 4
    assert numbers.retries == 3
    assert {ending: n for ending, n in numbers.endings.items() if n} == {
        Ending.ANSWERED: 2,
        Ending.REFUSED: 1,
        Ending.NOT_SENT: 1,
    }
    assert sum(numbers.endings.values()) == numbers.asked
    assert (numbers.refused_first, numbers.refused_retries) == (2, 2)
    assert numbers.refusals == {"QUEUE_FULL": 3, "KV_EXHAUSTED": 1}
    assert numbers.messages == {"QUEUE_FULL": "full", "KV_EXHAUSTED": "no memory"}
    assert numbers.lag.samples == 6  # of all but the one that was not sent


def test_failures_and_losses_by_cause() -> None:
    failed = [attempt(n, ending=Ending.FAILED, cause="INTERNAL STEP_FAILED") for n in (1, 2)]
    numbers = tally(*failed, attempt(3, ending=Ending.LOST, cause="UNAVAILABLE"))
    assert numbers.failures == {"INTERNAL STEP_FAILED": 2}
    assert numbers.losses == {"UNAVAILABLE": 1}
    assert numbers.refusals == {}


def test_times() -> None:
    numbers = tally(
        refused(1, ended_s=1.25),
        attempt(1, tries=2, due_s=3.0, sent_s=3.5, messages=((4.0, 1),), queue_s=0.25, admission_s=0.125),
    )
    assert numbers.ttft.p50 == 0.5
    assert numbers.ttft_with_retries.p50 == 3.0
    assert numbers.refusal.p50 == 0.25
    assert (numbers.queue.p50, numbers.queue.samples) == (0.25, 1)
    assert numbers.admission.p50 == 0.125
    assert [numbers.lag.samples, numbers.lag.p50] == [2, 0.0]


@pytest.mark.parametrize(("lag_s", "late"), [(0.05, False), (0.0501, True)])
def test_late_senders(lag_s: float, late: bool) -> None:
    calls = [attempt(n, due_s=0.0, sent_s=lag_s if n <= 2 else 0.0) for n in range(1, 21)]
    assert tally(*calls).late == late
    assert not tally(*calls[:2]).late  # too few to say


def test_tenants() -> None:
    numbers = tally(
        attempt(1, tenant="a", messages=((1.5, 30), (99.0, 50))),
        refused(2, tenant="b"),
        attempt(2, tries=2, tenant="b", messages=((1.5, 10),)),
        attempt(3, tenant="b", ending=Ending.FAILED),
        tenants=("a", "b", "c"),
    )
    shown = [(t.name, t.asked, t.answered, t.refused, t.tokens) for t in numbers.tenants]
    assert shown == [("a", 1, 1, 0, 30), ("b", 2, 1, 1, 10), ("c", 0, 0, 0, 0)]
    assert numbers.jain == pytest.approx(40**2 / (3 * (30**2 + 10**2)))
    assert tally(attempt(tenant="a", messages=((1.5, 1),)), tenants=("a",)).jain is None


def test_every_second_of_the_run() -> None:
    seconds = tally(
        attempt(1, sent_s=0.1, messages=((0.9, 3), (2.1, 4)), ended_s=2.2),
        refused(2, sent_s=0.2, ended_s=1.1),
        refused(2, 2, sent_s=1.9, ended_s=2.0),
        attempt(3, sent_s=1.5, ending=Ending.NOT_SENT),
    ).seconds
    rows = [(s.asked, s.not_sent, s.retried, s.answered, s.refused_first, s.refused_retries) for s in seconds]
    assert rows == [(2, 0, 0, 0, 0, 0), (1, 1, 1, 0, 1, 0), (0, 0, 0, 1, 0, 1)]
    assert [(s.second, s.tokens) for s in seconds] == [(0, 3), (1, 0), (2, 4)]
    assert tally().seconds == []


@pytest.mark.parametrize(
    ("error", "accepted", "tokens", "ending", "cause"),
    [
        (OverloadedError("", reason="QUEUE_FULL"), False, 0, Ending.REFUSED, "QUEUE_FULL"),
        (OverloadedError("", reason="QUEUE_TIMEOUT"), True, 0, Ending.REFUSED, "QUEUE_TIMEOUT"),
        (
            OverloadedError("", reason="KV_EXHAUSTED"),
            True,
            3,
            Ending.FAILED,
            "RESOURCE_EXHAUSTED KV_EXHAUSTED",
        ),
        (OverloadedError("too large"), False, 0, Ending.LOST, "RESOURCE_EXHAUSTED"),
        (UnavailableError("", reason="DRAINING"), False, 0, Ending.REFUSED, "DRAINING"),
        (UnavailableError("", reason="WORKER_LOST"), True, 0, Ending.FAILED, "UNAVAILABLE WORKER_LOST"),
        (UnavailableError("Socket closed"), True, 5, Ending.LOST, "UNAVAILABLE"),
        (AbortedError("", reason="ACK_TIMEOUT"), True, 5, Ending.FAILED, "ABORTED ACK_TIMEOUT"),
        (InvalidRequestError("", reason="X"), False, 0, Ending.FAILED, "INVALID_ARGUMENT X"),
        (DeadlineError("Deadline Exceeded"), True, 0, Ending.FAILED, "DEADLINE_EXCEEDED"),
        (DeadlineError("Deadline Exceeded"), False, 0, Ending.LOST, "DEADLINE_EXCEEDED"),
        (CancelledStreamError("closed"), True, 0, Ending.LOST, "CANCELLED"),
        (ProtocolError("", reason="PROTOCOL_ERROR"), True, 2, Ending.LOST, "PROTOCOL_ERROR"),
    ],
)
def test_how_calls_end(error: PenstockError, accepted: bool, tokens: int, ending: Ending, cause: str) -> None:
    assert ending_of(error, accepted=accepted, tokens=tokens) == (ending, cause)
